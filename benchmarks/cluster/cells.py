"""Cells of the cluster's tables: what names one, and the file that keeps what was measured."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).with_name("results.jsonl")
KINDS: Mapping[str, str] = {
    "undisturbed": "nothing is killed",
    "driver": "the driver gets SIGKILL, then the same call, or resume",
    "worker": "a process that runs trials gets SIGKILL",
    "node": "a raylet and all that it has started get SIGKILL; the node is started anew after 5 s",
    "disk": "the run's folder, a small tmpfs, is filled for 10 s",
    "disk-stays": "it stays full: the run ends; then there is room, and resume",
    "storage": "the run's folder is renamed for 10 s",
    "storage-stays": "it stays away until the run has ended; then it is back, and resume",
    "spaces": "nothing is killed; each node has an address of its own, and the driver is on one that is not the head",
    "client": "the same by ray://, from what is no node",
    "one": "one worker of two, for the speedup",
    "two": "two workers",
    "overhead": "trivial trials",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement."""

    kind: str
    number: int
    """Draws the moment and the victim."""
    rows: int
    trials: int
    workers: int

    @property
    def key(self) -> str:
        """A hash of these settings."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]
