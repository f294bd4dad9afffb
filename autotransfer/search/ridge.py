"""Ridge regression with exact leave-one-out predictions for many regularisations at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LAMBDAS = torch.logspace(-6, 2, 17, dtype=torch.float64)
"""Regularisations, in units of the mean variance of the features."""
_TINY = 1e-12


@dataclass(frozen=True)
class Ridge:
    """The solution at the regularisation whose leave-one-out error is least."""

    weight: Tensor
    """``float64`` [K, D]."""
    bias: Tensor
    """``float64`` [K]."""
    left_out: Tensor
    """Leave-one-out predictions ``float64`` [N, K]."""
    penalty: float
    """The regularisation, in the features' own units."""


def ridge(features: Tensor, targets: Tensor) -> Ridge:
    """Return the ridge solution with the least squared leave-one-out error.

    One eigendecomposition of the smaller Gram matrix serves every regularisation. With centred F = P V',
    ``yhat = ybar + P (s + l)^-1 P'Y/N`` and leverage ``h_i = 1/N + 1/N sum_k P_ik^2 / (s_k + l)``, the
    prediction for a row left out is ``y - (y - yhat) / (1 - h)`` (Allen 1974, PRESS).

    Args:
        features: [N, D], any float dtype; arithmetic is in ``float64``.
        targets: [N, K].
    """
    f, y = features.double(), targets.double()
    rows = f.shape[0]
    mean, middle = f.mean(0), y.mean(0)
    f, y = f - mean, y - middle
    projected, spectrum, basis = _spectrum(f)
    if not spectrum.numel():
        left = middle - y / max(1, rows - 1)
        return Ridge(f.new_zeros(y.shape[1], f.shape[1]), middle, left, 0.0)
    answers = projected.T @ y / rows
    squares = projected**2 / rows
    best: tuple[float, Tensor, Tensor, float] | None = None
    for penalty in (LAMBDAS * spectrum.sum() / f.shape[1]).tolist():
        shrink = 1.0 / (spectrum + penalty)
        residual = y - projected @ (shrink[:, None] * answers)
        free = (1.0 - 1.0 / rows - squares @ shrink).clamp_min(1e-9)
        left = y - residual / free[:, None]
        error = float(((y - left) ** 2).mean())
        if best is None or error < best[0]:
            best = (error, left, shrink, penalty)
    assert best is not None
    weight = (basis @ (best[2][:, None] * answers)).T
    return Ridge(weight, middle - weight @ mean, best[1] + middle, best[3])


def _spectrum(f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return P = F V [N, r], the eigenvalues s of F'F/N [r] and V [D, r], from the smaller side."""
    rows, width = f.shape
    if width <= rows:
        values, vectors = torch.linalg.eigh(f.T @ f / rows)
        keep = values > _TINY * max(rows, width) * values.max().clamp_min(_TINY)
        basis = vectors[:, keep]
        return f @ basis, values[keep], basis
    values, vectors = torch.linalg.eigh(f @ f.T / rows)
    keep = values > _TINY * max(rows, width) * values.max().clamp_min(_TINY)
    values, vectors = values[keep], vectors[:, keep]
    scale = (values * rows).sqrt()
    return vectors * scale, values, f.T @ vectors / scale
