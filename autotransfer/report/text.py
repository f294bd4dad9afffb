"""The account of a run as plain text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from autotransfer.report.leaderboard import COLUMNS, rows_of
from autotransfer.report.several import evaluation_lines, sharing_lines
from autotransfer.report.words import better, clock, columns, data_line, metric_of, recipe_line, refused, score
from autotransfer.schema import Evaluation, RunRecord, TrialRecord
from autotransfer.search.criterion import lines_of

TOP = 10
"""Rows of the leaderboard that are shown."""
BASELINE = "baseline"
"""The reason that a plan gives for trying a baseline."""
_UNTRIED = (
    "No trial of a pretrained backbone came to a score, so it is not known whether transfer pays here; "
    "where the budget ended, give a larger one."
)


def render(run: RunRecord, saved: str | None = None, top: int = TOP, plugin: str = "", page: str | None = None) -> str:
    """Return the report.

    Args:
        run: the record of the run.
        saved: the model's folder, where it was saved.
        top: rows of the leaderboard.
        plugin: the file that the model's backbone came from, where it was a single one.
        page: the file of the HTML report, where there is one.
    """
    lines = []
    for name, told in account(run):
        lines += [f"{name:9}{told[0]}", *(f"{'':9}{line}" for line in told[1:])]
    if saved is not None:
        named = f"   report {page}" if page is not None else ""
        again = f"   again: autotransfer predict {saved} NEW{plugin and f' --plugin {plugin}'}"
        lines.append(f"saved    {saved}{named}{again}")
    board = rows_of(run)
    lines += ["", *columns([_short(r) for r in board[:top]])]
    if len(board) > top:
        lines.append(f"... and {len(board) - top} more")
    left = not_used(run)
    if left:
        lines += ["", "not used", *(f"  {line}" for line in left)]
    told = list(notes(run))
    if told:
        lines += ["", "notes", *(f"  {n}" for n in told)]
    return "\n".join(lines) + "\n"


def account(run: RunRecord) -> list[tuple[str, list[str]]]:
    """Return what a report begins with: of each part its name and its lines, at least one."""
    parts = [
        ("data", [data_line(run.profile), *(i.text for i in run.profile.issues)]),
        ("survey", [_survey(run)]),
        *([("gap", gap)] if (gap := unlabeled(run)) else []),
        ("search", [_search(run)]),
        ("winner", _winner(run)),
        ("test", list(_test(run))),
        ("sharing", sharing_lines(run)),  # of several targets
        ("cost", [_cost(run)]),
    ]
    return [part for part in parts if part[1]]


def not_used(run: RunRecord) -> list[str]:
    """Return a line for each reason why trials failed, or backbones and strategies were left out."""
    left = [r for r in rows_of(run) if r["status"] in ("failed", "skipped")]
    return refused([(_name(r), f"{r['status']}: {r['reason']}") for r in left])


def notes(run: RunRecord) -> Iterator[str]:
    """Yield the notes of plan, search and winner."""
    yield from run.plan.notes
    yield from run.notes
    won = winner_of(run)
    yield from (f"winner: {n}" for n in (won.notes if won else ()))


def winner_of(run: RunRecord) -> TrialRecord | None:
    """Return the winning trial's record, where it is among the trials."""
    return next((t for t in run.trials if t.id == run.winner), None)


def verdict(test: Evaluation, baseline: Evaluation) -> str:
    """Return in one sentence whether transfer pays: judged on the same held-out rows, by the 95 % interval."""
    margin = score(abs(test.value - baseline.value))
    if not better(test.value, baseline.value, test.metric):
        return (
            f"Transfer does not pay here: on the same rows the best no-transfer baseline has {test.metric} "
            f"{score(baseline.value)}, the winner {score(test.value)}."
        )
    if math.isnan(test.low):
        return f"The winner is {margin} better than the baseline, but {test.rows:,} rows are too few to show anything."
    if test.low <= baseline.value <= test.high:
        return (
            f"The winner is {margin} better than the baseline, which lies within the interval: on {test.rows:,} rows "
            "it is not shown that transfer pays here."
        )
    return f"The winner is {margin} better than the baseline, which lies outside the interval: transfer pays here."


def conclusion(run: RunRecord) -> str:
    """Return whether transfer pays, or that it was not tried, for a run with held-out rows and a baseline."""
    assert run.test is not None
    assert run.baseline is not None
    return verdict(run.test, run.baseline) if _transferred(run) else _UNTRIED


def unlabeled(run: RunRecord) -> list[str]:
    """Return how the unlabeled rows differ and what recipes were compared by; empty where there are no such rows."""
    rows = run.profile.unlabeled
    if rows is None:
        return []
    return [*lines_of(rows.gap), f"criterion: {run.criterion}"] if run.criterion else lines_of(rows.gap)


def evaluation(found: Evaluation) -> str:
    """Return a score with its interval."""
    few = math.isnan(found.low)
    ends = "too few rows for an interval" if few else f"95 %: {score(found.low)} to {score(found.high)}"
    return f"{found.metric} {score(found.value)} ({ends}; {found.rows:,} rows)"


def share(run: RunRecord) -> float | None:
    """Return the run's CPU time as a share of one full fine-tune, where that was predicted."""
    return run.cpu_seconds / run.unit_cpu_seconds if run.unit_cpu_seconds else None


def _survey(run: RunRecord) -> str:
    done = [r for r in run.survey if r.status in ("done", "partial")]
    line = f"{len(done)}/{len(run.survey)} backbones"
    best = max((r for r in done if r.score is not None), key=lambda r: r.score or 0.0, default=None)
    if best is not None:
        line += f"   best closed-form probe {score(metric_of(best.score, run.profile.metric))} {best.backbone}"
    return line


def _search(run: RunRecord) -> str:
    failed = sum(t.status == "failed" for t in run.trials)
    line = f"{len(run.trials)} trials" + (f", {failed} failed" if failed else "")
    won = winner_of(run)
    if won is not None:
        line += f"   best {score(metric_of(won.objective, run.profile.metric))} on the validation rows"
    over = {"budget": "the budget ended", "interrupted": "it was interrupted"}
    return line + (f"   stopped early: {over[run.status]}" if run.status in over else "")


def _winner(run: RunRecord) -> list[str]:
    won = winner_of(run)
    if won is None:
        return [run.winner]
    reasons = [c.reason for c in run.plan.candidates if c.recipe.key == won.recipe.key and c.reason]
    return [recipe_line(won.recipe, won.shift), *(f"tried because: {r}" for r in reasons[:1])]


def _test(run: RunRecord) -> Iterator[str]:
    if run.test is None:
        yield "not measured: there are no held-out rows"
        return
    line = f"{evaluation(run.test)[:-1]}, used once)"
    each = evaluation_lines(run.test, run.baseline)
    if run.baseline is None:
        yield line + "   no baseline was measured"
        yield from each
        return
    yield f"{line}   baseline {score(run.baseline.value)}"
    yield from each
    yield conclusion(run)


def _transferred(run: RunRecord) -> bool:
    """Return whether any trial of a backbone that is no baseline came to a score."""
    plain = {c.recipe.backbone for c in run.plan.candidates if c.reason == BASELINE}
    return any(t.objective is not None and t.recipe.backbone not in plain for t in run.trials)


def _cost(run: RunRecord) -> str:
    line = f"{clock(run.seconds)} wall, {clock(run.cpu_seconds)} CPU"
    part = share(run)
    if part is not None:
        line += f" = {part:.2g} of one full fine-tune (predicted {clock(run.unit_cpu_seconds or 0)} CPU)"
    if run.plan.seconds:
        line += f"; the plan foretold {clock(run.plan.seconds)} wall"
    if run.download_seconds >= 1:
        line += f"; downloads took {clock(run.download_seconds)} more"
    return line


def _name(row: dict[str, Any]) -> str:
    """Return what a row is about: a backbone, or a strategy on it where no trial was made of that."""
    untried = row["trial"] is None and row["strategy"] is not None
    return f"{row['strategy']} on {row['backbone']}" if untried else str(row["backbone"])


def _short(row: dict[str, object]) -> dict[str, object]:
    names = ("trial", "backbone", "strategy", "freeze", "lr", "lr_ratio", "score", "epochs", "seconds", "status")
    targets = [n for n in row if n not in (*COLUMNS, "survey", "winner")]
    told = ("score", "seconds", *targets)
    return {n: round(v, 3) if isinstance(v := row[n], float) and n in told else v for n in (*names, *targets)}
