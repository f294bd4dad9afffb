"""The winner's answers on the held-out rows, as a page tells them: taken from the one evaluation at the finish."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autotransfer.data.modalities import Shown, modality
from autotransfer.report import judged
from autotransfer.report.judged import Array, Calibration, PerClass
from autotransfer.report.words import score

if TYPE_CHECKING:
    from torch import Tensor

    from autotransfer.data import Prepared
    from autotransfer.protocols import Task

CASES = 12
"""Rows that are shown as the worst, and as many as the most uncertain."""
CHANCES = 3
"""Probabilities of a row that are shown."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row that is shown."""

    name: str
    truth: str
    answer: str
    right: bool | None
    """None: a number is never quite right."""
    loss: float
    """In nats; of a number its distance from the truth."""
    chances: tuple[tuple[str, float], ...]
    """The likeliest classes or labels, with their probabilities."""
    shown: Shown


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What there is to tell of the held-out rows beside their scores."""

    rows: int
    classes: tuple[str, ...] = ()
    confusion: Array | None = None
    """Counts ``int64`` [classes, classes], truth by answer; None: there are no classes that exclude each other."""
    per_class: tuple[PerClass, ...] = ()
    calibration: Calibration | None = None
    actual: Array | None = None
    """True numbers ``float64`` [N]; None: the task is none of numbers."""
    predicted: Array | None = None
    worst: tuple[Case, ...] = ()
    uncertain: tuple[Case, ...] = ()
    """Those among the worst are left out."""


def held_out(prepared: Prepared, outputs: Tensor) -> HeldOut | None:
    """Return what there is to tell; None where there are no held-out rows, or nothing is known of this kind of task.

    Args:
        prepared: the data.
        outputs: of the winner on the held-out rows, ``float32`` [N, outputs], in their order.
    """
    import torch

    task = prepared.task
    if not len(prepared.test) or task.name not in _TOLD:
        return None
    targets = prepared.targets[torch.from_numpy(np.asarray(prepared.test))]
    return _TOLD[task.name](_Rows(prepared), task, outputs, targets)


class _Rows:
    """The held-out rows by their places among themselves."""

    def __init__(self, prepared: Prepared) -> None:
        self.dataset = prepared.dataset
        self.numbers = np.asarray(prepared.test).tolist()
        self.kind = modality(prepared.profile.modality)

    def name(self, place: int) -> str:
        return self.dataset.row_name(self.numbers[place])

    def shown(self, place: int) -> Shown:
        """Return the row for the page; what cannot be shown says why: a report never costs a run its model."""
        try:
            return self.kind.shown(self.dataset.load(self.numbers[place]))
        except Exception as error:  # datasets and decoders of others may raise anything
            return Shown(f"not shown: {type(error).__name__}: {error}")


def _of_classes(rows: _Rows, task: Task, outputs: Tensor, targets: Tensor) -> HeldOut:
    chances, truth = task.probabilities(outputs), targets.numpy()
    answers = task.encode(task.decode(outputs).tolist()).numpy()
    right, numbers = truth == answers, np.arange(len(task.classes))
    losses = judged.class_losses(chances, truth)

    def case(place: int) -> Case:
        return Case(
            name=rows.name(place),
            truth=task.classes[truth[place]],
            answer=task.classes[answers[place]],
            right=bool(right[place]),
            loss=float(losses[place]),
            chances=_likeliest(task.classes, chances[place]),
            shown=rows.shown(place),
        )

    worst, uncertain = _places(losses, judged.entropies(chances, sets=False))
    return HeldOut(
        rows=len(truth),
        classes=task.classes,
        confusion=judged.confusion(truth, answers, len(task.classes)),
        per_class=tuple(judged.per_class(truth[:, None] == numbers, answers[:, None] == numbers, task.classes)),
        calibration=judged.calibration(chances[np.arange(len(answers)), answers], right),
        worst=tuple(map(case, worst)),
        uncertain=tuple(map(case, uncertain)),
    )


def _of_labels(rows: _Rows, task: Task, outputs: Tensor, targets: Tensor) -> HeldOut:
    chances, there = task.probabilities(outputs), targets.numpy() >= 0.5
    given = task.encode(task.decode(outputs).tolist()).numpy() >= 0.5
    losses = judged.label_losses(chances, there)

    def named(own: Array) -> str:
        return ", ".join(n for n, on in zip(task.classes, own.tolist(), strict=True) if on) or "no label"

    def case(place: int) -> Case:
        return Case(
            name=rows.name(place),
            truth=named(there[place]),
            answer=named(given[place]),
            right=bool((there[place] == given[place]).all()),
            loss=float(losses[place]),
            chances=_likeliest(task.classes, chances[place]),
            shown=rows.shown(place),
        )

    worst, uncertain = _places(losses, judged.entropies(chances, sets=True))
    return HeldOut(
        rows=len(there),
        classes=task.classes,
        per_class=tuple(judged.per_class(there, given, task.classes)),
        calibration=judged.calibration(chances.ravel(), there.ravel()),
        worst=tuple(map(case, worst)),
        uncertain=tuple(map(case, uncertain)),
    )


def _of_numbers(rows: _Rows, task: Task, outputs: Tensor, targets: Tensor) -> HeldOut:
    predicted, actual = task.decode(outputs), task.decode(targets)
    losses = np.abs(predicted - actual)

    def case(place: int) -> Case:
        return Case(
            name=rows.name(place),
            truth=score(float(actual[place])),
            answer=score(float(predicted[place])),
            right=None,
            loss=float(losses[place]),
            chances=(),
            shown=rows.shown(place),
        )

    worst, _ = _places(losses, losses)
    return HeldOut(rows=len(actual), actual=actual, predicted=predicted, worst=tuple(map(case, worst)))


_TOLD = {
    "binary": _of_classes,
    "multiclass": _of_classes,
    "multilabel": _of_labels,
    "regression": _of_numbers,
}
"""By the task's name; of others the scores alone are told."""


def _likeliest(names: Sequence[str], chances: Array) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-chances, kind="stable")[:CHANCES].tolist()
    return tuple((names[i], float(chances[i])) for i in order)


def _places(losses: Array, doubts: Array) -> tuple[list[int], list[int]]:
    """Return the rows of the largest loss, and those of the largest doubt that are not among them."""
    worst = np.argsort(-losses, kind="stable")[:CASES].tolist()
    rest: Iterator[Any] = (i for i in np.argsort(-doubts, kind="stable").tolist() if i not in worst)
    return worst, [i for i, _ in zip(rest, range(CASES), strict=False)]
