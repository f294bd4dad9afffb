"""Several targets: how a caller names them, and what a run tells of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autotransfer.errors import ConfigError, faults, suggestion

SEVERAL = "multi-task"
"""Name of the task that several targets make together."""
SKILL = "skill"
"""What decides there: the mean over the targets of (score - constant) / (best possible - constant)."""

NOT_ALONE = "no model was trained for each target alone: "
"""How a run's note begins that says why."""


@dataclass(frozen=True, kw_only=True)
class TargetProfile:
    """What was measured of one target of several."""

    name: str
    task: str
    metric: str
    rows: int
    """Usable rows that have this label, all splits together."""
    train: int
    validation: int
    test: int
    classes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    """Rows of each class."""
    imbalance: float = 1.0
    """Rows of the largest class / rows of the smallest."""


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What one target's score on the validation rows says of sharing a backbone; a value of the target's metric."""

    target: str
    metric: str
    together: float | None
    """Of the winner, which serves all targets."""
    alone: float | None = None
    """Of the winner's recipe trained for this target alone; None: it was not trained."""
    frozen: float | None = None
    """Of a closed-form head for this target alone on the winner's backbone, frozen; None: there is none."""
    gain: float | None = None
    """Skill together less skill alone; None: it was not trained alone."""


def one_or_several(target: Any) -> Any:
    """Return a target as it was given, a list of one as its one name."""
    return target[0] if isinstance(target, (list, tuple)) and len(target) == 1 else target


def target_faults(target: Any) -> list[str]:
    """Return what is wrong with an argument ``target``, one text a fault."""
    if target is None or isinstance(target, str):
        return []
    if not isinstance(target, (list, tuple)) or not target or not all(isinstance(n, str) for n in target):
        return [f"target is {target!r:.60}; wanted the name of a column, or a list of names"]
    return [f"target names {n!r} {count} times; wanted it once" for n, count in Counter(target).items() if count > 1]


def texts_of(given: Any) -> list[Any]:
    """Return the values of an argument that is one for all targets, a list, or a mapping by target."""
    if isinstance(given, Mapping):
        return list(given.values())
    return list(given) if isinstance(given, (list, tuple)) else [given]


def for_each(given: Any, names: Sequence[str], what: str) -> dict[str, Any]:
    """Return an argument's value for each target; None where it says nothing.

    Args:
        given: one value for all, a list in the order of the targets, or a mapping by target.
        names: of the targets.
        what: name of the argument.

    Raises:
        ConfigError: a list of another length, or targets that there are not.
    """
    if isinstance(given, Mapping):
        unknown = [f"there is no target {n!r}{suggestion(str(n), names)}" for n in given if n not in names]
        if unknown:
            raise ConfigError(faults(f"{what} does not fit the targets {', '.join(names)}", unknown))
        return {n: given.get(n) for n in names}
    if isinstance(given, (list, tuple)):
        if len(given) != len(names):
            raise ConfigError(
                f"{what} holds {len(given)} values for {len(names)} targets ({', '.join(names)}); "
                "wanted as many, in their order, or a mapping by target"
            )
        return dict(zip(names, given, strict=True))
    return dict.fromkeys(names, given)
