"""Any number of labels for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from autotransfer.errors import DataError
from autotransfer.tasks.labels import Label, ordered, plain, shown
from autotransfer.tasks.metrics import Array, measured, signed

FORMS = ("lists", "text", "indicator")
"""How rows were given, and how predictions are: lists of labels, texts ``a|b``, or rows of 0 and 1."""


class Multilabel:
    """A sigmoid for each label, binary cross-entropy; a row's value is a set of labels or a row of 0 and 1."""

    name = "multilabel"

    def __init__(self, labels: Sequence[Label], metric: str = "f1", form: str = "lists") -> None:
        if form not in FORMS:
            raise ValueError(f"the form of label sets is one of {', '.join(FORMS)}, got {form!r}")
        self.labels = tuple(labels)
        self.metric = metric
        self.form = form
        self.classes = tuple(str(v) for v in self.labels)
        self.outputs = len(self.labels)

    @classmethod
    def made(cls, values: Sequence[Any]) -> Multilabel:
        """Return the task with every label that occurs; of 0-1 rows, the numbers of their columns.

        Raises:
            DataError: there is no label, or something that cannot be one.
        """
        rows = [plain(v) for v in values]
        if is_indicator(rows):
            return cls(range(len(rows[0])), form="indicator")
        labels = ordered(v for s in _sets(rows) for v in s)
        if not labels:
            raise DataError("the target holds no label at all; wanted a list of labels for each row")
        if any(isinstance(v, float) for v in labels):
            raise DataError(
                "the target holds several numbers a row, which are no labels; a model predicts one number: "
                "name one column with target=, or give rows of 0 and 1"
            )
        return cls(labels, form="text" if all(isinstance(v, str) for v in rows) else "lists")

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Multilabel:
        """Return the task that ``to_json`` described."""
        return cls(list(body["labels"]), str(body["metric"]), str(body["form"]))

    def to_json(self) -> dict[str, Any]:
        """Return the labels with their own types, the metric, and the form of a row."""
        return {"task": self.name, "labels": list(self.labels), "metric": self.metric, "form": self.form}

    def encode(self, values: Sequence[Any]) -> Tensor:
        """Return 0 or 1, ``float32`` [N, labels].

        Raises:
            DataError: labels that are not of this model, or 0-1 rows of another length.
        """
        rows = [plain(v) for v in values]
        if self.form == "indicator":
            wrong = [v for v in rows if not _is_row(v) or len(v) != self.outputs]
            if wrong:
                raise DataError(
                    f"{len(wrong)} of {len(rows)} rows are not {self.outputs} zeros and ones: {shown(wrong)}"
                )
            return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), self.outputs)
        sets, places = _sets(rows), {label: i for i, label in enumerate(self.labels)}
        unknown = [v for s in sets for v in s if not isinstance(v, Label) or v not in places]
        if unknown:
            raise DataError(f"labels that are not of this model: {shown(unknown)}; known: {', '.join(self.classes)}")
        encoded = torch.zeros(len(sets), self.outputs)
        for row, own in enumerate(sets):
            encoded[row, [places[v] for v in own]] = 1.0
        return encoded

    def survey_target(self, targets: Tensor) -> Tensor:
        """Return the 0-1 rows in ``float64`` [N, labels]."""
        return targets.double()

    def loss(
        self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Return the mean binary cross-entropy, by weights [N, labels]; smoothing draws targets towards one half."""
        soft = targets * (1 - label_smoothing) + 0.5 * label_smoothing
        return functional.binary_cross_entropy_with_logits(outputs.float(), soft, weights)

    def head(self, output: str, width: int, dropout: float = 0.0) -> nn.Module:
        """Return a linear head."""
        from autotransfer.train.heads import LinearHead

        return LinearHead(output, width, self.outputs, dropout)

    def scores(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return macro and micro F1, subset accuracy, log-loss and AUC."""
        return measured(self.name, self.probabilities(outputs), targets.numpy())

    def objective(self, scores: Mapping[str, float]) -> float:
        """Return the deciding metric, higher is better."""
        return signed(self.metric, scores)

    def probabilities(self, outputs: Tensor) -> Array:
        """Return the chance of each label, ``float64`` [N, labels]."""
        return torch.sigmoid(outputs.double()).numpy()

    def decode(self, outputs: Tensor) -> Array:
        """Return the labels with a chance of one half or more, in the form that rows were given in.

        Lists of labels and texts ``a|b`` are an ``object`` array [N]; 0-1 rows are ``int64`` [N, labels].
        """
        chosen: Array = (outputs >= 0).numpy()
        if self.form == "indicator":
            return chosen.astype(np.int64)
        rows = np.empty(len(chosen), dtype=object)
        for i, row in enumerate(chosen):
            own = [label for label, on in zip(self.labels, row, strict=True) if on]
            rows[i] = "|".join(map(str, own)) if self.form == "text" else own
        return rows


def label_sets(values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return each row's labels; a text ``a|b`` holds two, a 0-1 row the numbers of its columns with a 1."""
    rows = [plain(v) for v in values]
    if is_indicator(rows):
        return [tuple(i for i, on in enumerate(row) if on) for row in rows]
    return _sets(rows)


def is_indicator(rows: Sequence[Any]) -> bool:
    """Return whether all are rows of 0 and 1 of one length.

    Lists of the labels 0 and 1 look the same only where every row has both, and then there is nothing to predict.
    """
    return bool(rows) and all(_is_row(v) for v in rows) and len({len(v) for v in rows}) == 1 and len(rows[0]) > 1


def _is_row(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(v, (bool, int, float)) and v in (0, 1) for v in value)


def _sets(rows: Sequence[Any]) -> list[tuple[Any, ...]]:
    sets = []
    for value in rows:
        if isinstance(value, str):
            sets.append(tuple(part.strip() for part in value.split("|") if part.strip()))
        elif isinstance(value, (list, tuple, set, frozenset)):
            sets.append(tuple(plain(v) for v in value))
        else:
            sets.append((value,))
    return sets
