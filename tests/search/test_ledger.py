"""The ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotransfer.errors import ModelError
from autotransfer.schema import Recipe, SurveyRecord, TrialRecord
from autotransfer.search.jobs import RungJob, SurveyJob
from autotransfer.search.ledger import Ledger, read_ledger

RECIPE = Recipe(backbone="a/b", strategy="c/d", values={"lr": 0.1})


def _trial(**more: object) -> TrialRecord:
    return TrialRecord(id="t001", recipe=RECIPE, status="done", objective=0.5, checkpoint="checkpoint-t001", **more)  # type: ignore[arg-type]


def test_a_record_is_found_again_by_its_job_while_its_files_are_there(tmp_path: Path) -> None:
    job, work = RungJob(id="t001", recipe=RECIPE), tmp_path / "work"
    (work / "checkpoint-t001").mkdir(parents=True)
    Ledger(tmp_path / "trials.jsonl", work).add(job, _trial())
    again = Ledger(tmp_path / "trials.jsonl", work)
    assert again.find(job) == _trial()
    assert again.find(RungJob(id="t001", recipe=RECIPE, rung=1)) is None
    (work / "checkpoint-t001").rmdir()
    assert again.find(job) is None


def test_deadlines_are_no_part_of_a_job(tmp_path: Path) -> None:
    assert RungJob(id="t001", recipe=RECIPE, deadline=5.0).key == RungJob(id="t001", recipe=RECIPE).key
    assert SurveyJob(backbone="a/b", rows=9, seconds=1.0).key == SurveyJob(backbone="a/b", rows=9).key


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_what_failed_or_was_cut_short_is_tried_again(tmp_path: Path, status: str) -> None:
    job = RungJob(id="t001", recipe=RECIPE)
    (tmp_path / "checkpoint-t001").mkdir()
    ledger = Ledger(None, tmp_path)
    ledger.add(job, TrialRecord(id="t001", recipe=RECIPE, status=status, checkpoint="checkpoint-t001"))
    assert ledger.find(job) is None


def test_a_last_line_cut_short_is_passed_over_and_another_damaged_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    ledger = Ledger(path, tmp_path)
    ledger.add(SurveyJob(backbone="a/b", rows=3), SurveyRecord(backbone="a/b", status="done"))
    ledger.add(RungJob(id="t001", recipe=RECIPE), _trial())
    lines = path.read_text().splitlines()
    path.write_text(lines[0] + "\n" + lines[1][:40])
    assert read_ledger(path) == [SurveyRecord(backbone="a/b", status="done")]
    path.write_text(lines[0][:40] + "\n" + lines[1] + "\n")
    with pytest.raises(ModelError, match="line 1 is damaged"):
        read_ledger(path)
