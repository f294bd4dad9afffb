"""Metrics of every task, each as a plain number; one that has no meaning on the rows is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sklearn import metrics as sk

from autotransfer.protocols import Task

LOWER_IS_BETTER = frozenset({"log_loss", "rmse", "mae"})
_CLASSES = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "log_loss", "roc_auc")
METRICS: Mapping[str, tuple[str, ...]] = {
    "binary": _CLASSES,
    "multiclass": _CLASSES,
    "multilabel": ("f1", "f1_micro", "accuracy", "log_loss", "roc_auc"),
    "regression": ("rmse", "mae", "r2"),
}
Array = np.ndarray[Any, Any]


def signed(metric: str, scores: Mapping[str, float]) -> float:
    """Return a metric with its sign turned so that higher is better; minus infinity where it has no value."""
    if metric not in scores:
        return float("-inf")
    return -scores[metric] if metric in LOWER_IS_BETTER else scores[metric]


def of_classes(chances: Array, labels: Array, classes: int) -> dict[str, float]:
    """Return the metrics of one label a row; precision, recall and F1 are means over the classes.

    Args:
        chances: probabilities ``float64`` [N, classes].
        labels: class numbers ``int64`` [N].
        classes: how many there are.
    """
    chosen = chances.argmax(1)
    seen = np.unique(labels)
    every = np.arange(classes)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        labels, chosen, labels=every, average=None, zero_division=0.0
    )
    asked = np.isin(every, np.union1d(seen, np.unique(chosen)))
    scores = {
        "accuracy": float((chosen == labels).mean()),
        "balanced_accuracy": float(recall[seen].mean()),
        "precision": float(precision[asked].mean()),
        "recall": float(recall[asked].mean()),
        "f1": float(f1[asked].mean()),
        "log_loss": float(-np.log(np.clip(chances[np.arange(len(labels)), labels], 1e-15, 1)).mean()),
    }
    if len(seen) == classes == 2:
        scores["roc_auc"] = float(sk.roc_auc_score(labels, chances[:, 1]))
    elif len(seen) == classes:
        areas = [sk.roc_auc_score(labels == c, chances[:, c]) for c in range(classes)]
        scores["roc_auc"] = float(np.mean(areas))
    return scores


def of_label_sets(chances: Array, truth: Array) -> dict[str, float]:
    """Return the metrics of label sets at a threshold of one half.

    Args:
        chances: probabilities ``float64`` [N, labels].
        truth: 0 or 1, [N, labels].
    """
    chosen, real = chances >= 0.5, truth >= 0.5
    clipped = np.clip(chances, 1e-15, 1 - 1e-15)
    scores = {
        "f1": float(sk.f1_score(real, chosen, average="macro", zero_division=0.0)),
        "f1_micro": float(sk.f1_score(real, chosen, average="micro", zero_division=0.0)),
        "accuracy": float((chosen == real).all(1).mean()),
        "log_loss": float(-np.where(real, np.log(clipped), np.log1p(-clipped)).mean()),
    }
    mixed = [c for c in range(real.shape[1]) if 0 < real[:, c].sum() < len(real)]
    if mixed:
        scores["roc_auc"] = float(np.mean([sk.roc_auc_score(real[:, c], chances[:, c]) for c in mixed]))
    return scores


def of_numbers(predicted: Array, truth: Array) -> dict[str, float]:
    """Return the metrics of numbers, in the target's own unit; both arguments are [N]."""
    gap = predicted - truth
    spread = float(((truth - truth.mean()) ** 2).sum())
    scores = {"rmse": float(np.sqrt((gap**2).mean())), "mae": float(np.abs(gap).mean())}
    return scores | ({"r2": 1.0 - float((gap**2).sum()) / spread} if spread > 0 else {})


def interval(task: Task, outputs: Any, targets: Any, *, seed: int = 0, draws: int = 500) -> tuple[float, float]:
    """Return the ends of the 95 % percentile bootstrap interval of the deciding metric, over rows.

    Args:
        task: whose ``metric`` is meant.
        outputs: of the network, [N, outputs].
        targets: encoded, [N] or [N, K].
        seed: of the draws.
        draws: resamples (Efron 1979).
    """
    import torch

    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        rows = torch.from_numpy(rng.integers(0, len(targets), len(targets)))
        found = task.scores(outputs[rows], targets[rows])
        if task.metric in found:
            values.append(found[task.metric])
    if not values:
        return float("nan"), float("nan")
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


Scorer = Callable[..., dict[str, float]]
