"""The unlabeled rows in a search: they are read once, by the best backbone, before any candidate is proposed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autotransfer.gap import POOLED_ROWS
from autotransfer.search.criterion import JUDGED_ROWS, choose, plain
from autotransfer.search.jobs import Generation

if TYPE_CHECKING:
    from autotransfer.search.policy import Search


def compare(search: Search, order: Sequence[str]) -> Generation:
    """Let the best backbone read the unlabeled rows, where there are some, and choose what trials are compared by.

    Args:
        search: that has surveyed its backbones.
        order: their ids, best first.
    """
    rows = search.profile.unlabeled
    search.board.criterion = plain(search.profile)
    if rows is None or not order:
        return
    cost = search.costs.row(order[0]) * min(rows.rows, POOLED_ROWS) + search.costs.remaining(order[0])
    why = "" if search.in_time(order[0], cost) else "the budget leaves no time for it"
    if not why:
        yield from search.rounds.complete({order[0]})
        yield from search.rounds.gap(order[0])
        search.spent += cost
        why = next(iter(search.rounds.record(order[0]).notes[-1:]), "its survey is not whole")
    gap = search.rounds.record(order[0]).gap
    search.space.gap = gap
    search.notes += [f"the unlabeled rows were not compared with the training rows: {why}"] if gap is None else []
    search.board.criterion = choose(search.profile, gap, why)
    search.prices.judged = min(rows.rows, JUDGED_ROWS) if search.board.criterion.informed else 0
