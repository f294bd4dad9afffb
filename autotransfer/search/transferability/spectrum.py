"""One eigendecomposition of features, from which every closed-form estimator is read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autotransfer.errors import PluginContractError
from autotransfer.strategy import even_spread

CONSTANT = 1e-6
"""A feature whose spread is below this share of its largest value is constant: ``float32`` cannot tell its values."""
_NOTHING = 1e-30
"""Features this small count as zero: weights on them would leave the range of ``float32``."""
_EPSILON = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Spectrum:
    """Centred (and standardised) features F = sqrt(N) U diag(sqrt(s)) V', of rank r."""

    mean: Tensor
    """``float64`` [D], of the raw features."""
    scale: Tensor
    """``float64`` [D]: raw features minus the mean are multiplied by it; 0 for constant ones."""
    left: Tensor
    """U ``float64`` [N, r], orthonormal columns."""
    values: Tensor
    """s ``float64`` [r], ascending: the eigenvalues of F'F / N above rounding."""
    _side: Tensor
    """V [D, r] where N >= D, else F itself [N, D]: V is then never formed."""

    @property
    def rows(self) -> int:
        """N."""
        return self.left.shape[0]

    @property
    def width(self) -> int:
        """D, constant features included."""
        return self.mean.shape[0]

    @property
    def varying(self) -> int:
        """The number of features that are not constant."""
        return int((self.scale > 0).sum())

    def scores(self) -> Tensor:
        """Return the principal component scores P = F V, ``float64`` [N, r]."""
        return self.left * (self.rows * self.values).sqrt()

    def weights(self, coefficients: Tensor) -> Tensor:
        """Return V times coefficients [r, K]: weights on the raw features, ``float64`` [D, K]."""
        if self.rows >= self.width:
            own = self._side @ coefficients
        else:
            own = self._side.T @ (self.left @ (coefficients / (self.rows * self.values).sqrt()[:, None]))
        return own * self.scale[:, None]


def decompose(features: Tensor, *, standardise: bool = True) -> Spectrum:
    """Return the spectrum of features, from the Gram matrix of their smaller side.

    Costs O(N D min(N, D)). Eigenvalues below the rounding of the Gram matrix are left out.

    Args:
        features: [N, D], any float dtype; arithmetic is in ``float64``.
        standardise: give each feature that varies unit variance, or less where it hardly varies; False: centre only.

    Raises:
        ValueError: not a matrix of two or more rows.
        PluginContractError: values that are not finite.
    """
    if features.ndim != 2 or features.shape[0] < 2:
        raise ValueError(f"features have the shape {tuple(features.shape)}; wanted [N, D] with two or more rows")
    f = features.to(torch.float64, copy=True)  # changed in place below
    if not f.isfinite().all():
        raise PluginContractError(
            "the backbone gives values that are not finite (NaN or infinity); wanted finite features"
        )
    mean, scale = _statistics(f, standardise)
    f.sub_(mean).mul_(scale)
    rows, width = f.shape
    if width <= rows:
        values, basis = _eigen(f.T @ f / rows, max(rows, width))
        return Spectrum(mean, scale, f @ basis / (rows * values).sqrt(), values, basis)
    values, left = _eigen(f @ f.T / rows, max(rows, width))
    return Spectrum(mean, scale, left, values, f)


def _statistics(f: Tensor, standardise: bool) -> tuple[Tensor, Tensor]:
    """Return mean and multiplier of each feature; sums are taken at unit peak, so that no square overflows."""
    peak = f.abs().amax(0) if f.numel() else f.new_zeros(f.shape[1])
    unit = torch.where(peak > _NOTHING, peak, torch.ones_like(peak))
    shrunk = f / unit
    middle = shrunk.mean(0)
    spread = (shrunk - middle).square().mean(0).sqrt()
    varies = (peak > _NOTHING) & (spread > CONSTANT)
    own = even_spread(unit * spread, varies)
    if not standardise and bool(varies.any()):
        own = own[varies].max().expand_as(own)
    scale = torch.where(varies, 1.0 / torch.where(varies, own, torch.ones_like(own)), torch.zeros_like(own))
    return middle * unit, scale


def _eigen(gram: Tensor, size: int) -> tuple[Tensor, Tensor]:
    if not gram.numel():
        return gram.new_zeros(0), gram.new_zeros(gram.shape[0], 0)
    values, vectors = torch.linalg.eigh(gram)
    keep = values > 4 * size * _EPSILON * values[-1].clamp_min(_NOTHING)
    return values[keep], vectors[:, keep]
