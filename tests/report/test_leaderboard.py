"""The leaderboard: every trial once, best first, and what was not tried, with the reason."""

import pytest

from autotransfer.errors import ModelError
from autotransfer.report.leaderboard import COLUMNS, latest_records, rows, rows_of
from autotransfer.schema import Recipe, SurveyRecord, TrialRecord
from autotransfer.search.jobs import RungJob, SurveyJob
from autotransfer.search.ledger import Ledger


def test_order_is_best_first_then_failures_then_what_was_not_tried(run):
    board = rows_of(run)
    assert [r["trial"] for r in board] == ["t002", "t003", "b001", "t004", None, None, None]
    assert [r["backbone"] for r in board[4:]] == ["acme/other", "acme/late", "hub/gone"]
    assert [r["status"] for r in board[3:]] == ["failed", "surveyed", "failed", "skipped"]
    assert [r["reason"] for r in board[3:]] == [
        "the loss is not finite",
        "no trial was spent on it",
        "it hangs",
        "its weights are not in the cache",
    ]


def test_every_row_has_every_column(run):
    assert {frozenset(r) for r in rows_of(run)} == {frozenset((*COLUMNS, "survey", "winner"))}


def test_the_winner_is_marked_and_its_values_are_shown(run):
    (won,) = [r for r in rows_of(run) if r["winner"]]
    assert (won["trial"], won["freeze"], won["lr"], won["lr_ratio"], won["score"]) == ("t002", "1/3", 1e-3, 0.1, 0.912)
    assert won["survey"] == 0.85


def test_a_failed_trial_has_no_score(run):
    assert [r["score"] for r in rows_of(run) if r["status"] == "failed"] == [None, None]


def test_scores_are_in_the_metrics_own_sign(of_numbers):
    board = rows_of(of_numbers)
    assert [r["trial"] for r in board[:3]] == ["t002", "t003", "b001"]
    assert [round(r["score"], 3) for r in board[:3]] == [0.088, 0.139, 0.488]
    assert board[0]["survey"] == pytest.approx(0.15)


def test_a_run_that_is_not_over_is_read_from_its_ledger(tmp_path):
    ledger = Ledger(tmp_path / "trials.jsonl", tmp_path)
    recipe = Recipe(backbone="a/b", strategy="core/full")
    ledger.add(SurveyJob(backbone="a/b", rows=8), SurveyRecord(backbone="a/b", status="partial", score=0.4))
    ledger.add(SurveyJob(backbone="a/b", rows=16), SurveyRecord(backbone="a/b", status="done", score=0.5))
    for rung, objective in enumerate((0.6, 0.8)):
        job = RungJob(id="t001", recipe=recipe, rung=rung)
        ledger.add(job, TrialRecord(id="t001", recipe=recipe, status="promoted", rung=rung, objective=objective))
    trials, survey = latest_records(tmp_path / "trials.jsonl")
    (row,) = rows(trials, survey, [], "accuracy")
    assert (row["score"], row["survey"], row["winner"]) == (0.8, 0.5, False)


def test_a_damaged_ledger_is_said(tmp_path):
    file = tmp_path / "trials.jsonl"
    file.write_text('{"job": 1}\n{"job": 2}\n')
    with pytest.raises(ModelError, match="line 1 is damaged"):
        latest_records(file)
