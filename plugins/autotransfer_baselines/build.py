"""The modules and fits behind the baselines."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold, cross_val_score
from torch import Tensor, nn

from autotransfer.plugin import FittedState, HeadState

COMPONENTS = 256
"""Principal components kept: more of 3,072 pixels only slow the fit."""
PCA_ROWS = 4096
"""Rows that the components are fitted on."""
CONSTANT = 1e-6
"""Values that differ by less are taken for equal."""
EXACT = 512
"""Up to this many rows or pixels the decomposition is exact; beyond, randomised (seeded), 20 times faster."""
CHOICE_ROWS = 2048
"""Rows that the penalty is chosen on."""
PENALTIES = (0.01, 0.1, 1.0, 10.0)
"""scikit-learn's C, for features whose largest standard deviation is 1."""
AFFORDED = 5e10
"""Products that a logistic regression may take, about half a minute of a core: thousands of classes or hundreds of
thousands of rows get fewer steps, and are judged by their score like the others."""
FEWEST_STEPS = 20
DEFAULT_PENALTY = 0.1
"""Where there are too few rows to choose."""
FOLDS = 3
SPARSE = 0.1
"""Features of which fewer are not zero are fitted as sparse ones, many times faster."""
NEVER = -30.0
"""Logit of a class without training rows."""
Array = np.ndarray[Any, Any]


class Pixels(nn.Module):
    """Flattened pixels, centred and projected on principal components fitted on training rows.

    All components share one scale, so that the penalty of a linear model acts as it would on the pixels.
    """

    mean: Tensor
    basis: Tensor

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("basis", torch.zeros(1, 1))

    def fit(self, rows: Iterable[Any], targets: Tensor) -> FittedState:
        """Return mean [P] and basis [P, components] of the first rows' pixels."""
        parts, count = [], 0
        for batch in rows:
            parts.append(batch.flatten(1))
            count += len(batch)
            if count >= PCA_ROWS:
                break
        pixels = torch.cat(parts)[:PCA_ROWS].numpy()
        mean = pixels.mean(0, dtype=np.float64)
        keep = min(COMPONENTS, len(pixels) - 1, pixels.shape[1])
        if keep < 1 or float(np.ptp(pixels, axis=0).max()) < CONSTANT:
            basis = np.zeros((pixels.shape[1], 1))
        else:
            solver = "full" if min(pixels.shape) <= EXACT else "randomized"
            found = PCA(n_components=keep, svd_solver=solver, random_state=0).fit(pixels)
            basis = found.components_.T / np.sqrt(found.explained_variance_[0])
        return FittedState(
            tensors={
                "mean": torch.tensor(mean, dtype=torch.float32),
                "basis": torch.tensor(np.ascontiguousarray(basis), dtype=torch.float32),
            }
        )

    def restore(self, state: FittedState) -> None:
        """Take on mean and basis."""
        self.mean = state.tensors["mean"].clone()
        self.basis = state.tensors["basis"].clone()

    def forward(self, images: Tensor) -> Tensor:
        """Return ``float32`` [B, components]."""
        return (images.flatten(1) - self.mean) @ self.basis


class Nothing(nn.Module):
    """One constant feature, so that only the frequencies of the classes are learned."""

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()

    def fit(self, rows: Iterable[Any], targets: Tensor) -> FittedState:
        """Return an empty state."""
        return FittedState()

    def restore(self, state: FittedState) -> None:
        """There is nothing to take on."""

    def forward(self, rows: Any) -> Tensor:
        """Return zeros [B, 1]."""
        return torch.zeros(len(rows), 1, device=getattr(rows, "device", None))


def logistic_head(features: Tensor, targets: Tensor, groups: Tensor | None = None) -> HeadState:
    """Return a linear head [outputs, width] on raw features.

    Class numbers give a softmax head, 0-1 rows a sigmoid for each label, other floats a ridge regression. Features
    are centred and share one scale while it is fitted; both are folded into the weights. Where no feature varies,
    the head gives the frequencies of the classes, or the mean.

    Args:
        features: ``float32`` [N, width].
        targets: class numbers ``int64`` [N], or ``float32`` [N, K].
        groups: number of each row's group, ``int64`` [N]: the folds that a classifier's penalty is chosen on hold each
            whole. None: rows stand for themselves.
    """
    members = None if groups is None else groups.numpy()
    raw = features.double().numpy()
    thin = np.count_nonzero(raw) < SPARSE * raw.size
    mean, spread = raw.mean(0), float(raw.std(0).max(initial=0.0))
    varies = spread > CONSTANT * max(1.0, float(np.abs(raw).max(initial=0.0)))
    if thin:  # centring would fill the zeros; the intercept does its work
        mean = np.zeros_like(mean)
    x = (sparse.csr_matrix(raw / spread) if thin else (raw - mean) / spread) if varies else None
    if not torch.is_floating_point(targets):
        weight, bias = _softmax(x, targets.numpy(), raw.shape[1], members)
    else:
        y = targets.double().numpy()
        single = [_column(x, y[:, k], raw.shape[1], members) for k in range(y.shape[1])]
        weight, bias = np.stack([w for w, _ in single]), np.asarray([b for _, b in single])
    weight = weight / spread if varies else weight
    return HeadState(
        weight=torch.tensor(weight, dtype=torch.float32),
        bias=torch.tensor(bias - weight @ mean, dtype=torch.float32),
    )


def _softmax(x: Array | None, labels: Array, width: int, groups: Array | None) -> tuple[Array, Array]:
    counts = np.bincount(labels)
    present = np.flatnonzero(counts)
    weight, bias = np.zeros((len(counts), width)), np.full(len(counts), NEVER)
    if x is None or len(present) < 2:
        bias[present] = np.log(counts[present] / len(labels))
        return weight, bias
    model = _fitted(x, labels, groups)
    if len(present) == 2:
        weight[present[1]], bias[present] = model.coef_[0], (0.0, model.intercept_[0])
    else:
        weight[present], bias[present] = model.coef_, model.intercept_
    return weight, bias


def _column(x: Array | None, y: Array, width: int, groups: Array | None) -> tuple[Array, float]:
    """Return weights and bias of one output: a logit where its targets are 0 and 1, else a number."""
    share = float(y.mean())
    if not np.isin(y, (0.0, 1.0)).all():
        if x is None or not y.std() > 0:
            return np.zeros(width), share
        if sparse.issparse(x):
            return _ridge(x, y, groups)
        apart = None if groups is None or len(np.unique(groups)) < 2 else _number_folds(len(y), groups)
        ridge = RidgeCV(alphas=np.logspace(-2, 5, 15), cv=apart).fit(x, y)  # without folds: leave-one-out
        return ridge.coef_, float(ridge.intercept_)
    if x is None or share in (0.0, 1.0):
        share = min(max(share, 0.5 / len(y)), 1 - 0.5 / len(y))  # as if half a row were otherwise
        return np.zeros(width), float(np.log(share / (1 - share)))
    model = _fitted(x, y.astype(np.int64), groups)
    return model.coef_[0], float(model.intercept_[0])


def _ridge(x: Any, y: Array, groups: Array | None) -> tuple[Array, float]:
    """Return ridge weights on sparse features, the penalty of the best cross-validated squared error."""
    few, wanted = x[:CHOICE_ROWS], y[:CHOICE_ROWS]
    folds = _number_folds(len(wanted), None if groups is None else groups[:CHOICE_ROWS])

    def error(alpha: float) -> float:
        found = cross_val_score(_sparse_ridge(alpha), few, wanted, cv=folds, scoring="neg_mean_squared_error")
        return float(-found.mean())

    best = min(np.logspace(-1, 4, 6), key=error) if len(y) >= 2 * FOLDS else 10.0
    model = _sparse_ridge(float(best)).fit(x, y)
    return model.coef_, float(model.intercept_)


def _number_folds(rows: int, groups: Array | None) -> list[tuple[Array, Array]]:
    """Return row numbers to fit on and to judge by, of each fold; each group is in one fold."""
    count = min(FOLDS, rows if groups is None else len(np.unique(groups)))
    if groups is None or count < 2:
        return list(KFold(max(2, min(FOLDS, rows)), shuffle=True, random_state=0).split(np.zeros(rows)))
    return list(GroupKFold(count).split(np.zeros(rows), groups=groups))


def _sparse_ridge(alpha: float) -> Any:
    return Ridge(alpha=alpha, solver="sparse_cg", tol=1e-4)


def _fitted(x: Array, labels: Array, groups: Array | None) -> Any:
    with warnings.catch_warnings():
        # An unconverged fit is still the best of its penalty; it is judged by its score like the others.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="The number of unique classes")  # so be it: it was said of the data
        steps = _steps(x, labels, 500, AFFORDED)
        return LogisticRegression(C=_penalty(x, labels, groups), max_iter=steps).fit(x, labels)


def _steps(x: Any, labels: Array, most: int, afforded: float) -> int:
    """Return how many steps of a solver come to no more products than can be afforded; a few in any case."""
    entries = x.nnz if sparse.issparse(x) else x.size
    # A step passes over the entries forth and back, and some fifty times over all weights in L-BFGS's own vectors.
    products = (4.0 * entries + 50.0 * x.shape[1]) * len(np.unique(labels))
    return int(min(most, max(FEWEST_STEPS, afforded / products)))


def _penalty(x: Array, labels: Array, groups: Array | None = None) -> float:
    """Return the C of the best cross-validated accuracy on classes that have a row for each fold."""
    x, labels = x[:CHOICE_ROWS], labels[:CHOICE_ROWS]
    many = np.bincount(labels)[labels] >= FOLDS
    x, labels = x[many], labels[many]
    if len(np.unique(labels)) < 2:
        return DEFAULT_PENALTY
    cuts = list(_folds(labels, None if groups is None else groups[:CHOICE_ROWS][many]))
    if any(len(np.unique(labels[train])) < 2 for train, _ in cuts):
        return DEFAULT_PENALTY  # the classes lie in different groups
    steps = _steps(x, labels, 300, AFFORDED / (FOLDS * len(PENALTIES)))
    if steps == FEWEST_STEPS:  # with so few steps penalties cannot be told apart
        return DEFAULT_PENALTY
    tried = {c: cross_val_score(LogisticRegression(C=c, max_iter=steps), x, labels, cv=cuts).mean() for c in PENALTIES}
    return max(PENALTIES, key=lambda c: tried[c])


def _folds(labels: Array, groups: Array | None) -> Iterable[tuple[Array, Array]]:
    """Yield row numbers to fit on and to judge by, of each fold; each group is in one fold."""
    count = FOLDS if groups is None else min(FOLDS, len(np.unique(groups)))
    kind = StratifiedKFold if groups is None or count < 2 else StratifiedGroupKFold
    splitter = kind(count if count > 1 else FOLDS, shuffle=True, random_state=0)
    yield from splitter.split(labels, labels, groups if kind is StratifiedGroupKFold else None)
