"""The one head that is trained where the time is over before any trial has ended."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from autotransfer.schema import Candidate, Recipe, SurveyRecord
from autotransfer.search import rescue
from autotransfer.search.jobs import RungJob

RECIPE = Recipe(backbone="m/a", strategy="core/probe")


@pytest.mark.parametrize("seconds_per_row", [0.1, 1.0])
def test_the_few_rows_of_the_last_resort_are_given_the_time_to_be_read(seconds_per_row: float) -> None:
    record = SurveyRecord(
        backbone="m/a", status="partial", rows=32, seconds_per_row=seconds_per_row, seconds=32 * seconds_per_row + 4.0
    )
    search: Any = SimpleNamespace(
        rounds=SimpleNamespace(record=lambda id: record),
        profile=SimpleNamespace(train=400),
        row_seconds=lambda id: seconds_per_row,
        moves=lambda candidate: False,
        end=lambda id: 0.0,  # long ago
        deadline=1.0,
        begin=lambda candidate: SimpleNamespace(id="t001"),
        rung=lambda trial: RungJob(id="t001", recipe=RECIPE),
    )
    heads = SimpleNamespace(guaranteed=lambda: [Candidate(recipe=RECIPE, reason="heads")])
    proposer: Any = SimpleNamespace(again=lambda: heads)
    (job,) = next(rescue.too_late(search, proposer))
    assert isinstance(job, RungJob)
    assert job.rows == rescue.FEWEST
    # It is opened, and 32 training rows are read twice: for the head's standards, and for the head.
    assert job.deadline - time.time() > 4.0 + 2 * 32 * seconds_per_row
