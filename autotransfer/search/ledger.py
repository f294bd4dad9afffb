"""The ledger: one JSON line a finished job, appended; a later run with the same jobs takes its records from it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from autotransfer.codec import dumps, from_json, to_json
from autotransfer.errors import ModelError
from autotransfer.schema import SurveyRecord, TrialRecord
from autotransfer.search.jobs import GapJob, Job, Record, SurveyJob

_KINDS = {"survey": SurveyRecord, "trial": TrialRecord}


class Ledger:
    """Records by the key of their job.

    Args:
        path: ``trials.jsonl``; None: kept in memory only.
        work: folder of features and checkpoints; a record whose file is gone is not used again.
    """

    def __init__(self, path: Path | None, work: Path) -> None:
        self.path = path
        self.work = work
        self.records: dict[str, Record] = {}
        if path is not None and path.exists():
            self.records = dict(_lines(path))

    def find(self, job: Job) -> Record | None:
        """Return what this very job gave before, if what it left behind is still there."""
        record = self.records.get(job.key)
        if record is None or record.status in ("failed", "stopped"):
            return None
        if isinstance(job, SurveyJob) and isinstance(record, SurveyRecord) and _cut_short(job, record):
            return None
        if isinstance(job, GapJob) and isinstance(record, SurveyRecord) and record.gap is None:
            return None
        left = record.features if isinstance(record, SurveyRecord) else record.checkpoint
        return record if left and (self.work / left).exists() else None

    def add(self, job: Job, record: Record) -> None:
        """Append a record; the line is on disk when this returns."""
        self.records[job.key] = record
        if self.path is None:
            return
        kind = "survey" if isinstance(record, SurveyRecord) else "trial"
        line = dumps({"job": job.key, "kind": kind, "record": to_json(record)})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


def _cut_short(job: SurveyJob, record: SurveyRecord) -> bool:
    """Return whether a survey's time was up before it had read what it was asked to."""
    return record.rows < job.rows or (job.last and record.status != "done")


def read_ledger(path: Path) -> list[Record]:
    """Return all records of a ledger, oldest first.

    Raises:
        ModelError: a line other than the last is damaged.
    """
    return [record for _, record in _lines(path)]


def _lines(path: Path) -> list[tuple[str, Record]]:
    found: list[tuple[str, Record]] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            body = json.loads(line)
            found.append((body["job"], from_json(_KINDS[body["kind"]], body["record"])))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):  # a process died while it wrote this line
                break
            raise ModelError(f"{path}, line {number} is damaged: {error}") from error
    return found
