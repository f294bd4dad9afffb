"""One of several classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from autotransfer.errors import DataError
from autotransfer.tasks.metrics import Array, of_classes, signed

Label = str | int | float | bool


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
            DataError: fewer than two distinct values.
        """
        distinct = {_plain(v) for v in values}
        if len(distinct) < 2:
            only = f" ({next(iter(distinct))!r})" if distinct else ""
            raise DataError(f"the target has {len(distinct)} class{only}; wanted two or more, each with several rows")
        try:
            labels = sorted(distinct)
        except TypeError:
            labels = sorted(distinct, key=lambda v: (type(v).__name__, str(v)))
        return cls(labels)

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Multiclass:
        """Return the task that ``to_json`` described."""
        return cls(list(body["labels"]), str(body["metric"]))

    def to_json(self) -> dict[str, Any]:
        """Return the labels with their own types, and the metric."""
        return {"task": self.name, "labels": list(self.labels), "metric": self.metric}

    def encode(self, values: Sequence[Any]) -> Tensor:
        """Return class numbers ``int64`` [N].

        Raises:
            DataError: values that are no class, with how often.
        """
        plain = [_plain(v) for v in values]
        unknown = [v for v in plain if v not in self._numbers]
        if unknown:
            shown = ", ".join(repr(v) for v in list(dict.fromkeys(unknown))[:5])
            known = ", ".join(map(repr, self.labels[:10]))
            raise DataError(
                f"{len(unknown)} of {len(plain)} labels are no class of this model: {shown}; classes: {known}"
            )
        return torch.tensor([self._numbers[v] for v in plain], dtype=torch.int64)

    def survey_target(self, targets: Tensor) -> Tensor:
        """Return one-hot rows ``float64`` [N, classes]."""
        return functional.one_hot(targets, self.outputs).double()

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy."""
        return functional.cross_entropy(outputs.float(), targets, label_smoothing=label_smoothing)

    def head(self, output: str, width: int, dropout: float = 0.0) -> nn.Module:
        """Return a linear head."""
        from autotransfer.train.heads import LinearHead

        return LinearHead(output, width, self.outputs, dropout)

    def scores(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return accuracy, balanced accuracy, precision, recall, F1, log-loss and AUC."""
        return of_classes(self.probabilities(outputs), targets.numpy(), self.outputs)

    def objective(self, scores: Mapping[str, float]) -> float:
        """Return the deciding metric, higher is better."""
        return signed(self.metric, scores)

    def probabilities(self, outputs: Tensor) -> Array:
        """Return ``float64`` [N, classes]."""
        return torch.softmax(outputs.double(), 1).numpy()

    def decode(self, outputs: Tensor) -> Array:
        """Return the likeliest label of each row."""
        numbers = outputs.argmax(1).tolist()
        return np.array([self.labels[i] for i in numbers], dtype=_kind(self.labels))


def _kind(labels: Sequence[Label]) -> Any:
    kinds = {type(v) for v in labels}
    return None if len(kinds) == 1 else object


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
