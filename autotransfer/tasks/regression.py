"""A number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from autotransfer.errors import DataError
from autotransfer.tasks.labels import plain, shown
from autotransfer.tasks.metrics import Array, measured, signed

_CONSTANT = 1e-12
LARGEST = 1e30
"""Targets beyond it have squares beyond float32, in which scores and losses are taken."""
"""A spread below this share of the values is rounding."""


class Regression:
    """Squared error on targets brought to mean 0 and variance 1; answers are in the target's own unit."""

    name = "regression"
    classes: tuple[str, ...] = ()
    outputs = 1

    def __init__(self, mean: float, scale: float, metric: str = "rmse") -> None:
        self.mean = mean
        self.scale = scale
        self.metric = metric

    @classmethod
    def made(cls, values: Sequence[Any]) -> Regression:
        """Return the task with the mean and spread of the values.

        Raises:
            DataError: values that are no finite numbers, or all the same.
        """
        numbers = _numbers(values)
        if not len(numbers):
            raise DataError("the target has no value at all; wanted one number a row")
        most = float(np.abs(numbers).max())
        if most > LARGEST:
            raise DataError(
                f"the target reaches {most:.3g}, beyond what float32 networks answer; wanted values up to {LARGEST:g}: "
                "rescale them, or take their logarithm"
            )
        spread = float(numbers.std())
        if not spread > _CONSTANT * most:
            raise DataError(f"the target is {numbers[0]:g} in every row; there is nothing to predict")
        return cls(float(numbers.mean()), spread)

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Regression:
        """Return the task that ``to_json`` described."""
        if not (math.isfinite(body["mean"]) and 0 < body["scale"] < math.inf):
            raise ValueError("mean is finite and scale above 0")
        return cls(float(body["mean"]), float(body["scale"]), str(body["metric"]))

    def to_json(self) -> dict[str, Any]:
        """Return mean, scale and metric."""
        return {"task": self.name, "mean": self.mean, "scale": self.scale, "metric": self.metric}

    def encode(self, values: Sequence[Any]) -> Tensor:
        """Return standardised values ``float32`` [N, 1].

        Raises:
            DataError: values that are no finite numbers.
        """
        return torch.tensor((_numbers(values) - self.mean) / self.scale, dtype=torch.float32)[:, None]

    def survey_target(self, targets: Tensor) -> Tensor:
        """Return the standardised values in ``float64`` [N, 1]."""
        return targets.double()

    def loss(
        self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Return the mean squared error, by weights [N, 1]; smoothing has no meaning here."""
        found = functional.mse_loss(outputs.float(), targets, reduction="none")
        return (found if weights is None else found * weights).mean()

    def head(self, output: str, width: int, dropout: float = 0.0) -> nn.Module:
        """Return a linear head."""
        from autotransfer.train.heads import LinearHead

        return LinearHead(output, width, self.outputs, dropout)

    def scores(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return RMSE, MAE and R2 in the target's own unit."""
        return measured(self.name, self.decode(outputs), self.decode(targets))

    def objective(self, scores: Mapping[str, float]) -> float:
        """Return the deciding metric, higher is better."""
        return signed(self.metric, scores)

    def answers(self, outputs: Tensor) -> dict[str, Tensor]:
        """Return the ``values`` [N] in the target's own unit, in the outputs' type."""
        return {"values": outputs[:, 0] * self.scale + self.mean}

    def probabilities(self, outputs: Tensor) -> Array:
        """Refuse: a regression has none.

        Raises:
            DataError: always.
        """
        raise DataError("a regression has no probabilities; use predict")

    def decode(self, outputs: Tensor) -> Array:
        """Return numbers ``float64`` [N] in the target's own unit."""
        return self.answers(outputs.double())["values"].numpy()


def _numbers(values: Sequence[Any]) -> Array:
    found = [_number(plain(v)) for v in values]
    wrong = [v for v, number in zip(values, found, strict=True) if number is None]
    if wrong:
        raise DataError(
            f"{len(wrong)} of {len(found)} target values are no finite number: {shown([plain(v) for v in wrong])}; "
            "remove these rows or mend them, or choose another task="
        )
    return np.asarray(found, dtype=np.float64)


def _number(value: Any) -> float | None:
    """Return the number that a value or its text is, None for anything else and for what is not finite."""
    if not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
