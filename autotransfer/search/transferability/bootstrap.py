"""Which backbone is best, and how surely: a paired bootstrap over rows."""

from __future__ import annotations

import torch
from torch import Tensor

_DRAWN = 2_000_000
"""Row numbers drawn at once (16 MB)."""


def chance_of_best(losses: Tensor, *, draws: int = 1000, seed: int = 0) -> Tensor:
    """Return the share of resamples in which each backbone has the least mean loss, ``float64`` [B], of sum 1.

    The same rows are drawn for every backbone (Efron 1979, paired), so what is hard for all of them cancels. Equal
    losses share a resample.

    Args:
        losses: of each row of each backbone, the same rows in the same order, [B, N].
        draws: number of resamples.
        seed: of the resamples.

    Raises:
        ValueError: no backbone, no row, no draw, or losses that are not finite.
    """
    if losses.ndim != 2 or not losses.numel() or draws < 1:
        raise ValueError(f"got losses {tuple(losses.shape)} and {draws} draws; wanted [B, N], each 1 or more")
    if not losses.isfinite().all():
        raise ValueError("losses hold values that are not finite; leave that backbone out")
    own = losses.double()
    backbones, rows = own.shape
    generator = torch.Generator().manual_seed(seed)
    wins, left = own.new_zeros(backbones), draws
    while left:
        some = min(left, max(1, _DRAWN // rows))
        drawn = torch.randint(rows, (some, rows), generator=generator)
        counts = own.new_zeros(some, rows).scatter_add_(1, drawn, own.new_ones(1).expand(some, rows))
        sums = counts @ own.T
        best = sums <= sums.amin(1, keepdim=True) + 1e-9 * own.abs().mean()
        wins += (best / best.sum(1, keepdim=True)).sum(0)
        left -= some
    return wins / draws
