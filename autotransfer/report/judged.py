"""Numbers about answers whose truth is known: who was taken for whom, calibration, losses of single rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

BINS = 10
"""Of a reliability diagram, of equal width."""
_TINY = 1e-15
"""Probabilities are kept this far from 0 and 1 in a logarithm."""
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Answers whose probability lies in one stretch of [0, 1]."""

    low: float
    high: float
    count: int
    chance: float
    """Their mean probability."""
    right: float
    """Share of them that came true."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Whether probabilities are what they say."""

    bins: tuple[Bin, ...]
    """Those with an answer in them, in order."""
    error: float
    """Expected calibration error: the mean distance of ``chance`` and ``right``, weighted by ``count``."""
    overall: float
    """Mean probability less the share that came true: above 0 where the answers are too sure of themselves."""


@dataclass(frozen=True, kw_only=True)
class PerClass:
    """How one class, or one label, was met."""

    name: str
    rows: int
    """That have it."""
    answered: int
    """Rows for which it was given."""
    right: int
    precision: float
    """NaN where it was never given."""
    recall: float
    """NaN where no row has it."""
    f1: float


def confusion(truth: Array, answers: Array, classes: int) -> Array:
    """Return how often each class (row) was taken for each class (column), ``int64`` [classes, classes].

    Args:
        truth: class numbers ``int64`` [N].
        answers: the same.
        classes: number of classes.
    """
    counts = np.bincount(truth * classes + answers, minlength=classes * classes)
    return counts.reshape(classes, classes)


def per_class(there: Array, given: Array, names: tuple[str, ...]) -> list[PerClass]:
    """Return the account of each class from what rows have and were given, ``bool`` [N, classes]."""
    found = []
    for name, rows, answered, right in zip(
        names, there.sum(0).tolist(), given.sum(0).tolist(), (there & given).sum(0).tolist(), strict=True
    ):
        ratios = (right / answered if answered else np.nan, right / rows if rows else np.nan)
        f1 = 2 * right / (rows + answered) if rows + answered else np.nan
        found.append(
            PerClass(name=name, rows=rows, answered=answered, right=right, precision=ratios[0], recall=ratios[1], f1=f1)
        )
    return found


def calibration(chances: Array, came: Array, bins: int = BINS) -> Calibration:
    """Return how probabilities fit what came true.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks (arXiv 1706.04599), equations 1 to 3, with bins
    (0, 1/M], ..., ((M - 1)/M, 1]; a probability of 0 belongs to the first.

    Args:
        chances: probabilities ``float64`` [N]: of the answers given, or of single labels.
        came: whether they came true, ``bool`` [N].
        bins: number of bins M.
    """
    places = np.clip(np.ceil(chances * bins).astype(np.int64) - 1, 0, bins - 1)
    found = []
    for place in np.unique(places).tolist():
        inside = places == place
        found.append(
            Bin(
                low=place / bins,
                high=(place + 1) / bins,
                count=int(inside.sum()),
                chance=float(chances[inside].mean()),
                right=float(came[inside].mean()),
            )
        )
    error = sum(b.count * abs(b.chance - b.right) for b in found) / max(1, len(chances))
    overall = float(chances.mean() - came.mean()) if len(chances) else 0.0
    return Calibration(bins=tuple(found), error=error, overall=overall)


def class_losses(chances: Array, truth: Array) -> Array:
    """Return the log loss of each row, in nats, from probabilities [N, classes] and class numbers [N]."""
    losses: Array = -np.log(np.clip(chances[np.arange(len(truth)), truth], _TINY, 1.0))
    return losses


def label_losses(chances: Array, there: Array) -> Array:
    """Return the mean log loss over the labels of each row, in nats, from probabilities and truth, [N, labels]."""
    clipped = np.clip(chances, _TINY, 1 - _TINY)
    losses: Array = -np.where(there, np.log(clipped), np.log1p(-clipped)).mean(1)
    return losses


def entropies(chances: Array, *, sets: bool) -> Array:
    """Return how uncertain the answer to each row is: the entropy of its probabilities [N, classes], in nats.

    Args:
        chances: of classes that exclude each other, or of labels.
        sets: labels, each there or not for itself: the mean of their entropies.
    """
    clipped = np.clip(chances, _TINY, 1 - _TINY)
    own = -clipped * np.log(clipped)
    found: Array = (own - (1 - clipped) * np.log1p(-clipped)).mean(1) if sets else own.sum(1)
    return found
