"""CORAL in closed form: features of one sample with the covariance of another."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]
ADDED = 1.0
"""Added to each variance of standardised features, so that a covariance of few rows can be inverted (the paper's)."""
CONSTANT = 1e-6
"""A feature whose spread is below this share of its values does not vary."""


def recoloured(source: Tensor, target: Tensor, added: float = ADDED) -> Tensor:
    """Return the source's features with mean, spread and (but for ``added``) covariance of the target's.

    Sun, Feng and Saenko 2016, algorithm 1: both are standardised, each by itself; the source's are whitened with
    (C_s + I)^-1/2 and recoloured with (C_t + I)^1/2. What comes of it is put in the target's own units, so that a
    head fitted to it takes target features as they are.

    Args:
        source: ``float32`` [N, D].
        target: ``float32`` [M, D].
        added: to the diagonal of both covariances.
    """
    (xs, _, _), (xt, mean, spread) = _standardised(source), _standardised(target)
    varies = (spread > 0).astype(np.float64)
    whitened = xs @ _power(_covariance(xs) + added * np.eye(xs.shape[1]), -0.5)
    coloured = whitened @ _power(_covariance(xt) + added * np.eye(xt.shape[1]), 0.5)
    return torch.from_numpy((coloured * varies * spread + mean).astype(np.float32))


def _standardised(features: Tensor) -> tuple[Array, Array, Array]:
    """Return features of mean 0 and spread 1, their means and their spreads; 0 for what does not vary."""
    x = features.double().numpy()
    mean, spread = x.mean(0), x.std(0)
    spread = np.where(spread > CONSTANT * np.maximum(np.abs(x).max(0), 1e-30), spread, 0.0)
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
    return (x - mean) * scale, mean, spread


def _covariance(x: Array) -> Array:
    """Return the covariance of centred rows."""
    found: Array = x.T @ x / len(x)
    return found


def _power(matrix: Array, power: float) -> Array:
    """Return a power of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh(matrix)
    found: Array = (vectors * np.maximum(values, 1e-12) ** power) @ vectors.T
    return found
