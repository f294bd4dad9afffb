"""The board: which trial leads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from autotransfer.schema import Candidate, Recipe, TrialRecord
from autotransfer.search.board import Board
from autotransfer.search.criterion import Criterion
from autotransfer.search.jobs import Context

RECIPE = Recipe(backbone="m/a", strategy="core/probe")


class _Silent:
    def trial_finished(self, record: TrialRecord) -> None:
        pass


def _board(
    tmp_path: Path, *told: tuple[str, float, float | None], rows: int = 0, statuses: Sequence[str] = ()
) -> Board:
    """Return a board of trials with these letters, objectives and losses, on so many validation rows."""
    context = Context(prepared=cast("Any", None), manifest=[], specs={}, weights={}, work=str(tmp_path))
    board = Board(context, cast("Any", _Silent()), criterion=Criterion(rows=rows))
    for i, (letter, objective, loss) in enumerate(told):
        trial = board.begin(Candidate(recipe=RECIPE, reason=""), (), (None,), moves=False, letter=letter)
        status, folder = statuses[i] if statuses else "done", f"c{i}"
        (tmp_path / folder).mkdir(exist_ok=True)
        record = TrialRecord(id=trial.id, recipe=RECIPE, status=status, objective=objective, calibrated_loss=loss)
        board.take(trial, replace(record, checkpoint=folder))
    return board


@pytest.mark.parametrize(
    ("told", "leads"),
    [
        ([("t", 0.8, 0.1), ("t", 0.9, 0.9)], "t002"),  # the objective decides
        ([("t", 0.9, 0.5), ("t", 0.9, 0.3)], "t002"),  # a tie: the loss
        ([("t", 0.9, 0.3), ("t", 0.9, 0.3)], "t001"),  # still one: the earlier
        ([("t", -2.0, None), ("t", -2.0, None)], "t001"),  # numbers have no loss
        ([("t", 0.9, 0.5), ("f", 0.9, 0.1)], "t001"),  # a finalist must win by the objective
        ([("t", 0.9, 0.5), ("f", 0.91, 0.9)], "f002"),
        ([("b", 0.9, 0.2), ("t", 0.9, 0.4)], "b001"),
    ],
)
def test_who_leads(tmp_path: Path, told: list[tuple[str, float, float | None]], leads: str) -> None:
    leader = _board(tmp_path, *told).leader()
    assert leader is not None
    assert leader.id == leads


@pytest.mark.parametrize(
    ("told", "ahead"),
    [
        ([("b", 0.9, 0.2), ("t", 0.7, 0.4), ("t", 0.8, 0.4)], "t003"),  # the best that transfers is trained to its end
        ([("b", 0.7, 0.2), ("t", 0.8, 0.4), ("t", 0.9, 0.4)], "t003"),
        ([("b", 0.7, 0.2), ("t", 0.8, 0.4), ("s", 0.9, 0.4), ("f", 0.85, 0.1)], "f004"),
        ([("b", 0.9, 0.2), ("f", 0.8, 0.1)], "b001"),
    ],
)
def test_a_baseline_that_leads_keeps_no_training_from_its_end(
    tmp_path: Path, told: list[tuple[str, float, float | None]], ahead: str
) -> None:
    found = _board(tmp_path, *told).ahead()
    assert found is not None
    assert found.id == ahead


SURE, BETTER, BEST, FAR = ("t", 0.86, 0.3), ("t", 0.88, 0.4), ("t", 0.89, 0.9), ("t", 0.80, 0.1)


@pytest.mark.parametrize(
    ("rows", "told", "statuses", "leads"),
    [
        (0, [SURE, BEST], (), "t002"),
        (60, [SURE, BEST], (), "t001"),  # one standard error of .89 on 60 rows is .040
        (60, [FAR, BEST], (), "t002"),
        (400, [SURE, BEST], (), "t002"),  # on 400 it is .016
        (60, [SURE, BEST], ("stopped", "done"), "t002"),  # it was given up
        (60, [SURE, BEST], ("done", "promoted"), "t002"),  # the best goes on before anything is chosen
        (60, [SURE, ("t", 0.89, None)], (), "t002"),
        (60, [BETTER, SURE, BEST], (), "t002"),
        (60, [SURE, BETTER, ("t", 0.89, 0.3)], (), "t003"),  # equally sure, and better
        (60, [BEST, ("f", 0.88, 0.4)], (), "f002"),
        (60, [("b", 0.88, 0.4), BEST], (), "t002"),
        (60, [("b", 0.89, 0.1), SURE], (), "t002"),  # a baseline about as good as what transfers is none
        (60, [("b", 0.89, 0.1), SURE, FAR], ("done", "promoted", "done"), "t002"),
        (60, [("b", 0.89, 0.1), FAR], (), "b001"),
        (0, [("b", 0.89, 0.1), SURE], (), "b001"),
    ],
)
def test_few_rows_tell_no_more_than_they_can(
    tmp_path: Path, rows: int, told: list[Any], statuses: Sequence[str], leads: str
) -> None:
    board = _board(tmp_path, *told, rows=rows, statuses=statuses)
    leading = board.leading()
    assert leading is not None
    assert leading.id == leads
    best = max(board.trials, key=lambda t: t.standing)
    assert bool(board.chosen()) == (leading is not best)
    assert board.chosen().startswith(f"{leads} won, and not {best.id}") or leading is best


def test_why_a_baseline_was_left_out_is_told(tmp_path: Path) -> None:
    board = _board(tmp_path, ("b", 0.89, 0.1), SURE, BETTER, rows=60)
    assert board.chosen() == (
        "t002 won, and not b001: of 60 validation rows 0.8600 is within one standard error (0.0404) of 0.8900, "
        "and it transfers"
    )
    board.tidy()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c0", "c1", "c2"]


def test_trials_without_a_loss_are_compared_by_their_score(tmp_path: Path) -> None:
    board = _board(tmp_path, SURE, BEST, rows=60)
    first, best = board.trials
    assert board.leading() is first
    best.record = replace(best.record, calibrated_loss=None)
    assert board.leading() is best
    assert board.chosen() == ""


def test_checkpoints_of_what_may_yet_lead_are_kept(tmp_path: Path) -> None:
    worse = ("t", 0.87, 0.5)
    board = _board(tmp_path, SURE, BETTER, worse, BEST, FAR, rows=60)
    board.tidy()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c0", "c1", "c3"]
    board = _board(tmp_path, SURE, BETTER, worse, BEST, FAR)
    board.tidy()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c3"]
