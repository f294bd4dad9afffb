"""Cells of the table: what names one, and the file that keeps what was measured."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results.jsonl")
ARMS: Mapping[str, str] = {
    "a": "autotransfer fit, as a user calls it",
    "a:again": "the same once more: same data, a new grid of lr_ratio, what the first run left in the cache",
    "a:trials": "a with a budget of 12 trials, which the ablations are compared with",
    "a:no-store": "a:trials without the store",
    "a:no-head-start": "a:trials without the head start",
    "a:no-pruning": "a:trials without pruning in the survey",
    "a:single-score": "a:trials with one score in the survey",
    "a:random-order": "a:trials with candidates in random order",
    "e": "one plain full fine-tune of the winner's backbone",
    "e:static": "the same of the backbone with most parameters",
    "b": "Ray Tune, ASHA, a function trainable",
    "c": "b with reuse_actors",
    "d": "random search, full training",
    "f": "exhaustive grid",
}
"""By name, in the order in which the arms of one task and seed run."""
WHOLE, TRIALS = "a:trials", 12
"""With a budget of seconds a search that is made dearer ends earlier, so ablations are compared at equal trials."""
ABLATIONS: Mapping[str, str] = {
    "a:no-store": "store",
    "a:no-head-start": "head_start",
    "a:no-pruning": "pruning",
    "a:single-score": "single_score",
    "a:random-order": "random_order",
}
"""What is left out, as ``ablated.py`` calls it."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement: an arm on a task with a seed."""

    task: str
    seed: int
    arm: str
    rows: int
    backbones: tuple[str, ...]
    samples: int
    epochs: int
    workers: int
    unit_of: str = ""
    """The backbone of the unit; it depends on arm a's winner."""

    @property
    def key(self) -> str:
        """A hash of these settings; the numbers of an arm that does not draw are the same for all ``samples``."""
        body = dataclasses.asdict(self)
        if self.arm not in ("b", "c", "d"):
            del body["samples"]
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


class Keyed(Protocol):
    """A dataclass of settings that has a key."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def key(self) -> str:
        """A hash of the settings."""
        ...


class Results:
    """One JSON line a cell, appended when it is finished."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[dict[str, Any]]:
        """Return all lines, oldest first; a last one that was cut short is left out.

        Raises:
            ValueError: another line is damaged.
        """
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        found, lines = [], text.splitlines()
        for number, line in enumerate(lines, 1):
            try:
                found.append(json.loads(line))
            except ValueError as error:
                if number == len(lines) and not text.endswith("\n"):
                    break
                raise ValueError(f"{self.path}, line {number} is damaged: {error}") from error
        return found

    def latest(self) -> dict[str, dict[str, Any]]:
        """Return the latest good line of each cell, by key."""
        return {line["key"]: line for line in self.lines() if line["code"] == 0}

    def add(self, cell: Keyed, numbers: Mapping[str, Any]) -> None:
        """Append a line; it is on disk when this returns."""
        body = {"key": cell.key, **dataclasses.asdict(cell), **numbers, "commit": commit(), "machine": machine()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        if text and not text.endswith("\n"):  # a run was killed while it wrote
            self.path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(body) + "\n")
            file.flush()
            os.fsync(file.fileno())


def commit() -> str:
    """Return the commit of this tree, with ``+`` where files differ from it."""
    head = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=ROOT, capture_output=True)
    return head.stdout.strip() + ("+" if changed.returncode == 1 else "")


def machine() -> str:
    """Return processor, cores and Python."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
