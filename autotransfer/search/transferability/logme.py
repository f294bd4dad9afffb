"""LogME: the log evidence of a Bayesian linear model of the targets, corrected for N < D."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from autotransfer.search.transferability.spectrum import Spectrum

_GRID = torch.logspace(-10, 4, 57, dtype=torch.float64)
"""Ratios t of weight precision to noise precision, in units of the largest eigenvalue."""
_REFINEMENTS = 3
_SMALL = 1e-12


def logme(spectrum: Spectrum, targets: Tensor) -> float | None:
    """Return the mean over columns of the maximal log evidence per degree of freedom; None where no column varies.

    The model of You et al. (2021, eq. 2 and 5): y = F w + e, w ~ N(0, 1 / alpha), e ~ N(0, 1 / beta), here on
    centred y, which has N - 1 degrees of freedom (a flat prior on the intercept). With t = alpha / beta, z = (U'y)^2
    and r0 the part of y outside U, the best beta is (N - 1) / (r0 + sum z t / (s + t)), and what is left,

        L(t) = 1/2 sum_k ln(t / (s_k + t)) + (N - 1)/2 (ln beta - 1 - ln 2 pi),

    is maximised over t on a grid and by parabolas, for all columns at once. The maximum is that of the published
    fixed point, without its drift where y can be interpolated. The published code counts D instead of r terms
    ln alpha, which is wrong where the rank r < D.

    Args:
        spectrum: of the features [N, D].
        targets: [N, K], any float dtype.
    """
    y = targets.double()
    rows, freedom = spectrum.rows, spectrum.rows - 1
    deviation = y.std(0, correction=0)
    varies = deviation > _SMALL * torch.linalg.vector_norm(y, torch.inf, dim=0)
    if not bool(varies.any()):
        return None
    y = y if bool(varies.all()) else y[:, varies]
    mean, deviation, u = y.mean(0), deviation[varies], spectrum.left
    # Unit variance makes every guard free of the targets' unit; the density is scaled back at the end.
    z = ((u.T @ y - u.sum(0)[:, None] * mean) / deviation).square()
    outside = (rows - z.sum(0)).clamp_min(_SMALL * rows)
    s = spectrum.values * rows
    largest = s[-1] if s.numel() else s.new_ones(())
    grid = _GRID * largest
    parts = grid[:, None] / (s + grid[:, None])  # [G, r]
    curve = _profiled(parts.log().sum(1)[:, None], outside + parts @ z, freedom)
    best = _refined(curve, s / largest, z, outside, freedom)
    return float((best / freedom - deviation.log()).mean())


def _profiled(log_terms: Tensor, residual: Tensor, freedom: int) -> Tensor:
    return 0.5 * log_terms + freedom / 2 * ((freedom / residual).log() - 1 - math.log(2 * math.pi))


def _refined(curve: Tensor, s: Tensor, z: Tensor, outside: Tensor, freedom: int) -> Tensor:
    """Return the maximum of each column [K], from its values on the grid [G, K]: parabolas in ln t."""
    at = curve.argmax(0)
    best = curve.gather(0, at[None])[0]
    inner = at.clamp(1, len(_GRID) - 2)
    left, middle, right = (curve.gather(0, (inner + step)[None])[0] for step in (-1, 0, 1))
    place, width = _GRID.log()[inner], math.log(float(_GRID[1] / _GRID[0]))
    for _ in range(_REFINEMENTS):
        bend = left - 2 * middle + right
        move = torch.where(bend < 0, 0.5 * (left - right) / torch.where(bend < 0, bend, -torch.ones_like(bend)), 0.0)
        place, width = place + width * move.clamp(-1, 1), width / 8
        left, middle, right = (_at(place + step * width, s, z, outside, freedom) for step in (-1, 0, 1))
        best = torch.maximum(best, torch.maximum(middle, torch.maximum(left, right)))
    return best


def _at(log_t: Tensor, s: Tensor, z: Tensor, outside: Tensor, freedom: int) -> Tensor:
    t = log_t.exp()
    parts = t / (s[:, None] + t)  # [r, K]
    residual = outside + (parts * z).sum(0)
    return _profiled(parts.log_().sum(0), residual, freedom)
