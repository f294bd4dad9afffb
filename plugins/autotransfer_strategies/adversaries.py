"""Adversarial terms: a discriminator learns which rows are unlabeled, and the features learn to hide it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotransfer.plugin import Step

HIDDEN = 256
"""Width of the discriminator's two layers: data here are small."""
STEEPNESS = 10.0
"""Of the schedule of the reversed gradient (the paper's gamma)."""
LARGEST = 4096
"""Features times classes up to which their product is taken whole (section 3.2 of CDAN)."""
RANDOM = 1024
"""Else it is drawn on so many random dimensions."""


class _Reversal(torch.autograd.Function):
    """The identity, whose gradient is multiplied by minus a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return -ctx.factor * gradients[0], None


def reversed_gradient(x: Tensor, factor: float) -> Tensor:
    """Return ``x``; on the way back its gradient is multiplied by ``-factor`` (Ganin et al. 2016, equations 16, 17)."""
    return _Reversal.apply(x, factor)  # type: ignore[no-any-return, no-untyped-call]


def reversal_factor(progress: float) -> float:
    """Return the factor at this share of the training: from 0 to nearly 1 (Ganin et al. 2016, section 5.2)."""
    return 2.0 / (1.0 + math.exp(-STEEPNESS * progress)) - 1.0


class FeatureAdversary(nn.Module):
    """DANN (Ganin et al. 2016): the discriminator sees the backbone's pooled output.

    Args:
        width: of what the discriminator sees.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        # Backbones differ in the scale of their features by orders of magnitude, so both samples are scaled together.
        self.scaled = nn.BatchNorm1d(width, affine=False)
        self.judge = nn.Sequential(
            nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1)
        )

    def seen(self, features: Tensor, outputs: Tensor) -> Tensor:
        """Return what the discriminator sees of rows, [B, width]."""
        return features

    def forward(self, step: Step) -> Tensor:
        """Return the discriminator's mean cross-entropy, labelled and unlabeled rows counting alike."""
        assert step.unlabeled_outputs is not None
        pairs = (step.stage_features[-1], step.outputs), (step.unlabeled_features[-1], step.unlabeled_outputs)
        parts = [self.seen(f.float(), o.float()) for f, o in pairs]
        both = reversed_gradient(self.scaled(torch.cat(parts)), reversal_factor(step.progress))
        odds = self.judge(both)[:, 0]
        marks = torch.cat([odds.new_ones(len(parts[0])), odds.new_zeros(len(parts[1]))])
        return functional.binary_cross_entropy_with_logits(odds, marks)


class ConditionalAdversary(FeatureAdversary):
    """CDAN (Long et al. 2018): the discriminator sees the product of features and chances of the classes.

    Args:
        width: of the backbone's pooled output.
        classes: number of the head's outputs.
    """

    def __init__(self, width: int, classes: int) -> None:
        drawn = width * classes > LARGEST
        super().__init__(RANDOM if drawn else width * classes)
        self.features: Tensor | None
        self.register_buffer("features", torch.randn(width, RANDOM) if drawn else None)
        self.register_buffer("chances", torch.randn(classes, RANDOM) if drawn else None)

    def seen(self, features: Tensor, outputs: Tensor) -> Tensor:
        """Return the multilinear map of features and chances, or its random projection (equations 5 and 6).

        No gradient flows through the chances, as in the authors' code.
        """
        chances = torch.softmax(outputs.detach(), 1)
        if self.features is None:
            return (chances[:, :, None] * features[:, None]).flatten(1)
        own: Tensor = features @ self.features
        return own * (chances @ self.get_buffer("chances")) / math.sqrt(RANDOM)
