"""Memory between runs: what earlier searches found, in the cache folder, as a prior for later ones.

It orders candidates, spares recipes that fell far behind on the same data, and touches no score. One JSON line a
finished run; several runs may write at once.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autotransfer.codec import dumps, from_json
from autotransfer.errors import ModelError
from autotransfer.gap import rows_hash
from autotransfer.profiles import Profile
from autotransfer.schema import Recipe, SurveyRecord, TrialRecord
from autotransfer.search.surrogate import Observation
from autotransfer.weights import cache_folder

log = logging.getLogger(__name__)
FORMAT = 1
MOST_RUNS = 200
"""Runs that are kept; the oldest go."""
MOST_RECORDS = 200
"""Observations that a run begins with: more add little and cost time in every prediction."""
SAME_DATA, OTHER_DATA = 0.03, 0.1
"""Standard deviation, in skill, of an earlier result as a statement on this run: on the same data and on others."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A recipe of an earlier run."""

    recipe: Recipe
    gain: float
    """Final skill less the skill of its backbone's own head."""


@dataclass(frozen=True, kw_only=True)
class PastRun:
    """A line of the memory."""

    format: int
    fingerprint: str
    modality: str
    task: str
    rows: int
    classes: int
    seconds_per_row: Mapping[str, float]
    """Of a forward pass on the machine that ran it, by backbone."""
    tried: tuple[Tried, ...]


class Memory:
    """The file of past runs.

    Args:
        file: where it lies; None: ``memory.jsonl`` in the cache folder.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file or cache_folder() / "memory.jsonl"

    def recall(self, profile: Profile) -> list[Observation]:
        """Return what earlier runs of this modality found, those on the same data first, then the newest."""
        runs = [r for r in self._runs() if r.modality == profile.modality]
        runs = [*_on(runs, profile, same=True), *_on(runs, profile, same=False)]
        return [
            Observation(t.recipe, t.gain, _noise(run, profile), here=run.fingerprint == rows_of(profile))
            for run in runs
            for t in run.tried
        ][:MOST_RECORDS]

    def speeds(self) -> dict[str, float]:
        """Return the latest measured seconds of one row's forward pass, by backbone."""
        found: dict[str, float] = {}
        for run in reversed(self._runs()):
            found |= run.seconds_per_row
        return found

    def remember(
        self,
        profile: Profile,
        survey: Sequence[SurveyRecord],
        trials: Sequence[TrialRecord],
        gains: Mapping[str, float],
    ) -> None:
        """Add a finished run.

        Args:
            profile: of its data.
            survey: its survey.
            trials: its trials.
            gains: what each gained over its backbone's own head, in skill, by trial id; others are left out.
        """
        run = PastRun(
            format=FORMAT,
            fingerprint=rows_of(profile),
            modality=profile.modality,
            task=profile.task,
            rows=profile.train,
            classes=len(profile.classes),
            seconds_per_row={r.backbone: r.seconds_per_row for r in survey if r.seconds_per_row > 0},
            tried=tuple(Tried(recipe=t.recipe, gain=gains[t.id]) for t in trials if t.id in gains),
        )
        if not run.tried:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with (self.file.parent / f".{self.file.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._add(dumps(run))
        except OSError as error:  # a run is not lost because its memory cannot be written
            log.warning("this run is not remembered for later ones: %s", error)

    def _add(self, line: str) -> None:
        kept = [*self._lines(), line]
        if len(kept) <= MOST_RUNS:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            return
        temporary = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        temporary.write_text("".join(f"{one}\n" for one in kept[-MOST_RUNS:]), encoding="utf-8")
        os.replace(temporary, self.file)

    def _lines(self) -> list[str]:
        try:
            text = self.file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        return [line for line in text.split("\n") if line.strip()]

    def _runs(self) -> list[PastRun]:
        """Return the runs that can be read, newest first; damaged lines are counted and left out."""
        found, damaged = [], 0
        try:
            lines = self._lines()
        except OSError as error:
            log.warning("earlier runs cannot be used: %s", error)
            return []
        for line in reversed(lines):
            try:
                body = json.loads(line)
                if isinstance(body, dict) and body.get("format") != FORMAT:
                    continue  # of another version
                found.append(from_json(PastRun, body))
            except (ValueError, ModelError, RecursionError):
                damaged += 1
        if damaged:
            log.warning("%s has %d damaged lines, which are left out", self.file, damaged)
        return found


def _on(runs: Sequence[PastRun], profile: Profile, *, same: bool) -> list[PastRun]:
    return [r for r in runs if (r.fingerprint == rows_of(profile)) == same]


def _noise(run: PastRun, profile: Profile) -> float:
    return SAME_DATA if run.fingerprint == rows_of(profile) else OTHER_DATA


def rows_of(profile: Profile) -> str:
    """Return the hash of a run's rows, those without labels among them."""
    return rows_hash(profile.fingerprint, profile.unlabeled)
