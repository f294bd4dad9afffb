"""Loss terms of the regularised strategies."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from autotransfer.plugin import Step

DISTANCE, SIZE = 0.01, 0.01
"""Weights of the distance from the start and of the head's size: alpha and beta."""
SHRINKAGE, VALUES = 1e-3, 1
"""Weight of the smallest singular values, and how many there are: eta and k."""


class Distance(nn.Module):
    """``alpha / 2 |w - w0|^2 + beta / 2 |v|^2`` over the backbone's trained parameters w and the head's, v."""

    def __init__(self, backbone: nn.Module, head: nn.Module, initial: Mapping[str, Tensor]) -> None:
        super().__init__()
        # In lists, so that they are neither parameters nor children of this module.
        self.pairs = [(p, initial[n]) for n, p in backbone.named_parameters()]
        self.head = [*head.parameters()]

    def forward(self, step: Step) -> Tensor:
        """Return a scalar."""
        apart = [(p - start).square().sum() for p, start in self.pairs if p.requires_grad]
        total = 0.5 * SIZE * torch.stack([p.square().sum() for p in self.head]).sum()
        return total + 0.5 * DISTANCE * torch.stack(apart).sum() if apart else total


class SmallestValues(nn.Module):
    """``eta`` times the sum of the k smallest squared singular values of the features [B, width] of a batch."""

    def forward(self, step: Step) -> Tensor:
        """Return a scalar."""
        values: Tensor = torch.linalg.svdvals(step.stage_features[-1].float())
        return SHRINKAGE * values[-VALUES:].square().sum()
