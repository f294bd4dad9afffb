"""The ledger: one JSON line a finished job, appended; a later run with the same jobs takes its records from it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

from autotransfer.codec import dumps, from_json, to_json
from autotransfer.errors import ModelError
from autotransfer.schema import SurveyRecord, TrialRecord
from autotransfer.search import storage
from autotransfer.search.jobs import GapJob, Job, Record, RungJob, SurveyJob

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
            _whole_lines(path)
            self.records = dict(_lines(path))

    def find(self, job: Job) -> Record | None:
        """Return what this very job gave before, if what it left behind is still there, or can be made again.

        Checkpoints of trials that lost, and of earlier rungs, are removed during a search: their records still hold.
        Where such a checkpoint is wanted after all, a rung is trained from its start again, which gives the same.
        """
        record = self.records.get(job.key)
        if record is None or record.status in ("failed", "stopped"):
            return None
        if isinstance(job, RungJob) and not job.id.startswith("b"):
            return None if job.again else record
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
        storage.patient(self.path.parent, lambda: self._append(f"{line}\n".encode()))

    def _append(self, line: bytes) -> None:
        assert self.path is not None
        with self.path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                written = file.write(line)
                if written < len(line):  # the disk is full
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise


def _whole_lines(path: Path) -> None:
    """Cut off a last line that was not written to its end, so that the next one does not go on there."""
    with path.open("r+b") as file:
        body = file.read()
        if not body.endswith(b"\n"):
            file.truncate(body.rfind(b"\n") + 1)


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
