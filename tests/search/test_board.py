"""The board: which trial leads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from autotransfer.schema import Candidate, Recipe, TrialRecord
from autotransfer.search.board import Board
from autotransfer.search.jobs import Context

RECIPE = Recipe(backbone="m/a", strategy="core/probe")


class _Silent:
    def trial_finished(self, record: TrialRecord) -> None:
        pass


def _board(tmp_path: Path, *told: tuple[str, float, float | None]) -> Board:
    """Return a board of trials with these letters, objectives and log losses."""
    context = Context(prepared=cast("Any", None), manifest=[], specs={}, weights={}, work=str(tmp_path))
    board = Board(context, cast("Any", _Silent()))
    for letter, objective, loss in told:
        trial = board.begin(Candidate(recipe=RECIPE, reason=""), (), (None,), moves=False, letter=letter)
        scores = {"target": {} if loss is None else {"log_loss": loss}}
        board.take(trial, TrialRecord(id=trial.id, recipe=RECIPE, status="done", objective=objective, scores=scores))
    return board


@pytest.mark.parametrize(
    ("told", "leads"),
    [
        ([("t", 0.8, 0.1), ("t", 0.9, 0.9)], "t002"),  # the objective decides
        ([("t", 0.9, 0.5), ("t", 0.9, 0.3)], "t002"),  # a tie: the log loss
        ([("t", 0.9, 0.3), ("t", 0.9, 0.3)], "t001"),  # still one: the earlier
        ([("t", -2.0, None), ("t", -2.0, None)], "t001"),  # numbers have no log loss
        ([("t", 0.9, 0.5), ("f", 0.9, 0.1)], "t001"),  # a finalist must win by the objective
        ([("t", 0.9, 0.5), ("f", 0.91, 0.9)], "f002"),
        ([("b", 0.9, 0.2), ("t", 0.9, 0.4)], "b001"),
    ],
)
def test_who_leads(tmp_path: Path, told: list[tuple[str, float, float | None]], leads: str) -> None:
    leader = _board(tmp_path, *told).leader()
    assert leader is not None
    assert leader.id == leads
