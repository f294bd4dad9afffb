"""A number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from autotransfer.errors import DataError
from autotransfer.tasks.metrics import Array, of_numbers, signed


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
        spread = float(numbers.std())
        if not spread > 0:
            raise DataError(f"the target is {numbers[0]:g} in every row; there is nothing to predict")
        return cls(float(numbers.mean()), spread)

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Regression:
        """Return the task that ``to_json`` described."""
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

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean squared error; smoothing has no meaning here."""
        return functional.mse_loss(outputs.float(), targets)

    def head(self, output: str, width: int, dropout: float = 0.0) -> nn.Module:
        """Return a linear head."""
        from autotransfer.train.heads import LinearHead

        return LinearHead(output, width, self.outputs, dropout)

    def scores(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return RMSE, MAE and R2 in the target's own unit."""
        truth = targets[:, 0].double().numpy() * self.scale + self.mean
        return of_numbers(self.decode(outputs), truth)

    def objective(self, scores: Mapping[str, float]) -> float:
        """Return the deciding metric, higher is better."""
        return signed(self.metric, scores)

    def probabilities(self, outputs: Tensor) -> Array:
        """Refuse: a regression has none.

        Raises:
            DataError: always.
        """
        raise DataError("a regression has no probabilities; use predict")

    def decode(self, outputs: Tensor) -> Array:
        """Return numbers ``float64`` [N] in the target's own unit."""
        return outputs[:, 0].double().numpy() * self.scale + self.mean


def _numbers(values: Sequence[Any]) -> Array:
    try:
        numbers = np.asarray([float(v) for v in values], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"task='regression' wants numbers: {error}") from error
    wrong = int((~np.isfinite(numbers)).sum())
    if wrong:
        raise DataError(f"{wrong} of {len(numbers)} target values are not finite; remove these rows or mend them")
    return numbers
