"""What is left to do where a search ends before any trial has, or all failed: one head is better than no model."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from autotransfer.recipes import spec_id
from autotransfer.schema import Candidate, SurveyRecord, TrialRecord
from autotransfer.search.candidates import Proposer

if TYPE_CHECKING:
    from autotransfer.search.jobs import Generation, Record
    from autotransfer.search.policy import Search

FEWEST = 32
"""Rows that a head is trained on at least, as far as there are so many."""


def too_late(search: Search, proposer: Proposer) -> Generation:
    """Train one head on as many rows as the time allows; on all where no clock runs and every trial has failed."""
    heads = [c for c in proposer.again().guaranteed() if not search.moves(c)]
    if search.deadline == float("inf"):
        yield from _on_all_rows(search, heads)
        return
    for candidate in heads[:1]:
        id = spec_id(candidate.recipe)
        left = max(1.0, 0.8 * (search.end(id) - time.time()))
        rows = int(0.75 * left / max(search.row_seconds(id), 1e-6))
        rows = min(search.profile.train, max(FEWEST, rows))
        trial = search.begin(candidate)
        # However late it is, these few rows are read: twice each, and a fourth as many validation rows.
        needed = 1.5 * (_opening(search, id) + 2.5 * search.row_seconds(id) * rows)
        until = time.time() + max(2.0 * left, needed)
        text = f"trained on {rows} of {search.profile.train} rows: the budget does not reach for more"
        records = yield [replace(search.rung(trial), rows=rows, deadline=until)]
        _take(search, trial.id, records[0], text)
        search.status = "budget"


def _opening(search: Search, id: str) -> float:
    """Return the seconds of a backbone's survey that were not spent on rows."""
    record = search.rounds.record(id)
    return max(0.0, record.seconds - record.seconds_per_row * record.rows)


def _on_all_rows(search: Search, heads: list[Candidate]) -> Generation:
    """Train one head beyond the number of trials that was asked for: rather one that has not failed before."""
    heads = sorted(heads, key=lambda c: (spec_id(c.recipe), c.recipe.strategy) in search.space.failed)
    for candidate in heads[:1]:
        trial = search.begin(candidate)
        records = yield [search.rung(trial)]
        _take(search, trial.id, records[0], "trained beyond the number of trials: each of these failed")


def stopped(search: Search, known: Iterable[Record]) -> Generation:
    """Train one head on the features of the best backbone whose survey was there when the user stopped the search.

    Args:
        search: in which no trial has ended.
        known: the records that its ledger holds.
    """
    surveyed = {r.backbone: r for r in known if isinstance(r, SurveyRecord)}
    search.rounds.records = [r for r in surveyed.values() if r.backbone in search.context.specs]
    search.space.frozen = {r.backbone: r.dtype for r in search.survey}
    order = search.rounds.order()
    heads = Proposer(search.space, search.survey, order, None, 1).guaranteed()
    for candidate in [c for c in heads if not search.moves(c)][:1]:
        record = search.rounds.record(spec_id(candidate.recipe))
        trial, rows = search.begin(candidate, "r"), max(min(FEWEST, search.profile.train), record.rows)
        job = search.rung(trial)
        whole = record.status == "done"
        records = yield [job if whole else replace(job, rows=rows)]
        text = "the only trial: the search was stopped during the survey"
        _take(search, trial.id, records[0], text if whole else f"{text}; on {rows} of {search.profile.train} rows")


def again(search: Search) -> Generation:
    """Train the leader's last rung again where its checkpoint is gone: of a run that went on, or was tampered with."""
    while (trial := search.board.leading()) is not None and not search.board.holds(trial):
        rung, done = trial.record.rung, trial.done
        trial.done = rung
        job = replace(search.rung(trial), begins="", again=True, deadline=float("inf"))
        records = yield [job]
        record, trial.done = records[0], done
        assert isinstance(record, TrialRecord)
        made = record.checkpoint if record.status != "failed" else ""
        trial.record = replace(trial.record, checkpoint=made) if made else record


def _take(search: Search, id: str, record: Record, note: str) -> None:
    assert isinstance(record, TrialRecord)
    trial = next(t for t in search.board.trials if t.id == id)
    search.board.take(trial, replace(record, notes=(*record.notes, note)))
