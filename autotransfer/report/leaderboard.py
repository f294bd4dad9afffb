"""The leaderboard: every trial, and every backbone, and strategy on one, that did not come to one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from autotransfer.recipes import ONLY, spec_id
from autotransfer.report.several import scores_of_each
from autotransfer.report.words import metric_of, treatment
from autotransfer.schema import Refusal, RunRecord, SurveyRecord, TrialRecord
from autotransfer.search.criterion import NAME, SCORES
from autotransfer.targets import TargetProfile

COLUMNS = (
    "trial",
    "backbone",
    "strategy",
    "freeze",
    "lr",
    "lr_ratio",
    "score",
    "epochs",
    "seconds",
    "status",
    "reason",
)


def rows_of(run: RunRecord) -> list[dict[str, Any]]:
    """Return one mapping a row, best first; failed and skipped ones come last, with the reason.

    ``score`` is the deciding metric on the validation rows, ``survey`` that of a closed-form head on frozen
    features of the training rows (leave-one-out). Of several targets each has a column beside them. ``information`` is
    what a trial's answers tell of unlabeled rows, as a share of the most that they could, where that took part in
    choosing. The winner need not come first: scores that so few rows cannot tell apart are decided by the loss.
    """
    return rows(run.trials, run.survey, run.plan.refusals, run.profile.metric, run.winner, run.profile.each)


def rows(
    trials: Iterable[TrialRecord],
    survey: Sequence[SurveyRecord],
    refusals: Iterable[Refusal],
    metric: str,
    winner: str = "",
    each: Sequence[TargetProfile] = (),
) -> list[dict[str, Any]]:
    """Return the same from its parts, for a run that is not over."""
    surveyed = {r.backbone: metric_of(r.score, metric) for r in survey}
    latest = {t.id: t for t in trials}
    ranked = sorted(latest.values(), key=_rank)
    found = [
        {
            **_trial(t, metric),
            **scores_of_each(t, each),
            "survey": surveyed.get(spec_id(t.recipe)),
            "winner": t.id == winner,
        }
        for t in ranked
    ]
    unknown = dict.fromkeys((f"{t.name} {t.metric}" for t in each), None)
    tried = {spec_id(t.recipe) for t in latest.values()}
    for record in survey:
        if record.backbone not in tried:
            status = "surveyed" if record.status in ("done", "partial") else record.status
            reason = record.reason or ("no trial was spent on it" if status == "surveyed" else "")
            own = _empty(record.backbone, status, reason) | unknown
            found.append(own | {"survey": surveyed[record.backbone], "winner": False})
    named = tried | set(surveyed)
    for refusal in refusals:
        if refusal.name not in named:
            strategy, _, backbone = refusal.name.rpartition(" on ")
            row = _empty(backbone, "skipped", refusal.reason) | {"strategy": strategy or None} | unknown
            found.append(row | {"survey": None, "winner": False})
    told = {t.id: t.scores[SCORES][NAME] for t in latest.values() if SCORES in t.scores}
    return [{**row, NAME: told.get(row["trial"])} for row in found] if told else found


def latest_records(ledger: Path) -> tuple[list[TrialRecord], list[SurveyRecord]]:
    """Return the last record of each trial and of each surveyed backbone in a ledger.

    Raises:
        ModelError: the ledger is damaged.
    """
    from autotransfer.search.ledger import read_ledger

    trials: dict[str, TrialRecord] = {}
    survey: dict[str, SurveyRecord] = {}
    for record in read_ledger(ledger):
        if isinstance(record, TrialRecord):
            trials[record.id] = record
        else:
            survey[record.backbone] = record
    return list(trials.values()), list(survey.values())


def _trial(record: TrialRecord, metric: str) -> dict[str, Any]:
    recipe, only = record.recipe, record.recipe.values.get(ONLY)
    return {
        "trial": record.id,
        "backbone": spec_id(recipe),
        "strategy": recipe.strategy,
        "freeze": None if recipe.freeze is None else f"{recipe.freeze}/{len(recipe.stages)}",
        "lr": recipe.values.get("lr"),
        "lr_ratio": recipe.values.get("lr_ratio"),
        "score": None if record.status == "failed" else metric_of(record.objective, metric),
        "epochs": record.epochs,
        "seconds": record.seconds,
        "status": record.status,
        "reason": record.reason or (f"for {only!r} alone, to compare" if only else treatment(recipe, record.shift)),
    }


def _rank(record: TrialRecord) -> tuple[bool, bool, bool, float]:
    """Return what trials are sorted by: one for a single target of several comes after those for all."""
    apart = ONLY in record.recipe.values
    return record.status == "failed", record.objective is None, apart, -(record.objective or 0.0)


def _empty(backbone: str, status: str, reason: str) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    return row | {"backbone": backbone, "status": status, "reason": reason}
