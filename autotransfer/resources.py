"""What one trial takes of a machine, and which machines it may run on: the argument ``resources``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from autotransfer.errors import suggestion

STEP_SECONDS = 300.0
DISK_GB = 20.0
RESOURCES: Mapping[str, float] = {"cpus": 1, "gpus": 0, "step_seconds": STEP_SECONDS, "disk_gb": DISK_GB}
"""What one trial takes by default, after how many silent seconds it is taken to hang, and what the store may hold."""
CUSTOM, LABELS = "custom", "labels"
"""Keys of further amounts by name, and of labels that a node must have."""
NAMES = {"cpus": "CPU", "gpus": "GPU"}
"""Ray's own names."""
_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_KEY = re.compile(rf"([a-z0-9.-]+/)?{_VALUE.pattern}")


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one worker takes of a node."""

    amounts: Mapping[str, float]
    """By Ray's names (``CPU``, ``GPU``, and what the nodes were started with); none is 0."""
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Values of which a node has one, by label."""

    @classmethod
    def of(cls, resources: Mapping[str, Any] | None) -> Share:
        """Return the share that checked ``resources`` ask for."""
        given = {**RESOURCES, **(resources or {})}
        amounts = {own: given[name] for name, own in NAMES.items()} | dict(given.get(CUSTOM) or {})
        labels = {n: (v,) if isinstance(v, str) else tuple(v) for n, v in (given.get(LABELS) or {}).items()}
        return cls(amounts={n: v for n, v in amounts.items() if v}, labels=labels)

    def fits(self, has: Mapping[str, float], labels: Mapping[str, str]) -> int:
        """Return how many workers a node holds where nothing else runs."""
        if any(labels.get(name) not in values for name, values in self.labels.items()):
            return 0
        return min((math.floor(has.get(n, 0) / v) for n, v in self.amounts.items()), default=1)

    def of_node(self, has: Mapping[str, float], labels: Mapping[str, str]) -> str:
        """Return what a node has of all that is asked for, in words."""
        amounts = [f"{has.get(n, 0):g} {n}" for n in self.amounts]
        return ", ".join([*amounts, *(f"{n}={labels[n]}" if n in labels else f"no label {n}" for n in self.labels)])

    def selector(self) -> dict[str, str]:
        """Return the labels as Ray's label selector."""
        return {n: v[0] if len(v) == 1 else f"in({','.join(v)})" for n, v in self.labels.items()}

    def __str__(self) -> str:
        """Return ``1 CPU, 2 GPU on a node with zone=a or b``."""
        where = " and ".join(f"{n}={' or '.join(v)}" for n, v in self.labels.items())
        return ", ".join(f"{v:g} {n}" for n, v in self.amounts.items()) + (f" on a node with {where}" if where else "")


def resource_faults(resources: Any) -> list[str]:
    """Return what is wrong with the argument, one text a fault."""
    if resources is None:
        return []
    if not isinstance(resources, Mapping):
        return [f"resources is {resources!r:.60}; wanted keys such as cpus: 2"]
    found = []
    known = (*RESOURCES, CUSTOM, LABELS)
    for name, value in resources.items():
        if name not in known:
            hint = suggestion(str(name), known) or "; what nodes were started with beside goes under custom"
            found.append(f"resources has no key {name!r}{hint}; known: {', '.join(known)}")
        elif name == CUSTOM:
            found += _custom_faults(value)
        elif name == LABELS:
            found += _label_faults(value)
        elif not _number(value) or not value >= 0:
            found.append(f"resources.{name} is {value!r:.60}; wanted a number, 0 or more")
        elif name == "cpus" and (not isinstance(value, int) or value < 1):
            found.append(f"resources.cpus is {value!r}; wanted a whole number, 1 or more")
        elif name == "gpus" and value > 1 and value % 1:  # of infinity it is no number, and true
            found.append(f"resources.gpus is {value!r}; wanted a whole number, or a part of one GPU")
        elif name == "step_seconds" and not value > 0:
            found.append(f"resources.step_seconds is {value!r}; wanted more than 0")
    return found


def _custom_faults(given: Any) -> Iterator[str]:
    if not isinstance(given, Mapping):
        yield f"resources.custom is {given!r:.60}; wanted names and amounts, as nodes were started with: {{big: 1}}"
        return
    for name, value in given.items():
        own = {one.lower(): key for key, one in NAMES.items()}.get(str(name).lower())
        if not isinstance(name, str) or own:
            yield f"resources.custom has the name {name!r}; " + (f"wanted {own} instead" if own else "wanted a text")
        elif not _number(value) or not 0 < value < math.inf or (value > 1 and value != int(value)):
            yield f"resources.custom.{name} is {value!r:.60}; wanted a whole number, or one between 0 and 1"


def _label_faults(given: Any) -> Iterator[str]:
    if not isinstance(given, Mapping):
        yield f"resources.labels is {given!r:.60}; wanted labels of nodes and their values: {{zone: a}}"
        return
    for name, value in given.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        if not isinstance(name, str) or not _KEY.fullmatch(name):
            yield f"resources.labels has the name {name!r}; wanted letters, digits, '-', '_' and '.', as nodes have it"
        elif not values or not all(isinstance(v, str) and _VALUE.fullmatch(v) for v in values):
            yield f"resources.labels.{name} is {value!r:.60}; wanted a value, or a list of values, as texts"


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
