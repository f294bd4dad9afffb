"""Metrics of every task, each as a plain number; one that has no meaning on the rows is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.stats import rankdata

from autotransfer.protocols import Task

LOWER_IS_BETTER = frozenset({"log_loss", "rmse", "mae"})
EVEN = frozenset({"balanced_accuracy", "recall"})
"""Metrics that count classes alike, whatever their size."""
BETWEEN = frozenset({"f1", "f1_micro"})
"""Metrics whose best threshold lies somewhere between that of the rows as they are and that of equal classes."""
Array = np.ndarray[Any, Any]
Measure = Callable[[Array, Array], float | None]
FEWEST = 5
"""Rows below which no interval is told."""
_SORTED = 40_000_000
"""Probabilities that an interval sorts: some 5 s of one core."""
_TINY = 1e-15
"""Probabilities are kept this far from 0 and 1 in a logarithm."""


def counts_alike(task: str, metric: str) -> bool:
    """Return whether a recipe's balance is for one of several targets with this task, judged by this metric.

    That is what a search balances where the target stands alone: classes, judged by a metric that counts them alike or
    whose best threshold does so in part.
    """
    return task in ("binary", "multiclass") and metric in EVEN | BETWEEN


def signed(metric: str, scores: Mapping[str, float]) -> float:
    """Return a metric with its sign turned so that higher is better; minus infinity where it has no value."""
    if metric not in scores:
        return float("-inf")
    return -scores[metric] if metric in LOWER_IS_BETTER else scores[metric]


def ceiling(metric: str) -> float:
    """Return the highest value that :func:`signed` can have."""
    return 0.0 if metric in LOWER_IS_BETTER else 1.0


def measured(task: str, predicted: Array, truth: Array) -> dict[str, float]:
    """Return every metric of a task that has a value on these rows; none where there are no rows.

    Args:
        task: its name.
        predicted: probabilities ``float64`` [N, classes], or numbers [N].
        truth: class numbers ``int64`` [N], 0 or 1 [N, labels], or numbers [N].
    """
    if not len(truth):
        return {}
    found = {name: measure(predicted, truth) for name, measure in MEASURES[task].items()}
    return {name: float(value) for name, value in found.items() if value is not None}


def deciding(task: Task, outputs: Any, targets: Any) -> float:
    """Return the task's objective on these rows without its other metrics; equal to that of all its scores.

    Args:
        task: whose outputs these are.
        outputs: of the network, ``float32`` [N, outputs].
        targets: encoded, [N] or [N, K].
    """
    measure = MEASURES.get(task.name, {}).get(task.metric)
    if measure is None or not len(targets):
        return task.objective(task.scores(outputs, targets))
    predicted = task.probabilities(outputs) if task.classes else task.decode(outputs)
    value = measure(predicted, targets.numpy() if task.classes else task.decode(targets))
    return task.objective({} if value is None else {task.metric: float(value)})


def interval(
    task: Task, outputs: Any, targets: Any, metric: str | None = None, *, seed: int = 0, draws: int = 1000
) -> tuple[float, float]:
    """Return the ends of the 95 % percentile bootstrap interval of a metric, over rows (Efron 1979).

    Resamples on which the metric has no value (an AUC of one class alone) are left out; both ends are
    NaN where it has none on any.

    Args:
        task: whose outputs these are.
        outputs: of the network, ``float32`` [N, outputs].
        targets: encoded, [N] or [N, K].
        metric: None: the one that decides.
        seed: of the resamples.
        draws: number of resamples; an AUC of many classes, which sorts, gets fewer, but 200 at least.
    """
    metric = metric or task.metric
    measure = MEASURES[task.name][metric]
    numbers = not task.classes
    predicted = task.decode(outputs) if numbers else task.probabilities(outputs)
    truth = task.decode(targets) if numbers else targets.numpy()
    draws = fewer(draws, metric, predicted)
    return resampled(lambda rows: measure(predicted[rows], truth[rows]), len(truth), seed, draws)


def fewer(draws: int, metric: str, predicted: Array) -> int:
    """Return how many resamples an interval can afford: an AUC of many classes sorts each."""
    sorts = metric == "roc_auc" and predicted.size
    return min(draws, max(200, _SORTED // predicted.size)) if sorts else draws


def resampled(measure: Callable[[Array], float | None], count: int, seed: int, draws: int) -> tuple[float, float]:
    """Return the ends of the 95 % percentile bootstrap interval of what a measure gives for row numbers ``int64`` [n].

    Resamples for which it gives None are left out; both ends are NaN where that is all of them, and where there are
    fewer than ``FEWEST`` rows: so few give the same value again and again, which is no certainty.
    """
    rng, values = np.random.default_rng(seed), []
    for _ in range(draws if count >= FEWEST else 0):
        value = measure(rng.integers(0, count, count))
        if value is not None:
            values.append(value)
    if not values:
        return float("nan"), float("nan")
    low, high = np.quantile(values, (0.025, 0.975))
    if low == high == 1.0:  # every row is right: what an exact interval has (Clopper and Pearson 1934)
        low = 0.025 ** (1.0 / count)
    return float(low), float(high)


def _accuracy(chances: Array, labels: Array) -> float:
    return float((chances.argmax(1) == labels).mean())


def _hits(chances: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Return for each class how often it was rightly chosen, chosen, and there."""
    classes, chosen = chances.shape[1], chances.argmax(1)
    right = np.bincount(labels[chosen == labels], minlength=classes)
    return right, np.bincount(chosen, minlength=classes), np.bincount(labels, minlength=classes)


def _balanced_accuracy(chances: Array, labels: Array) -> float:
    right, _, there = _hits(chances, labels)
    return float((right[there > 0] / there[there > 0]).mean())


def _precision(chances: Array, labels: Array) -> float:
    right, chosen, there = _hits(chances, labels)
    return float((right / np.maximum(chosen, 1))[chosen + there > 0].mean())


def _recall(chances: Array, labels: Array) -> float:
    right, chosen, there = _hits(chances, labels)
    return float((right / np.maximum(there, 1))[chosen + there > 0].mean())


def _f1(chances: Array, labels: Array) -> float:
    right, chosen, there = _hits(chances, labels)
    met = chosen + there > 0
    return float((2 * right[met] / (chosen + there)[met]).mean())


def _log_loss(chances: Array, labels: Array) -> float:
    return float(-np.log(np.clip(chances[np.arange(len(labels)), labels], _TINY, 1)).mean())


def _areas(chances: Array, there: Array) -> Array:
    """Return the area under the ROC curve of each column, NaN where it is always or never there.

    It is the share of pairs that are ranked rightly, ties counted half (Mann and Whitney 1947).
    """
    positive = there.sum(0)
    pairs = positive * (len(there) - positive)
    ranks = np.where(there, rankdata(chances, axis=0), 0.0).sum(0)
    return np.where(pairs > 0, (ranks - positive * (positive + 1) / 2) / np.maximum(pairs, 1), np.nan)


def _area_of_classes(chances: Array, labels: Array) -> float | None:
    columns = np.arange(chances.shape[1])
    columns = columns[1:] if len(columns) == 2 else columns  # of two classes both areas are one
    return _set_area(chances[:, columns], labels[:, None] == columns)


def _set_f1(chances: Array, truth: Array) -> float:
    chosen, there = chances >= 0.5, truth >= 0.5
    both = (chosen & there).sum(0)
    return float((2 * both / np.maximum(chosen.sum(0) + there.sum(0), 1)).mean())


def _set_f1_micro(chances: Array, truth: Array) -> float:
    chosen, there = chances >= 0.5, truth >= 0.5
    return float(2 * (chosen & there).sum() / max(1, chosen.sum() + there.sum()))


def _set_accuracy(chances: Array, truth: Array) -> float:
    return float(((chances >= 0.5) == (truth >= 0.5)).all(1).mean())


def _set_log_loss(chances: Array, truth: Array) -> float:
    clipped = np.clip(chances, _TINY, 1 - _TINY)
    return float(-np.where(truth >= 0.5, np.log(clipped), np.log1p(-clipped)).mean())


def _set_area(chances: Array, truth: Array) -> float | None:
    """Return the mean area of the columns that have one; None where none has."""
    areas = _areas(chances, truth >= 0.5)
    known = areas[~np.isnan(areas)]
    return float(known.mean()) if known.size else None


def _rmse(predicted: Array, truth: Array) -> float:
    return float(np.sqrt(((predicted - truth) ** 2).mean()))


def _mae(predicted: Array, truth: Array) -> float:
    return float(np.abs(predicted - truth).mean())


def _r2(predicted: Array, truth: Array) -> float | None:
    if truth.min() == truth.max():  # the spread about a rounded mean may be a little more than none
        return None
    return 1.0 - float(((predicted - truth) ** 2).sum()) / float(((truth - truth.mean()) ** 2).sum())


_CLASSES: Mapping[str, Measure] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "precision": _precision,
    "recall": _recall,
    "f1": _f1,
    "log_loss": _log_loss,
    "roc_auc": _area_of_classes,
}
MEASURES: Mapping[str, Mapping[str, Measure]] = {
    "binary": _CLASSES,
    "multiclass": _CLASSES,
    "multilabel": {
        "f1": _set_f1,
        "f1_micro": _set_f1_micro,
        "accuracy": _set_accuracy,
        "log_loss": _set_log_loss,
        "roc_auc": _set_area,
    },
    "regression": {"rmse": _rmse, "mae": _mae, "r2": _r2},
}
"""By task and name: a function of predictions and truth, as :func:`measured` takes them. Precision, recall, F1
and the AUC of classes are plain means over the classes; a class that is neither there nor chosen does not count, for
the AUC none that is not there."""
METRICS: Mapping[str, tuple[str, ...]] = {task: tuple(own) for task, own in MEASURES.items()}
