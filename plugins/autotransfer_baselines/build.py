"""The modules and fits behind the baselines."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import StratifiedKFold, cross_val_score
from torch import Tensor, nn

from autotransfer.plugin import FittedState, HeadState

COMPONENTS = 256
"""Principal components kept: more of 3,072 pixels only slow the fit."""
PCA_ROWS = 4096
CHOICE_ROWS = 2048
"""Rows that the penalty is chosen on."""
PENALTIES = (0.001, 0.01, 0.1, 1.0)


class Pixels(nn.Module):
    """Flattened pixels, centred and projected on principal components fitted on training rows."""

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
        pixels = torch.cat(parts).double().numpy()
        keep = min(COMPONENTS, len(pixels) - 1, pixels.shape[1])
        solver = PCA(n_components=max(1, keep), svd_solver="full", random_state=0).fit(pixels)
        scale = np.sqrt(np.maximum(solver.explained_variance_[0], 1e-12))
        basis = solver.components_.T / scale
        return FittedState(
            tensors={
                "mean": torch.tensor(solver.mean_, dtype=torch.float32),
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

    def forward(self, images: Tensor) -> Tensor:
        """Return zeros [B, 1]."""
        return torch.zeros(len(images), 1, device=images.device)


def logistic_head(features: Tensor, targets: Tensor) -> HeadState:
    """Return a linear head [outputs, width] on raw features.

    Class numbers give a softmax head, 0-1 rows a sigmoid for each label, other floats a ridge regression.
    """
    x = features.double().numpy()
    if not torch.is_floating_point(targets):
        labels = targets.numpy()
        return _state(*_softmax(x, labels, int(labels.max()) + 1))
    y = targets.double().numpy()
    if np.isin(y, (0.0, 1.0)).all():
        rows = [_sigmoid(x, y[:, k].astype(np.int64)) for k in range(y.shape[1])]
        return _state(np.stack([w for w, _ in rows]), np.asarray([b for _, b in rows]))
    if not x.std(0).any():
        return _state(np.zeros((y.shape[1], x.shape[1])), y.mean(0))
    ridge = RidgeCV(alphas=np.logspace(-2, 5, 15)).fit(x, y)
    return _state(np.reshape(ridge.coef_, (y.shape[1], -1)), np.reshape(ridge.intercept_, -1))


def _softmax(x: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], classes: int) -> tuple[Any, Any]:
    present = np.unique(labels)
    weight, bias = np.zeros((classes, x.shape[1])), np.full(classes, -30.0)
    if not x.std(0).any() or len(present) < 2:
        share = np.bincount(labels, minlength=classes) / len(labels)
        return weight, np.log(np.maximum(share, 1e-13))
    model = _fitted(x, labels)
    if len(present) == 2:
        weight[present[1]], bias[present] = model.coef_[0], (0.0, model.intercept_[0])
    else:
        weight[present], bias[present] = model.coef_, model.intercept_
    return weight, bias


def _sigmoid(x: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> tuple[Any, float]:
    share = labels.mean()
    if not x.std(0).any() or share in (0.0, 1.0):
        odds = np.clip(share, 1e-6, 1 - 1e-6)
        return np.zeros(x.shape[1]), float(np.log(odds / (1 - odds)))
    model = _fitted(x, labels)
    return model.coef_[0], float(model.intercept_[0])


def _fitted(x: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Any:
    with warnings.catch_warnings():
        # An unconverged fit is still the best of its penalty; it is judged by its score like the others.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=_penalty(x, labels), max_iter=500).fit(x, labels)


def _penalty(x: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float:
    x, labels = x[:CHOICE_ROWS], labels[:CHOICE_ROWS]
    rarest = np.bincount(labels)[np.unique(labels)].min()
    if rarest < 3:
        return 0.1
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    tried = {c: cross_val_score(LogisticRegression(C=c, max_iter=300), x, labels, cv=folds).mean() for c in PENALTIES}
    return max(PENALTIES, key=lambda c: tried[c])


def _state(weight: Any, bias: Any) -> HeadState:
    return HeadState(weight=torch.tensor(weight, dtype=torch.float32), bias=torch.tensor(bias, dtype=torch.float32))
