"""Rows of a batch mixed two by two: Mixup and CutMix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotransfer.errors import PluginContractError

MIXED = ("mixup", "cutmix")
"""Kinds of augmentation that mix rows."""
MIXUP, CUTMIX = 0.2, 1.0
"""Both parameters of the beta distribution that shares are drawn from: the papers' for images of 1,000 classes."""


@dataclass(frozen=True)
class Mix:
    """Which row each row of a batch is mixed with, and how."""

    partner: Tensor
    """``int64`` [B]."""
    share: float
    """Of the row itself in what it becomes; the rest is its partner's."""
    box: tuple[int, int, int, int] | None = None
    """Top, left, bottom and right of the patch that is the partner's; None: both lie over each other."""

    def inputs(self, values: Tensor) -> Tensor:
        """Return inputs or features [B, ...] mixed."""
        other = values[self.partner.to(values.device)]
        if self.box is None:
            return self.share * values + (1.0 - self.share) * other
        top, left, bottom, right = self.box
        made = values.clone()
        made[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
        return made

    def loss(self, loss: Callable[[Tensor], Tensor], targets: Tensor) -> Tensor:
        """Return the loss of both rows' targets, each by its share (Zhang et al. 2018, section 2)."""
        return self.share * loss(targets) + (1.0 - self.share) * loss(targets[self.partner.to(targets.device)])


def is_image(inputs: Any) -> bool:
    """Return whether inputs are images [B, C, H, W], which are mixed themselves; of others the features are."""
    return isinstance(inputs, Tensor) and inputs.dim() == 4


def draw(kind: str, inputs: Any, count: int, rng: np.random.Generator) -> Mix:
    """Return how to mix a batch.

    ``mixup`` (Zhang et al. 2018) takes the mean of two rows, by a share for the whole batch; of texts and sounds that
    of their pooled features (Guo et al. 2019, senMixup). ``cutmix`` (Yun et al. 2019, eq. 2) puts a patch of one image
    into another; the share is what the patch leaves, after it was cut off at the border.

    Args:
        kind: ``mixup`` or ``cutmix``.
        inputs: of the batch.
        count: its rows.
        rng: random numbers.

    Raises:
        PluginContractError: patches of something that is no image.
    """
    partner = torch.from_numpy(rng.permutation(count))
    if kind == "mixup":
        return Mix(partner, float(rng.beta(MIXUP, MIXUP)))
    if not is_image(inputs):
        raise PluginContractError("augment is 'cutmix', which is for images; wanted 'mixup', 'light' or 'strong' here")
    height, width = inputs.shape[2:]
    side = (1.0 - rng.beta(CUTMIX, CUTMIX)) ** 0.5
    top, bottom = _ends(height, side, rng)
    left, right = _ends(width, side, rng)
    return Mix(partner, 1.0 - (bottom - top) * (right - left) / (height * width), (top, left, bottom, right))


def _ends(size: int, side: float, rng: np.random.Generator) -> tuple[int, int]:
    half, middle = int(size * side) // 2, int(rng.integers(size))
    return max(0, middle - half), min(size, middle + half)
