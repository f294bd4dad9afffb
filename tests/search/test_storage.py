"""A run folder that is gone or full: waited for, then one error; a ledger that stays whole."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from autotransfer.errors import StorageError, TrialFailedError
from autotransfer.schema import Recipe, TrialRecord
from autotransfer.search import storage
from autotransfer.search.jobs import RungJob
from autotransfer.search.ledger import Ledger, read_ledger

RECIPE = Recipe(backbone="a/b", strategy="c/d")


def _record(id: str, objective: float = 0.5) -> TrialRecord:
    return TrialRecord(id=id, recipe=RECIPE, status="done", objective=objective)


def test_a_folder_that_comes_back_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "EVERY", 0.02)
    folder, away, tries = tmp_path / "run", tmp_path / "away", list[int]()
    folder.mkdir()
    folder.rename(away)
    back = threading.Timer(0.3, lambda: away.rename(folder))
    back.start()

    def write() -> str:
        tries.append(1)
        (folder / "file").write_text("whole")
        return "done"

    assert storage.patient(folder, write) == "done"
    back.join()
    assert len(tries) == 2
    assert (folder / "file").read_text() == "whole"


def test_a_folder_that_stays_away_or_full_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "EVERY", 0.02)
    monkeypatch.setattr(storage, "PATIENCE", 0.1)
    with pytest.raises(StorageError, match=r"gone cannot be used: No such file or directory; see that it is there"):
        storage.patient(tmp_path / "gone", lambda: (tmp_path / "gone" / "file").write_text("x"))
    assert not (tmp_path / "gone").exists()  # nothing took its place

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match="No space left on device"):
        storage.patient(tmp_path, full)


def test_faults_of_others_are_not_waited_for(tmp_path: Path) -> None:
    for error in (TrialFailedError("diverged"), FileNotFoundError("/elsewhere/cat.jpg"), ValueError("no")):
        tries = list[int]()

        def fail(error: Exception = error, tries: list[int] = tries) -> None:
            tries.append(1)
            raise error

        with pytest.raises(type(error)):
            storage.patient(tmp_path, fail)
        assert len(tries) == 1


def test_a_full_disk_leaves_the_ledger_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "EVERY", 0.02)
    monkeypatch.setattr(storage, "PATIENCE", 0.1)
    ledger = Ledger(tmp_path / "trials.jsonl", tmp_path)
    ledger.add(RungJob(id="t1", recipe=RECIPE), _record("t1"))

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left"):
            ledger.add(RungJob(id="t2", recipe=RECIPE), _record("t2"))
    assert (tmp_path / "trials.jsonl").read_text().count("\n") == 1
    Ledger(tmp_path / "trials.jsonl", tmp_path).add(RungJob(id="t3", recipe=RECIPE), _record("t3"))
    assert [r.id for r in read_ledger(tmp_path / "trials.jsonl") if isinstance(r, TrialRecord)] == ["t1", "t3"]
