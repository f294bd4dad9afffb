"""One of several classes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from autotransfer.errors import DataError
from autotransfer.tasks.labels import Label, ordered, plain, shown
from autotransfer.tasks.metrics import Array, measured, signed


class Multiclass:
    """Softmax over classes, cross-entropy."""

    name = "multiclass"

    def __init__(self, labels: Sequence[Label], metric: str = "accuracy") -> None:
        self.labels = tuple(labels)
        self.metric = metric
        self.classes = tuple(str(v) for v in self.labels)
        self.outputs = len(self.labels)
        self._numbers = {v: i for i, v in enumerate(self.labels)}

    @classmethod
    def made(cls, values: Sequence[Any]) -> Multiclass:
        """Return the task with the distinct values as classes, sorted.

        Raises:
            DataError: fewer than two distinct values, or values that cannot be labels.
        """
        labels = ordered(values)
        if len(labels) < 2:
            only = f" ({labels[0]!r})" if labels else ""
            raise DataError(f"the target has {len(labels)} class{only}; wanted two or more, each with several rows")
        return cls(labels)

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Multiclass:
        """Return the task that ``to_json`` described."""
        labels = list(body["labels"])
        if ordered(labels) != labels or len(labels) < 2:
            raise ValueError("labels are two or more, distinct and in order")
        return cls(labels, str(body["metric"]))

    def to_json(self) -> dict[str, Any]:
        """Return the labels with their own types, and the metric."""
        return {"task": self.name, "labels": list(self.labels), "metric": self.metric}

    def encode(self, values: Sequence[Any]) -> Tensor:
        """Return class numbers ``int64`` [N].

        Raises:
            DataError: values that are no class, with how often.
        """
        given = [plain(v) for v in values]
        unknown = [v for v in given if not isinstance(v, Hashable) or v not in self._numbers]
        if unknown:
            known = ", ".join(map(repr, self.labels[:10])) + (", ..." if len(self.labels) > 10 else "")
            raise DataError(
                f"{len(unknown)} of {len(given)} labels are no class of this model: {shown(unknown)}; classes: {known}"
            )
        return torch.tensor([self._numbers[v] for v in given], dtype=torch.int64)

    def survey_target(self, targets: Tensor) -> Tensor:
        """Return one-hot rows ``float64`` [N, classes]."""
        return functional.one_hot(targets, self.outputs).double()

    def loss(
        self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Return the mean cross-entropy, each row by its weight [N] where there are weights."""
        kind = "mean" if weights is None else "none"
        found = functional.cross_entropy(outputs.float(), targets, label_smoothing=label_smoothing, reduction=kind)
        return found if weights is None else (found * weights).mean()

    def head(self, output: str, width: int, dropout: float = 0.0) -> nn.Module:
        """Return a linear head."""
        from autotransfer.train.heads import LinearHead

        return LinearHead(output, width, self.outputs, dropout)

    def scores(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return accuracy, balanced accuracy, precision, recall, F1, log-loss and AUC."""
        return measured(self.name, self.probabilities(outputs), targets.numpy())

    def objective(self, scores: Mapping[str, float]) -> float:
        """Return the deciding metric, higher is better."""
        return signed(self.metric, scores)

    def probabilities(self, outputs: Tensor) -> Array:
        """Return ``float64`` [N, classes]."""
        return torch.softmax(outputs.double(), 1).numpy()

    def decode(self, outputs: Tensor) -> Array:
        """Return the likeliest label of each row: an array [N] of the labels' own type, ``object`` for several."""
        kinds = {type(v) for v in self.labels}
        labels = np.array(self.labels, dtype=None if len(kinds) == 1 else object)
        chosen: Array = labels[outputs.argmax(1).numpy()]
        return chosen
