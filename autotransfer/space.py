"""Domains of searched values: what a strategy offers and a candidate draws from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from autotransfer.codec import Scalar
from autotransfer.errors import ConfigError


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[Scalar, ...]
    kind: ClassVar[str] = "choice"

    def __post_init__(self) -> None:
        if not self.values:
            raise ConfigError("a choice needs at least one value")

    def sample(self, rng: Random) -> Scalar:
        """Return one value, each as likely as the others."""
        return rng.choice(self.values)

    def __contains__(self, value: object) -> bool:
        return value in self.values


@dataclass(frozen=True)
class Integer:
    """A whole number from ``low`` to ``high``, both included."""

    low: int
    high: int
    kind: ClassVar[str] = "int"

    def __post_init__(self) -> None:
        _ordered(self.low, self.high)
        if not (isinstance(self.low, int) and isinstance(self.high, int)):
            raise ConfigError(f"an int domain needs whole ends, got {self.low} and {self.high}")

    def sample(self, rng: Random) -> Scalar:
        """Return one whole number, each as likely as the others."""
        return rng.randint(self.low, self.high)

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True)
class Uniform:
    """A number from ``low`` to ``high``."""

    low: float
    high: float
    kind: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        _ordered(self.low, self.high)

    def sample(self, rng: Random) -> Scalar:
        """Return a number drawn evenly."""
        return rng.uniform(self.low, self.high)

    def __contains__(self, value: object) -> bool:
        return _number(value) and self.low <= float(value) <= self.high  # type: ignore[arg-type]


@dataclass(frozen=True)
class LogUniform:
    """A positive number from ``low`` to ``high``, drawn evenly on the logarithm."""

    low: float
    high: float
    kind: ClassVar[str] = "log"

    def __post_init__(self) -> None:
        _ordered(self.low, self.high)
        if self.low <= 0:
            raise ConfigError(f"a log domain needs low > 0, got {self.low}")

    def sample(self, rng: Random) -> Scalar:
        """Return a number whose logarithm is drawn evenly, at three significant digits."""
        drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return min(max(float(f"{drawn:.3g}"), self.low), self.high)

    def __contains__(self, value: object) -> bool:
        return _number(value) and self.low <= float(value) <= self.high  # type: ignore[arg-type]


Domain = Choice | Integer | Uniform | LogUniform
_RANGES: Mapping[str, type[Integer] | type[Uniform] | type[LogUniform]] = {
    "int": Integer,
    "uniform": Uniform,
    "log": LogUniform,
}


def parse_domain(name: str, given: Any) -> Domain:
    """Return the domain that a caller wrote for ``name``.

    A domain is itself; a scalar is fixed; a list is a choice; ``{"log": [low, high]}``,
    ``{"uniform": [low, high]}`` and ``{"int": [low, high]}`` are ranges.

    Raises:
        ConfigError: the form is none of these.
    """
    if isinstance(given, (Choice, Integer, Uniform, LogUniform)):
        return given
    if given is None or isinstance(given, (str, int, float, bool)):
        return Choice((given,))
    if isinstance(given, (list, tuple)) and all(v is None or isinstance(v, (str, int, float, bool)) for v in given):
        return Choice(tuple(given))
    if isinstance(given, Mapping) and len(given) == 1:
        (kind, ends), *_ = given.items()
        if kind in _RANGES and isinstance(ends, (list, tuple)) and len(ends) == 2 and all(map(_number, ends)):
            return _RANGES[kind](ends[0], ends[1])
    raise ConfigError(
        f"the space of {name!r} is {given!r}; wanted a value, a list of values, or one of "
        "{log: [low, high]}, {uniform: [low, high]}, {int: [low, high]}"
    )


def _ordered(low: float, high: float) -> None:
    if not low <= high:
        raise ConfigError(f"a range needs low <= high, got {low} and {high}")


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def number(values: Mapping[str, Scalar], name: str) -> float:
    """Return a value that must be a number.

    Raises:
        ConfigError: it is missing, or no number.
    """
    value = values.get(name)
    if not _number(value):
        raise ConfigError(f"the value {name!r} is {value!r}; wanted a number")
    return float(value)  # type: ignore[arg-type]
