"""Ridge regression as a head: scikit-learn chooses the penalty, leave-one-out predictions the temperature."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve, solve
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
"""Rows that choose the penalty and the temperature at most; more no longer change them."""
CHUNK_ROWS = 4096
"""Rows that are held in double precision at one time, where all would be more than the solution needs."""
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
    data = _Data(features, targets)
    x, y = data.part(slice(0, CHOICE_ROWS))
    folds = None if groups is None else _folds(groups[:CHOICE_ROWS].numpy())
    penalty = float(RidgeCV(alphas=PENALTIES * len(x), cv=folds).fit(x, y).alpha_)
    weight, left_out = data.solution(penalty, x, y)
    bias = data.centre
    if not targets.is_floating_point():
        labels = targets[: len(y)].numpy()
        sharp = temperature(left_out, lambda logits: -log_softmax(logits, 1)[np.arange(len(y)), labels])
        weight, bias = weight * sharp, bias * sharp
    elif bool(((targets == 0) | (targets == 1)).all()):
        sharp = temperature(left_out - 0.5, lambda logits: np.logaddexp(0.0, np.where(y > 0, -logits, logits)))
        weight, bias = weight * sharp, (bias - 0.5) * sharp
    weight = weight * data.scale
    return HeadState(
        weight=torch.tensor(weight, dtype=torch.float32),
        bias=torch.tensor(bias - weight @ data.mean, dtype=torch.float32),
    )


class _Data:
    """Rows to fit, standardised in double precision a few at a time: all of them may be more than memory holds."""

    def __init__(self, features: Tensor, targets: Tensor) -> None:
        self.features = features
        self.targets = targets
        self.outputs = targets.shape[1] if targets.is_floating_point() else int(targets.max()) + 1
        count = len(features)
        self.mean, self.scale = np.zeros(features.shape[1]), np.ones(features.shape[1])
        mean = sum(x.sum(0) for x, _ in self.parts()) / count
        spread = np.sqrt(sum(((x - mean) ** 2).sum(0) for x, _ in self.parts()) / count)
        most = torch.maximum(features.amax(0).abs(), features.amin(0).abs())
        varies = spread > CONSTANT * np.maximum(most.double().numpy(), 1e-30)
        even = even_spread(torch.from_numpy(spread), torch.from_numpy(varies)).numpy()
        self.centre: Array = sum(y.sum(0) for _, y in self.parts()) / count
        self.mean, self.scale = mean, np.where(varies, 1.0 / np.where(varies, even, 1.0), 0.0)

    def part(self, rows: slice) -> tuple[Array, Array]:
        """Return standardised features [n, D] and targets [n, K] of these rows."""
        features, targets = self.features[rows], self.targets[rows]
        shares = targets.double().numpy() if targets.is_floating_point() else np.eye(self.outputs)[targets.numpy()]
        return (features.double().numpy() - self.mean) * self.scale, shares

    def parts(self) -> Iterator[tuple[Array, Array]]:
        """Yield all rows, some at a time."""
        for start in range(0, len(self.features), CHUNK_ROWS):
            yield self.part(slice(start, start + CHUNK_ROWS))

    def solution(self, penalty: float, x: Array, y: Array) -> tuple[Array, Array]:
        """Return the same as :func:`solution` for all rows, but left-out predictions for the first ones alone.

        Args:
            penalty: above 0.
            x: standardised features of the first rows [n, D].
            y: targets of the first rows [n, K].
        """
        count, width = self.features.shape
        if width > count or count == len(x):
            weight, left_out = solution(*((x, y) if count == len(x) else self.part(slice(None))), penalty)
            return weight, left_out[: len(x)]
        gram, cross = penalty * np.eye(width), np.zeros((width, self.outputs))
        for some, targets in self.parts():
            gram += some.T @ some
            cross += some.T @ (targets - self.centre)
        factor = cho_factor(gram, overwrite_a=True)
        weight = cho_solve(factor, cross)
        leverage = (x.T * cho_solve(factor, x.T)).sum(0)
        return weight.T, _left_out(y, y - self.centre - x @ weight, leverage, count)


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
    return weight.T, _left_out(y, residual, leverage, count)


def _left_out(y: Array, residual: Array, leverage: Array, count: int) -> Array:
    """Return what models of ``count`` rows without one predict for it."""
    free = np.maximum(1.0 - 1.0 / count - leverage, 1e-9)
    predicted: Array = y - residual / free[:, None]
    return predicted


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
