"""What a plugin may return: checks that the registry applies, each with a text its author can act on."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping

from autotransfer.errors import PluginContractError
from autotransfer.strategy import Strategy, overrides

DOORS = ("applies", "space", "phases", "training", "head", "adapt", "objective", "combine", "finish")
"""Methods of a strategy."""
DATASET = ("name", "modality", "targets", "splits", "__len__", "load", "row_name", "content_hash")
"""Attributes and methods of a Dataset."""


def check_strategy(strategy: Strategy) -> None:
    """Raise a PluginContractError that lists all that is wrong with a strategy."""
    found = []
    if not isinstance(strategy.id, str) or not re.fullmatch(r"[A-Za-z0-9_.-]+/\S+", strategy.id):
        found.append(f"its id is {strategy.id!r}; wanted namespace/name")
    found += [f"its {door} is no method" for door in DOORS if not callable(getattr(strategy, door))]
    if not (overrides(strategy, "phases") or overrides(strategy, "head")):
        found.append("it has neither phases nor head, so it would train nothing")
    if found:
        raise PluginContractError(f"the strategy {type(strategy).__name__}: {'; '.join(found)}")


def kind_of(value: object) -> str:
    """Return how an error calls a value: the name of its type."""
    if value is None:
        return "None"
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def is_scalar(value: object) -> bool:
    """Return whether a value is text, a number, true, false or None."""
    return value is None or isinstance(value, (str, int, float, bool))


def is_finite(value: object) -> bool:
    """Return whether a value is a number (numpy's too), and neither NaN nor infinite."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]


def mean_ranks(values: Mapping[str, float]) -> dict[str, float]:
    """Return each value's mean rank, scaled to [0, 1]: the share of the others below it, equal ones counting half."""
    others = len(values) - 1
    if others < 1:
        return dict.fromkeys(values, 0.5)
    given = list(values.values())
    return {
        id: (sum(v < value for v in given) + 0.5 * (given.count(value) - 1)) / others for id, value in values.items()
    }
