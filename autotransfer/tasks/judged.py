"""How good a network's outputs are: by task, where there are several targets by target, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from autotransfer.schema import Evaluation
from autotransfer.tasks import metrics
from autotransfer.tasks.metrics import MEASURES, Array, fewer, resampled, signed
from autotransfer.tasks.several import Part, Several

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from autotransfer.protocols import Task


def scores_of(task: Task, outputs: Tensor, targets: Tensor) -> dict[str, dict[str, float]]:
    """Return every metric by the name of the task; of several targets, by that of the target."""
    return task.each(outputs, targets) if isinstance(task, Several) else {task.name: task.scores(outputs, targets)}


def deciding(task: Task, outputs: Tensor, targets: Tensor) -> float:
    """Return the task's objective on these rows without its other metrics; equal to that of all its scores."""
    return task.decided(outputs, targets) if isinstance(task, Several) else metrics.deciding(task, outputs, targets)


def evaluation(task: Task, outputs: Tensor, targets: Tensor, seed: int = 0) -> Evaluation:
    """Return the scores of a network with 95 % intervals of what decides, over all and for each of several targets.

    Args:
        task: whose outputs these are.
        outputs: ``float32`` [N, outputs].
        targets: encoded, [N] or [N, K].
        seed: of the bootstrap.
    """
    scores = task.scores(outputs, targets)
    each = dict[str, Evaluation]()
    if isinstance(task, Several):
        ends = _interval(task, outputs, targets, seed)
        for part in task.parts:
            own, wanted = part.of(outputs, targets)
            each[part.target] = evaluation(part.task, own, wanted, seed)
    else:
        ends = metrics.interval(task, outputs, targets, seed=seed)
    return Evaluation(
        metric=task.metric,
        value=scores.get(task.metric, float("nan")),
        low=ends[0],
        high=ends[1],
        rows=len(targets),
        scores=scores_of(task, outputs, targets) if each else {task.name: scores},
        each=each,
    )


def _interval(task: Several, outputs: Tensor, targets: Tensor, seed: int, draws: int = 1000) -> tuple[float, float]:
    """Return the interval of the mean skill: all targets of a row are drawn together."""
    rows = len(targets)
    known: list[tuple[Part, Callable[[Array], float | None]]] = []
    for part in task.parts:
        own, wanted = part.of(outputs, targets)
        numbers = not part.task.classes
        predicted = part.task.decode(own) if numbers else part.task.probabilities(own)
        truth = part.task.decode(wanted) if numbers else wanted.numpy()
        measure = _measure(part, predicted, truth, part.labelled(targets)[0].numpy(), rows)
        known += [(part, measure)] if measure(np.arange(rows)) is not None else []
        draws = fewer(draws, part.task.metric, predicted)

    def skill(drawn: Array) -> float | None:
        found = [(part, measure(drawn)) for part, measure in known]
        skills = [p.skill(signed(p.task.metric, {p.task.metric: v})) for p, v in found if v is not None]
        return sum(skills) / len(skills) if skills and len(skills) == len(known) else None

    return resampled(skill, rows, seed, draws)


def _measure(part: Part, predicted: Array, truth: Array, labelled: Array, rows: int) -> Callable[[Array], float | None]:
    """Return a function from drawn row numbers to the part's metric on those of them that have its label."""
    measure = MEASURES[part.task.name][part.task.metric]
    place = np.full(rows, -1)
    place[labelled] = np.arange(len(labelled))

    def of(drawn: Array) -> float | None:
        chosen = place[drawn]
        chosen = chosen[chosen >= 0]
        return measure(predicted[chosen], truth[chosen]) if len(chosen) else None

    return of
