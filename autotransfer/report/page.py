"""The page about a run: one HTML file that loads nothing, runs no script, and escapes every text."""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autotransfer.data.modalities import Shown
from autotransfer.errors import ModelError
from autotransfer.report import charts
from autotransfer.report.held_out import HeldOut
from autotransfer.report.leaderboard import rows_of
from autotransfer.report.text import conclusion, cost_line, evaluation, notes_of, search_line, survey_line, winner_line
from autotransfer.report.words import clock, data_line, metric_of, plain_text, refused, score
from autotransfer.schema import RunRecord, TrialRecord

TRIALS = 50
"""Rows of the leaderboard that are shown."""
CLASSES = 24
"""Classes up to which the confusion matrix is shown, and lists of them are open."""
MOST_CLASSES = 200
"""Classes or labels that are listed one by one."""
CONFUSED = 12
"""Pairs of classes that are named as the most confused."""
NAMED = 50
"""Rows of an issue that are named."""


def page(run: RunRecord, held: HeldOut | None = None) -> str:
    """Return the page.

    Args:
        run: the record of the run.
        held: what there is to tell of the held-out rows; None: their scores alone are told.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_plain,
    )
    made.filters |= {"score": score, "clock": clock, "percent": lambda share: f"{share:.0%}", "uri": _uri}
    template = made.get_template("page.html")
    return template.render(
        run=run,
        held=held,
        data_line=data_line(run.profile),
        verdict=conclusion(run) if run.test is not None and run.baseline is not None else "",
        test="" if run.test is None else evaluation(run.test),
        baseline="" if run.baseline is None else evaluation(run.baseline),
        lines=[survey_line(run), search_line(run)],
        winner=winner_line(run).splitlines(),
        cost=cost_line(run),
        notes=list(notes_of(run)),
        named=NAMED,
        counts=_counts(run),
        few=CLASSES,
        most=MOST_CLASSES,
        **_board(run),
        **_curves(run),
        **({} if held is None else _held(held)),
    )


def write_page(path: Path, run: RunRecord, held: HeldOut | None = None) -> None:
    """Write the page whole or not at all; an older file there is replaced.

    Raises:
        ModelError: it cannot be written there.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_text(page(run, held), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise ModelError(f"the report cannot be written to {path}: {error.strerror}; choose another path") from error
    finally:
        temporary.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """Return what a template is about to print; texts that are known to be safe are left as they are."""
    return plain_text(value) if type(value) is str else value


def _uri(shown: Shown) -> str:
    return f"data:{shown.media};base64,{base64.b64encode(shown.body).decode()}"


def _counts(run: RunRecord) -> list[tuple[str, int, float]]:
    """Return classes with their rows, the largest first, and the share of each of the largest."""
    most = max(run.profile.counts.values(), default=1)
    ordered = sorted(run.profile.counts.items(), key=lambda pair: -pair[1])
    return [(name, count, count / max(1, most)) for name, count in ordered[:MOST_CLASSES]]


def _board(run: RunRecord) -> dict[str, Any]:
    rows = rows_of(run)
    tried = [r for r in rows if r["trial"] is not None]
    left = [(r["backbone"], f"{r['status']}: {r['reason']}") for r in rows if r["trial"] is None]
    return {"trials": tried[:TRIALS], "more": len(tried) - TRIALS, "left": refused(left)}


def _curves(run: RunRecord) -> dict[str, Any]:
    """Return the curves of the best trials that have any, the winner first."""
    from markupsafe import Markup

    measured = [t for t in run.trials if len(t.curve) > 1 and t.objective is not None]
    best = sorted(measured, key=lambda t: (t.id != run.winner, -(t.objective or 0.0)))[: charts.COLOURS]

    def lines(value: str) -> list[charts.Line]:
        return [charts.Line(t.id, _points(t, value, run.profile.metric), t.id == run.winner) for t in best]

    drawn = {}
    for name, value, upward in (
        ("validation_chart", "objective", f"{run.profile.metric} on validation"),
        ("loss_chart", "train_loss", "training loss"),
    ):
        made = lines(value)
        empty = not any(one.points for one in made)
        drawn[name] = "" if empty else Markup(charts.curves(f"{upward} by epoch", made, upward))  # noqa: S704
    return {"curved": best, **drawn}


def _points(trial: TrialRecord, value: str, metric: str) -> list[tuple[float, float]]:
    found = [(p.epoch, p.train_loss if value == "train_loss" else metric_of(p.objective, metric)) for p in trial.curve]
    return [(a, b) for a, b in found if b is not None and np.isfinite(b)]


def _held(held: HeldOut) -> dict[str, Any]:
    from markupsafe import Markup

    drawn: dict[str, Sequence[Any] | str] = {"matrix": [], "confused": [], "reliability": "", "numbers": []}
    if held.confusion is not None:
        drawn["confused"] = _confused(held)
        if len(held.classes) <= CLASSES:
            totals = np.maximum(1, held.confusion.sum(1))
            shares = (held.confusion / totals[:, None]).round(3)
            drawn["matrix"] = [
                (name, list(zip(own, part, strict=True)))
                for name, own, part in zip(held.classes, held.confusion.tolist(), shares.tolist(), strict=True)
            ]
    # The charts' trees escape their texts themselves.
    if held.calibration is not None:
        drawn["reliability"] = Markup(charts.reliability(held.calibration))  # noqa: S704
    if held.actual is not None and held.predicted is not None:
        made = (charts.against(held.actual, held.predicted), charts.residuals(held.actual, held.predicted))
        drawn["numbers"] = [Markup(c) for c in made]  # noqa: S704
    return drawn


def _confused(held: HeldOut) -> list[tuple[str, str, int]]:
    """Return the pairs (truth, answer) that are confused most often, with how often."""
    assert held.confusion is not None
    wrong = held.confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSED].tolist()
    pairs = [divmod(i, len(held.classes)) for i in order]
    return [(held.classes[a], held.classes[b], int(wrong[a, b])) for a, b in pairs if wrong[a, b]]
