"""The ledger."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autotransfer.errors import ModelError
from autotransfer.schema import Recipe, SurveyRecord, TrialRecord
from autotransfer.search.jobs import RungJob, SurveyJob
from autotransfer.search.ledger import Ledger, read_ledger

RECIPE = Recipe(backbone="a/b", strategy="c/d", values={"lr": 0.1})


def _trial(**more: object) -> TrialRecord:
    return TrialRecord(id="t001", recipe=RECIPE, status="done", objective=0.5, checkpoint="checkpoint-t001", **more)  # type: ignore[arg-type]


def test_a_record_is_found_again_by_its_job(tmp_path: Path) -> None:
    job, work = RungJob(id="t001", recipe=RECIPE), tmp_path / "work"
    (work / "checkpoint-t001").mkdir(parents=True)
    Ledger(tmp_path / "trials.jsonl", work).add(job, _trial())
    again = Ledger(tmp_path / "trials.jsonl", work)
    assert again.find(job) == _trial()
    assert again.find(RungJob(id="t001", recipe=RECIPE, rung=1)) is None
    (work / "checkpoint-t001").rmdir()  # as those of trials that lost are
    assert again.find(job) == _trial()
    assert again.find(replace(job, again=True)) is None  # it is wanted after all


def test_what_a_survey_or_a_baseline_left_behind_must_be_there(tmp_path: Path) -> None:
    survey, baseline = SurveyJob(backbone="a/b", rows=3), RungJob(id="b001", recipe=RECIPE)
    ledger = Ledger(tmp_path / "trials.jsonl", tmp_path)
    ledger.add(survey, SurveyRecord(backbone="a/b", status="done", rows=3, features="features"))
    ledger.add(baseline, replace(_trial(), id="b001"))
    assert ledger.find(survey) is None
    assert ledger.find(baseline) is None
    (tmp_path / "features").touch()
    (tmp_path / "checkpoint-t001").mkdir()
    assert ledger.find(survey) is not None
    assert ledger.find(baseline) is not None


def test_a_line_cut_short_is_cut_off_before_the_next_is_written(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    Ledger(path, tmp_path).add(RungJob(id="t001", recipe=RECIPE), _trial())
    whole = path.read_text()
    path.write_text(whole + whole[:40])
    Ledger(path, tmp_path).add(RungJob(id="t002", recipe=RECIPE), replace(_trial(), id="t002"))
    assert [r.id for r in read_ledger(path) if isinstance(r, TrialRecord)] == ["t001", "t002"]


def test_deadlines_are_no_part_of_a_job(tmp_path: Path) -> None:
    assert RungJob(id="t001", recipe=RECIPE, deadline=5.0).key == RungJob(id="t001", recipe=RECIPE).key
    assert SurveyJob(backbone="a/b", rows=9, seconds=1.0, deadline=5.0).key == SurveyJob(backbone="a/b", rows=9).key


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
