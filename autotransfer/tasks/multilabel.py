"""Any number of labels for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from autotransfer.errors import DataError
from autotransfer.tasks.metrics import Array, of_label_sets, signed


class Multilabel:
    """A sigmoid for each label, binary cross-entropy; a row's value is a set of labels or a row of 0 and 1."""

    name = "multilabel"

    def __init__(self, labels: Sequence[str | int], metric: str = "f1", indicator: bool = False) -> None:
        self.labels = tuple(labels)
        self.metric = metric
        self.indicator = indicator
        self.classes = tuple(str(v) for v in self.labels)
        self.outputs = len(self.labels)

    @classmethod
    def made(cls, values: Sequence[Any]) -> Multilabel:
        """Return the task with every label that occurs.

        Raises:
            DataError: there is none.
        """
        indicator = _is_indicator(values)
        labels: list[Any] = (
            list(range(len(values[0]))) if indicator else sorted({v for s in label_sets(values) for v in s})
        )
        if not labels:
            raise DataError("the target holds no label at all; wanted a list of labels for each row")
        return cls(labels, indicator=indicator)

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Multilabel:
        """Return the task that ``to_json`` described."""
        return cls(list(body["labels"]), str(body["metric"]), bool(body["indicator"]))

    def to_json(self) -> dict[str, Any]:
        """Return the labels, and whether rows are 0-1 rows."""
        return {
            "task": self.name,
            "labels": list(self.labels),
            "metric": self.metric,
            "indicator": self.indicator,
        }

    def encode(self, values: Sequence[Any]) -> Tensor:
        """Return 0 or 1, ``float32`` [N, labels].

        Raises:
            DataError: labels that are not of this model.
        """
        if self.indicator:
            return torch.tensor(np.asarray([np.asarray(v, dtype=np.float32) for v in values]))
        sets = label_sets(values)
        unknown = sorted({str(v) for s in sets for v in s} - {str(v) for v in self.labels})
        if unknown:
            raise DataError(
                f"labels that are not of this model: {', '.join(unknown[:5])}; known: {', '.join(self.classes)}"
            )
        return torch.tensor([[float(label in s) for label in self.labels] for s in sets], dtype=torch.float32)

    def survey_target(self, targets: Tensor) -> Tensor:
        """Return the 0-1 rows in ``float64``."""
        return targets.double()

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean binary cross-entropy."""
        soft = targets * (1 - label_smoothing) + 0.5 * label_smoothing
        return functional.binary_cross_entropy_with_logits(outputs.float(), soft)

    def head(self, output: str, width: int, dropout: float = 0.0) -> nn.Module:
        """Return a linear head."""
        from autotransfer.train.heads import LinearHead

        return LinearHead(output, width, self.outputs, dropout)

    def scores(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return macro and micro F1, subset accuracy, log-loss and AUC."""
        return of_label_sets(self.probabilities(outputs), targets.numpy())

    def objective(self, scores: Mapping[str, float]) -> float:
        """Return the deciding metric, higher is better."""
        return signed(self.metric, scores)

    def probabilities(self, outputs: Tensor) -> Array:
        """Return the chance of each label, ``float64`` [N, labels]."""
        return torch.sigmoid(outputs.double()).numpy()

    def decode(self, outputs: Tensor) -> Array:
        """Return each row's labels with a chance of one half or more: lists, or 0-1 rows where those were given."""
        chosen = (outputs >= 0).numpy()
        if self.indicator:
            return chosen.astype(np.int64)
        rows = np.empty(len(chosen), dtype=object)
        for i, row in enumerate(chosen):
            rows[i] = [label for label, on in zip(self.labels, row, strict=True) if on]
        return rows


def label_sets(values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return each row's labels; a text ``a|b`` holds two."""
    sets = []
    for value in values:
        if isinstance(value, str):
            sets.append(tuple(part.strip() for part in value.split("|") if part.strip()))
        elif isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
            sets.append(tuple(v.item() if isinstance(v, np.generic) else v for v in value))
        else:
            sets.append((value,))
    return sets


def _is_indicator(values: Sequence[Any]) -> bool:
    """Return whether the rows are 0-1 rows of one length, not lists of labels."""
    rows = [v for v in values if isinstance(v, np.ndarray)]
    return (
        len(rows) == len(values) > 0
        and len({len(v) for v in rows}) == 1
        and all(np.isin(v, (0, 1)).all() for v in rows)
    )
