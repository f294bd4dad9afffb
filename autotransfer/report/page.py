"""The report of a run as one HTML file that needs nothing else: no network, no script, no font."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotransfer.recipes import spec_id
from autotransfer.report import charts
from autotransfer.report.examples import Example, uncertain, worst
from autotransfer.report.judged import HeldOut, calibration, confusion, label_scores, thinned
from autotransfer.report.leaderboard import COLUMNS, rows_of
from autotransfer.report.several import target_columns
from autotransfer.report.text import account, conclusion, not_used, notes, share, winner_of
from autotransfer.report.words import clock, frozen, metric_of, score
from autotransfer.schema import Evaluation, RunRecord, TrialRecord

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

REPORT = "report.html"
"""Its name in a run folder."""
MOST_TRIALS = 100
"""Rows of the leaderboard that are shown."""
FEW_CLASSES, MOST_CLASSES = 12, 200
"""Classes whose rows are shown at once, and at a click."""
NUMBERS = ("lr", "lr_ratio", "score", "survey", "epochs", "seconds", "freeze")
"""Columns of the leaderboard that are set to the right."""
MOST_POINTS = 1000
"""Rows in a scatter of numbers."""
MOST_LABELS = 50
"""Labels whose scores are shown, those with the most rows first."""


def page(run: RunRecord, held: HeldOut | None) -> str:
    """Return the page.

    Args:
        run: the record of the run.
        held: its held-out rows; None, or without rows: there are none.
    """
    some = held if held is not None and len(held.rows) else None
    board, targets = rows_of(run), target_columns(run.profile.each)
    text = _template().render(
        run=run,
        account=account(run),
        counts=_counts(run),
        few=FEW_CLASSES,
        most=MOST_CLASSES,
        tiles=list(_tiles(run)),
        verdict=conclusion(run) if run.test is not None and run.baseline is not None else "",
        columns=(*COLUMNS[:-1], *targets, "survey", COLUMNS[-1]),
        numbers=(*NUMBERS, *targets),
        board=board[:MOST_TRIALS],
        more=len(board) - len(board[:MOST_TRIALS]),
        cell=lambda name, value: _cell("score" if name in targets else name, value),
        curves=_curves(run),
        parts=[_part(run, target, own) for target, own in some.each()] if some is not None else [],
        left=not_used(run),
        notes=list(notes(run)),
        score=score,
    )
    return text.encode("utf-8", "replace").decode()  # a file's name may hold bytes that are no UTF-8


def report_beside(model: Path | None) -> str | None:
    """Return the path of the report of the run whose folder holds a model, where there is one."""
    if model is None or not (model.parent / "run.yaml").is_file():
        return None
    file = model.parent / REPORT
    return str(file) if file.is_file() else None


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return made.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))


def _tiles(run: RunRecord) -> Iterator[tuple[str, str, str]]:
    """Yield what is to be seen first: a name, a large word, a small line."""
    won = winner_of(run)
    if won is not None:
        yield "winner", won.recipe.backbone, " ".join(p for p in (won.recipe.strategy, frozen(won.recipe)) if p)
    if run.test is not None:
        ends = f"95 %: {score(run.test.low)} to {score(run.test.high)}; {run.test.rows:,} held-out rows"
        yield f"test {run.test.metric}", score(run.test.value), ends
    if run.baseline is not None:
        yield "baseline", score(run.baseline.value), "best no-transfer model, same rows"
    part = share(run)
    spent = f"{clock(run.seconds)} wall, {clock(run.cpu_seconds)} CPU"
    if part is not None:
        yield "cost", f"{part:.2g} x", f"of one full fine-tune; {spent}"
    else:
        yield "cost", clock(run.seconds), spent


def _counts(run: RunRecord) -> list[tuple[str, int, float]]:
    """Return classes or labels with their rows, the most first, and the share of these in the most of all."""
    ranked = sorted(run.profile.counts.items(), key=lambda pair: -pair[1])
    return [(name, count, count / max(1, ranked[0][1])) for name, count in ranked]


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name in ("score", "survey"):
        return score(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _part(run: RunRecord, target: str, held: HeldOut) -> dict[str, Any]:
    """Return what is shown of the held-out rows of one target: of several each has its part; else it has no name."""
    some = len(held.rows) > 0
    return {
        "target": target,
        "rows": len(held.rows),
        "scores": _scores(run, target),
        "figures": _figures(held) if some else {},
        "examples": _examples(held) if some else [],
    }


def _scores(run: RunRecord, target: str) -> list[tuple[str, str, str]]:
    """Return every metric on the held-out rows, of one of several targets its own: of winner and baseline."""
    own, plain = _metrics(run.test, target), _metrics(run.baseline, target)
    return [(name, score(value), score(plain.get(name))) for name, value in own.items()]


def _metrics(found: Evaluation | None, target: str) -> dict[str, float]:
    groups = found.scores if found is not None else {}
    return {n: v for name, own in groups.items() if target in ("", name) for n, v in own.items()}


def _curves(run: RunRecord) -> dict[str, Any] | None:
    """Return the learning curves of the best trials that have one, and their legend."""
    metric = run.profile.metric
    known = [(t.objective, t) for t in run.trials if len(t.curve) > 1 and t.objective is not None]
    best = [t for _, t in sorted(known, key=lambda pair: -pair[0])[: len(charts.COLOURS)]]
    if not best:
        return None
    lines = [charts.Line(_title(t), [(p.epoch, metric_of(p.objective, metric) or 0.0) for p in t.curve]) for t in best]
    legend = [(colour, line.name) for colour, line in zip(charts.COLOURS, lines, strict=False)]
    return {"svg": charts.curves(lines, "epoch", f"validation {metric}"), "legend": legend}


def _title(trial: TrialRecord) -> str:
    recipe = trial.recipe
    return " ".join(p for p in (trial.id, spec_id(recipe), recipe.strategy, frozen(recipe)) if p)


def _figures(held: HeldOut) -> dict[str, Any]:
    """Return what can be drawn of the task's answers, by name."""
    task = held.task
    if not task.classes:
        return _of_numbers(held)
    chances = task.probabilities(held.outputs)
    truth = held.targets.numpy()
    if truth.ndim == 2:
        scores = label_scores(chances >= 0.5, truth >= 0.5, task.classes)
        ranked = sorted(scores, key=lambda s: -s.rows)
        found = calibration(chances.ravel(), truth.ravel() >= 0.5)
        svg = charts.reliability(found, "probability of a label", "share of rows that have it")
        return {"labels": ranked[:MOST_LABELS], "all": len(scores), "reliability": svg, "ece": found.error}
    chosen = chances.argmax(1)
    found = calibration(chances.max(1), chosen == truth)
    svg = charts.reliability(found, "probability of the answer", "share of right answers")
    return {"confusion": confusion(chosen, truth, task.classes), "reliability": svg, "ece": found.error}


def _of_numbers(held: HeldOut) -> dict[str, Any]:
    rows = thinned(len(held.rows), MOST_POINTS)
    actual, said = held.task.decode(held.targets)[rows], held.task.decode(held.outputs)[rows]
    drawn: dict[str, Markup] = {
        "predicted": charts.scatter(actual, said, "actual", "predicted", diagonal=True),
        "residuals": charts.scatter(said, said - actual, "predicted", "predicted - actual", diagonal=False),
    }
    return {**drawn, "points": len(rows), "all": len(held.rows)}


def _examples(held: HeldOut) -> list[tuple[str, str, list[Example]]]:
    groups = [
        ("Highest loss", "The held-out rows that the winner got most wrong.", worst(held)),
        ("Least certain", "The held-out rows whose probabilities are spread most evenly.", uncertain(held)),
    ]
    return [g for g in groups if g[2]]
