"""Thresholds: logits shifted so that the deciding metric is at its best, where held-back rows say that it helps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotransfer.protocols import Task
from autotransfer.tasks.metrics import MEASURES

DECISIONS = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "f1_micro")
"""Metrics that a threshold changes: of decisions, not of probabilities."""
MOST, STEPS = 1.5, 61
"""Largest shift, in log priors, and how many are tried from its negative to it."""
LABELS = 4.0
"""Largest shift of a label's logit."""
FOLDS = 5
DRAWS, SURE = 100, 0.9
"""Resamples of the rows, and the share of them in which a shift must help."""
ENTRIES = 1_000_000
"""Outputs that are looked at, at most: evenly spaced rows where there are more."""
Array = np.ndarray[Any, Any]
Measure = Callable[[Array, Array], float]
"""From outputs [n, K] and truth [n] or [n, K], higher is better."""


@dataclass(frozen=True)
class Shift:
    """What to add to the outputs of a model, and what it is expected to bring."""

    values: tuple[float, ...]
    """One an output."""
    before: float
    """The metric on the rows without it."""
    after: float
    """With it, each fifth of the rows shifted as the other four say."""


def best_shift(task: Task, outputs: Any, targets: Any, priors: Any) -> Shift | None:
    """Return the shift of the logits with which the metric is at its best; None where it is not shown to help.

    Classes have one threshold for all: a multiple of their log priors, from those of the rows as they are to those of
    equal classes and beyond (Menon et al. 2021, section 4.1, tau chosen on held-back rows). Of two classes it is any
    threshold; of more it is little enough to be chosen on few rows. Labels judged by macro F1 have one each (Yang
    2001, SCut), by other metrics one for all. A shift is kept only where, chosen on four fifths of the rows, it raises
    the metric on the last one, each of them in turn, and does so in nine of ten bootstrap resamples of the rows.

    Args:
        task: whose outputs these are; of classes or labels.
        outputs: on validation rows, ``float32`` [N, K].
        targets: of the same rows, encoded.
        priors: log of each class's share of the training rows, ``float32`` [K].
    """
    if task.metric not in DECISIONS or not task.classes or len(targets) < 2 * FOLDS:
        return None
    some = np.unique(np.linspace(0, len(targets) - 1, min(len(targets), max(1, ENTRIES // task.outputs))).astype(int))
    logits, truth = outputs.double().numpy()[some], targets.numpy()[some]
    if truth.ndim == 1:
        log_priors = priors.double().numpy()
        return _shown(logits, truth, truth, MOST * (log_priors.mean() - log_priors), _classes(task))
    measure = _labels(task)
    if task.metric != "f1":
        return _shown(logits, truth, truth.sum(1), np.full(task.outputs, LABELS), measure)
    found = [
        _shown(logits[:, [c]], truth[:, [c]], truth[:, c], np.full(1, LABELS), measure) for c in range(task.outputs)
    ]
    if not any(found):
        return None
    values = tuple(0.0 if one is None else one.values[0] for one in found)
    before = [measure(logits[:, [c]], truth[:, [c]]) for c in range(task.outputs)]
    after = [b if one is None else one.after for b, one in zip(before, found, strict=True)]
    return Shift(values, float(np.mean(before)), float(np.mean(after)))


def _classes(task: Task) -> Measure:
    measure = MEASURES[task.name][task.metric]
    return lambda logits, truth: float(measure(logits, truth) or 0.0)  # decisions are the largest, of logits too


def _labels(task: Task) -> Measure:
    measure = MEASURES[task.name][task.metric]
    return lambda logits, truth: float(measure((logits >= 0).astype(float), truth) or 0.0)


def _shown(logits: Array, truth: Array, strata: Array, direction: Array, measure: Measure) -> Shift | None:
    """Return the best shift along a direction, where it helps on rows that took no part in choosing it."""
    kinds, counts = np.unique(strata, return_counts=True)
    if len(kinds) < 2 or counts.max() < 2 or (truth.shape[1:] == (1,) and counts.min() < 2):
        return None
    folds = np.empty(len(truth), dtype=int)
    folds[np.argsort(strata, kind="stable")] = np.arange(len(truth)) % FOLDS
    shifted = logits.copy()
    for fold in range(FOLDS):
        rest, own = folds != fold, folds == fold
        shifted[own] += _chosen(logits[rest], truth[rest], direction, measure) * direction
    before, after = measure(logits, truth), measure(shifted, truth)
    if not after > before or not _surely(logits, shifted, truth, measure):
        return None
    step = _chosen(logits, truth, direction, measure)
    return Shift(tuple((step * direction).tolist()), before, after)


def _surely(logits: Array, shifted: Array, truth: Array, measure: Measure) -> bool:
    rng = np.random.default_rng(0)
    draws = (rng.integers(0, len(truth), len(truth)) for _ in range(DRAWS))
    better = sum(measure(shifted[rows], truth[rows]) > measure(logits[rows], truth[rows]) for rows in draws)
    return bool(better >= SURE * DRAWS)


def _chosen(logits: Array, truth: Array, direction: Array, measure: Measure) -> float:
    """Return the share of the direction with the best value: the middle of the best ones about the smallest."""
    shares = np.linspace(-1.0, 1.0, STEPS)
    values = np.array([measure(logits + s * direction, truth) for s in shares])
    best = np.flatnonzero(values >= values.max() - 1e-12)
    runs = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    return float(shares[min(runs, key=lambda run: float(np.abs(shares[run]).min()))].mean())
