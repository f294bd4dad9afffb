"""Several targets that one network answers together: one head each, side by side in one linear map.

Encoded targets are one ``float32`` matrix: a column with class numbers for classes, one with the standardised value
for a number, one a label of 0 and 1 for label sets. A label that is missing is NaN; of label sets, all columns are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autotransfer.errors import DataError, faults
from autotransfer.targets import SEVERAL, SKILL
from autotransfer.tasks.metrics import LOWER_IS_BETTER, counts_alike, deciding, signed

if TYPE_CHECKING:
    from autotransfer.protocols import Task

_WITHOUT = {"roc_auc": 0.5, "r2": 0.0}
"""What a constant predictor scores where the metric has no value on the rows that it was taken from."""
_LEAST_RANGE = 1e-6
"""Between the constant predictor and the best possible: a constant that is always right leaves nothing to gain."""


@dataclass(frozen=True)
class Part:
    """One target of several, and where its share of outputs and of encoded targets lies."""

    target: str
    task: Task
    floor: float
    """Objective of the constant predictor on training rows."""
    outputs: slice
    columns: slice

    @cached_property
    def numbered(self) -> bool:
        """Whether it is encoded as class numbers, ``int64`` [N]; else as ``float32`` [N, K]."""
        return not torch.is_floating_point(self.task.encode([]))

    @property
    def evened(self) -> bool:
        """Whether the balance of a recipe is for it."""
        return counts_alike(self.task.name, self.task.metric)

    def skill(self, objective: float) -> float:
        """Return an objective of the target as skill: 0 the constant predictor, 1 the best possible."""
        best = 0.0 if self.task.metric in LOWER_IS_BETTER else 1.0
        return (objective - self.floor) / max(best - self.floor, _LEAST_RANGE)

    def labelled(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers of the rows that have this label, ``int64`` [n], and the label as its task encodes it."""
        own = targets[:, self.columns]
        rows = (~own[:, 0].isnan()).nonzero()[:, 0]
        return rows, own[rows, 0].long() if self.numbered else own[rows]

    def of(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return its outputs [n, width] and targets on the rows that have this label."""
        rows, own = self.labelled(targets)
        return outputs[rows][:, self.outputs], own


class Several:
    """The sum of the tasks' losses, each over the rows that have its label; what decides is their mean skill.

    Args:
        targets: the task of each target, in their order.
        floors: objective of the constant predictor by target; none: 0.
    """

    name = SEVERAL
    metric = SKILL
    classes: tuple[str, ...] = ()

    def __init__(self, targets: Mapping[str, Task], floors: Mapping[str, float] | None = None) -> None:
        parts, width, column = list[Part](), 0, 0
        for target, task in targets.items():
            encoded = task.encode([])
            columns = encoded.shape[1] if encoded.ndim == 2 else 1
            place = slice(width, width + task.outputs), slice(column, column + columns)
            parts.append(Part(target, task, float((floors or {}).get(target, 0.0)), *place))
            width, column = width + task.outputs, column + columns
        self.parts = tuple(parts)
        self.outputs = width
        self.columns = column

    @property
    def targets(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(p.target for p in self.parts)

    def judged(self, targets: Tensor) -> Several:
        """Return the same tasks with their constant predictors taken from these encoded training targets [N, K]."""
        floors = {p.target: constant(p.task, p.labelled(targets)[1]) for p in self.parts}
        return Several({p.target: p.task for p in self.parts}, floors)

    def only(self, target: str) -> Several:
        """Return one target of these, judged as it is among them."""
        (part,) = (p for p in self.parts if p.target == target)
        return Several({target: part.task}, {target: part.floor})

    def to_json(self) -> dict[str, Any]:
        """Return each target's name, task and constant predictor."""
        rows = [{"target": p.target, "floor": p.floor, "labels": p.task.to_json()} for p in self.parts]
        return {"task": self.name, "targets": rows}

    def encode(self, values: Sequence[Any]) -> Tensor:
        """Return ``float32`` [N, K], NaN where a label is missing.

        Args:
            values: one a row: the labels in the order of the targets, None where one is missing.

        Raises:
            DataError: labels that a target does not know, of all targets at once.
        """
        encoded, wrong = torch.full((len(values), self.columns), math.nan), list[str]()
        for place, part in enumerate(self.parts):
            rows = [i for i, row in enumerate(values) if row[place] is not None]
            try:
                own = part.task.encode([values[i][place] for i in rows]).float()
                encoded[torch.tensor(rows, dtype=torch.int64), part.columns] = own[:, None] if own.ndim == 1 else own
            except DataError as error:
                wrong.append(f"{part.target}: {error}")
        if wrong:
            raise DataError(faults("labels do not fit their targets", wrong))
        return encoded

    def survey_target(self, targets: Tensor) -> Tensor:
        """Return ``float64`` [N, outputs]: what each task fits, a column's mean where the label is missing."""
        found = torch.zeros(len(targets), self.outputs, dtype=torch.float64)
        for part in self.parts:
            rows, own = part.labelled(targets)
            if len(rows):
                wanted = part.task.survey_target(own)
                found[:, part.outputs] = wanted.mean(0)
                found[rows, part.outputs] = wanted
        return found

    def losses(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> list[Tensor]:
        """Return each target's mean loss over the rows that have its label, 0 where none has."""
        found = []
        for part in self.parts:
            own, wanted = part.of(outputs, targets)
            found.append(part.task.loss(own, wanted, label_smoothing) if len(own) else own.float().sum())
        return found

    def loss(
        self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Return the sum of each target's mean loss over the rows that have its label, each row by its weight [N]."""
        if weights is None:
            return torch.stack(self.losses(outputs, targets, label_smoothing)).sum()
        found = []
        for part in self.parts:
            rows, wanted = part.labelled(targets)
            if len(rows):
                own, each = outputs[rows][:, part.outputs], weights[rows]
                found.append(part.task.loss(own, wanted, label_smoothing, each if part.numbered else each[:, None]))
        return torch.stack([outputs.float().sum() * 0.0, *found]).sum()

    def head(self, output: str, width: int, dropout: float = 0.0) -> nn.Module:
        """Return a linear head whose rows are divided among the targets: one linear head each."""
        from autotransfer.train.heads import LinearHead

        return LinearHead(output, width, self.outputs, dropout)

    def each(self, outputs: Tensor, targets: Tensor) -> dict[str, dict[str, float]]:
        """Return every metric of each target, on the rows that have its label."""
        return {p.target: p.task.scores(*p.of(outputs, targets)) for p in self.parts}

    def scores(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return every metric as ``target.metric``, and the mean skill."""
        each = self.each(outputs, targets)
        flat = {f"{target}.{name}": v for target, own in each.items() for name, v in own.items()}
        return {**flat, **self._skill({p.target: signed(p.task.metric, each[p.target]) for p in self.parts})}

    def decided(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the mean skill without any other metric."""
        found = {p.target: deciding(p.task, *p.of(outputs, targets)) for p in self.parts}
        return self.objective(self._skill(found))

    def mean_skill(self, objectives: Mapping[str, float]) -> float | None:
        """Return the mean over the targets whose objective has a value; None where none has."""
        known = [p.skill(objectives[p.target]) for p in self.parts if math.isfinite(objectives[p.target])]
        return sum(known) / len(known) if known else None

    def objective(self, scores: Mapping[str, float]) -> float:
        """Return the mean skill, higher is better."""
        return signed(SKILL, scores)

    def answers(self, outputs: Tensor) -> dict[str, Tensor]:
        """Return each target's answers as ``target.name``."""
        each = ((p.target, p.task.answers(outputs[:, p.outputs])) for p in self.parts)
        return {f"{target}.{name}": found for target, own in each for name, found in own.items()}

    def probabilities(self, outputs: Tensor) -> Any:
        """Return the probabilities of each target that has some, ``float64`` [N, classes] by target.

        Raises:
            DataError: all targets are numbers.
        """
        found = {p.target: p.task.probabilities(outputs[:, p.outputs]) for p in self.parts if p.task.classes}
        if not found:
            raise DataError("numbers have no probabilities; use predict")
        return found

    def decode(self, outputs: Tensor) -> Any:
        """Return a pandas frame with a column for each target, in the user's own values."""
        import pandas as pd

        answers = {p.target: p.task.decode(outputs[:, p.outputs]) for p in self.parts}
        return pd.DataFrame({n: list(a) if a.ndim == 2 else a for n, a in answers.items()})

    def _skill(self, objectives: Mapping[str, float]) -> dict[str, float]:
        mean = self.mean_skill(objectives)
        return {} if mean is None else {SKILL: mean}


def constant(task: Task, targets: Tensor) -> float:
    """Return the objective, on encoded targets, of the best answer that is the same for all rows.

    It is the shares of the classes or labels, or the mean.
    """
    if task.metric in _WITHOUT or not len(targets):
        return _WITHOUT.get(task.metric, 0.0)
    mean = task.survey_target(targets).mean(0)
    few = 1e-9
    if not task.classes:
        outputs = mean
    elif targets.ndim == 1:
        outputs = mean.clamp_min(few).log()
    else:
        outputs = mean.clamp(few, 1 - few).logit()
    found = deciding(task, outputs.float().expand(len(targets), -1), targets)
    return found if math.isfinite(found) else 0.0
