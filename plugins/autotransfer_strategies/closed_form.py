"""Ridge regression as a head: scikit-learn chooses the penalty, leave-one-out predictions the temperature."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.linalg import solve
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from torch import Tensor

from autotransfer.plugin import HeadState, even_spread

Array = np.ndarray[Any, Any]
PENALTIES = np.logspace(-6, 2, 17)
"""In units of the variance of a feature, for a row."""
CHOICE_ROWS = 8192
"""Rows that choose the penalty at most; more no longer change it."""
FOLDS = 5
"""Where rows come in groups."""
CONSTANT = 1e-6
"""A feature whose spread is below this share of its values is not used."""
SHARPEST = 1000.0
"""Largest factor between shares and logits."""


def ridge_head(features: Tensor, targets: Tensor, groups: Tensor | None = None) -> HeadState:
    """Return the ridge solution with the least squared leave-one-out error, on raw features.

    Class numbers and 0-1 rows are fitted as shares; the temperature that makes them logits is the one with which
    the leave-one-out predictions have the least cross-entropy (Guo et al. 2017, On calibration, section 4.2).

    Args:
        features: ``float32`` [N, width].
        targets: class numbers ``int64`` [N], or ``float32`` [N, K].
        groups: ``int64`` [N] of rows that are alike: the penalty is judged on groups that it has not seen.
    """
    raw = features.double().numpy()
    y = _shares(targets)
    mean, spread = raw.mean(0), raw.std(0)
    varies = spread > CONSTANT * np.maximum(np.abs(raw).max(0), 1e-30)
    even = even_spread(torch.from_numpy(spread), torch.from_numpy(varies)).numpy()
    scale = np.where(varies, 1.0 / np.where(varies, even, 1.0), 0.0)
    x = (raw - mean) * scale
    first = slice(0, CHOICE_ROWS)
    folds = None if groups is None else _folds(groups[first].numpy())
    penalty = float(RidgeCV(alphas=PENALTIES * len(x[first]), cv=folds).fit(x[first], y[first]).alpha_)
    weight, left_out = solution(x, y, penalty)
    bias = y.mean(0)
    if not targets.is_floating_point():
        sharp = temperature(left_out, lambda logits: -log_softmax(logits, 1)[np.arange(len(y)), targets.numpy()])
        weight, bias = weight * sharp, bias * sharp
    elif np.isin(y, (0.0, 1.0)).all():
        sharp = temperature(left_out - 0.5, lambda logits: np.logaddexp(0.0, np.where(y > 0, -logits, logits)))
        weight, bias = weight * sharp, (bias - 0.5) * sharp
    weight = weight * scale
    return HeadState(
        weight=torch.tensor(weight, dtype=torch.float32),
        bias=torch.tensor(bias - weight @ mean, dtype=torch.float32),
    )


def solution(x: Array, y: Array, penalty: float) -> tuple[Array, Array]:
    """Return weights [K, D] and exact leave-one-out predictions [N, K] of one ridge regression with intercept.

    A left-out prediction is ``y - (y - yhat) / (1 - h)`` with the leverage h (Allen 1974); the smaller of the two
    Gram matrices is solved.

    Args:
        x: centred features [N, D].
        y: targets [N, K].
        penalty: above 0.
    """
    count, width = x.shape
    apart = y - y.mean(0)
    if width <= count:
        solved = solve(x.T @ x + penalty * np.eye(width), x.T, assume_a="pos")
        weight = solved @ apart
        residual, leverage = apart - x @ weight, (x.T * solved).sum(0)
    else:
        inverse = solve(x @ x.T + penalty * np.eye(count), np.eye(count), assume_a="pos")
        dual = inverse @ apart
        weight = x.T @ dual
        residual, leverage = penalty * dual, 1.0 - penalty * inverse.diagonal()
    free = np.maximum(1.0 - 1.0 / count - leverage, 1e-9)
    return weight.T, y - residual / free[:, None]


def _folds(groups: Array) -> list[tuple[Array, Array]] | None:
    """Return row numbers to fit on and to judge by, each group in one fold; None where there is one group."""
    count = min(FOLDS, len(np.unique(groups)))
    return list(GroupKFold(count).split(groups, groups=groups)) if count > 1 else None


def temperature(shares: Array, losses: Any) -> float:
    """Return the factor between shares and logits with the least mean loss (which is convex in it)."""
    found = minimize_scalar(
        lambda power: float(losses(np.exp(power) * shares).mean()),
        bounds=(0.0, np.log(SHARPEST)),
        method="bounded",
    )
    return float(np.exp(found.x))


def _shares(targets: Tensor) -> Array:
    if targets.is_floating_point():
        return targets.double().numpy()
    labels = targets.numpy()
    shares: Array = np.eye(int(labels.max()) + 1)[labels]
    return shares
