"""What the winner's answers on the held-out rows come to: confusions, calibration, scores of labels, losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autotransfer.tasks import Several

if TYPE_CHECKING:
    from torch import Tensor

    from autotransfer.protocols import Dataset, Task

Array = np.ndarray[Any, Any]
BINS = 10
"""Of a reliability diagram, all of one width."""
OTHERS = "others"
_TINY = 1e-15


@dataclass(frozen=True)
class HeldOut:
    """The held-out rows and the winner's answers on them."""

    task: Task
    dataset: Dataset
    rows: Array
    """Their numbers in the dataset, ``int64`` [N]."""
    outputs: Tensor
    """Of the network, ``float32`` [N, outputs]."""
    targets: Tensor
    """Encoded by the task, [N] or [N, K]."""

    def each(self) -> list[tuple[str, HeldOut]]:
        """Return each of several targets and the rows that have its label; else these rows, their target unnamed."""
        if not isinstance(self.task, Several):
            return [("", self)]
        found = []
        for part in self.task.parts:
            rows, own = part.labelled(self.targets)
            outputs = self.outputs[rows][:, part.outputs]
            found.append((part.target, HeldOut(part.task, self.dataset, self.rows[rows.numpy()], outputs, own)))
        return found

    def losses(self) -> Array:
        """Return the task's loss on each row alone, ``float64`` [N]."""
        pairs = zip(self.outputs.split(1), self.targets.split(1), strict=True)
        return np.array([float(self.task.loss(outputs, targets)) for outputs, targets in pairs])

    def doubts(self) -> Array | None:
        """Return the entropy of each row's answer in nats, ``float64`` [N]; None where there are no probabilities.

        Of a set of labels it is the mean over the labels.
        """
        if not self.task.classes:
            return None
        chances = self.task.probabilities(self.outputs)
        if self.targets.ndim == 2:
            chances = np.stack([chances, 1 - chances])
            return np.asarray(entropy(chances).sum(0).mean(1))
        return np.asarray(entropy(chances).sum(1))


@dataclass(frozen=True)
class Confusion:
    """How often which class was taken for which."""

    names: tuple[str, ...]
    """Of the classes shown; the last may stand for all others."""
    counts: Array
    """Rows by true class and predicted class, ``int64`` [C, C]."""
    folded: int
    """Classes that the last one stands for; 0: it stands for itself."""


@dataclass(frozen=True)
class Calibration:
    """How often answers of like probability are right."""

    counts: Array
    """Answers in each bin of (0, 0.1], (0.1, 0.2] ..., ``int64`` [10]."""
    confidence: Array
    """Mean probability in each bin, ``float64`` [10], NaN where there is none."""
    accuracy: Array
    """Share of right answers in each bin, likewise."""
    error: float
    """Expected calibration error: the mean distance of the two, by answer."""


@dataclass(frozen=True)
class LabelScore:
    """How well one label is told."""

    name: str
    rows: int
    """That have it."""
    predicted: int
    """That were said to have it."""
    precision: float | None
    recall: float | None
    f1: float | None


def entropy(chances: Array) -> Array:
    """Return ``-p log p``, 0 at 0."""
    return -chances * np.log(np.maximum(chances, _TINY))


def confusion(predicted: Array, truth: Array, names: Sequence[str], most: int = 20) -> Confusion:
    """Return the counts of true and predicted classes.

    Of more than ``most`` classes those with the most mistakes are shown, in their own order, and the rest is folded
    into one; a mistake between two of these lies on its diagonal then.

    Args:
        predicted: class numbers ``int64`` [N].
        truth: the same.
        names: of the classes.
        most: classes that are shown, the folded ones counting as one.
    """
    count = len(names)
    whole = np.bincount(truth * count + predicted, minlength=count * count).reshape(count, count)
    if count <= most:
        return Confusion(tuple(names), whole, 0)
    wrong = whole.sum(0) + whole.sum(1) - 2 * whole.diagonal()
    shown = np.sort(np.argsort(-wrong, kind="stable")[: most - 1])
    place = np.full(count, most - 1)
    place[shown] = np.arange(most - 1)
    folded = np.zeros((most, most), np.int64)
    np.add.at(folded, (place[:, None], place[None]), whole)
    return Confusion((*(names[i] for i in shown), OTHERS), folded, count - most + 1)


def calibration(chances: Array, right: Array) -> Calibration:
    """Return the bins of a reliability diagram and the expected calibration error.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2, equations 3 and 5 with M = 10.

    Args:
        chances: probability of each answer, ``float64`` [N].
        right: whether it is right, ``bool`` [N].
    """
    bins = np.clip(np.ceil(chances * BINS).astype(np.int64) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    some = np.where(counts > 0, counts, 1)
    confidence = np.where(counts > 0, np.bincount(bins, chances, BINS) / some, np.nan)
    accuracy = np.where(counts > 0, np.bincount(bins, right, BINS) / some, np.nan)
    distance = np.nan_to_num(np.abs(accuracy - confidence))
    return Calibration(counts, confidence, accuracy, float((counts * distance).sum() / max(1, counts.sum())))


def label_scores(chosen: Array, truth: Array, names: Sequence[str]) -> list[LabelScore]:
    """Return precision, recall and F1 of each label; one that divides by zero is None.

    Args:
        chosen: ``bool`` [N, labels].
        truth: ``bool`` [N, labels].
        names: of the labels.
    """
    both, said, there = (chosen & truth).sum(0), chosen.sum(0), truth.sum(0)
    return [
        LabelScore(
            name=name,
            rows=int(there[i]),
            predicted=int(said[i]),
            precision=_share(both[i], said[i]),
            recall=_share(both[i], there[i]),
            f1=_share(2 * both[i], said[i] + there[i]),
        )
        for i, name in enumerate(names)
    ]


def thinned(count: int, most: int) -> Array:
    """Return at most so many of ``count`` row numbers, evenly spaced, ``int64``."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _share(part: Any, of: Any) -> float | None:
    return float(part / of) if of else None
