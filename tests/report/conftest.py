"""A run's record as a finished search would leave it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from autotransfer.profiles import DataIssue, Profile
from autotransfer.schema import Candidate, Evaluation, Plan, Recipe, Refusal, RunRecord, SurveyRecord, TrialRecord


def recipe(backbone: str, strategy: str, freeze: int | None = None, **values: Any) -> Recipe:
    return Recipe(backbone=backbone, strategy=strategy, freeze=freeze, stages=("a", "b", "c"), values=values)


def evaluation(value: float, low: float, high: float, metric: str = "accuracy") -> Evaluation:
    return Evaluation(metric=metric, value=value, low=low, high=high, rows=310, scores={"multiclass": {metric: value}})


@pytest.fixture
def run() -> RunRecord:
    best = recipe("acme/net", "core/partial", 1, freeze_fraction=0.33, lr=1e-3, lr_ratio=0.1, epochs=10)
    trials = (
        TrialRecord(
            id="b001", recipe=recipe("base/pixels", "base/logistic"), status="done", objective=0.512, seconds=0.1
        ),
        TrialRecord(
            id="t002",
            recipe=best,
            status="done",
            objective=0.912,
            epochs=10,
            seconds=4.25,
            notes=("batches were halved",),
        ),
        TrialRecord(id="t003", recipe=recipe("acme/net", "core/probe", lr=3e-3), status="promoted", objective=0.861),
        TrialRecord(
            id="t004", recipe=recipe("acme/nan", "core/full"), status="failed", reason="the loss is not finite"
        ),
    )
    survey = (
        SurveyRecord(backbone="acme/net", status="done", score=0.85),
        SurveyRecord(backbone="acme/other", status="done", score=0.7),
        SurveyRecord(backbone="acme/late", status="failed", reason="it hangs"),
    )
    issue = DataIssue(
        what="unreadable", count=3, text="3 images cannot be read and were left out", rows=("a", "b", "c")
    )
    profile = Profile(
        name="pets",
        modality="image",
        task="multiclass",
        metric="accuracy",
        rows=1240,
        train=794,
        validation=199,
        test=247,
        classes=("cat", "dog", "owl"),
        counts={"cat": 620, "dog": 420, "owl": 200},
        imbalance=3.1,
        issues=(issue,),
    )
    plan = Plan(
        backbones=("acme/net", "acme/other", "acme/late"),
        candidates=(Candidate(recipe=best, reason="the default recipe"),),
        refusals=(
            Refusal(name="hub/gone", reason="its weights are not in the cache"),
            Refusal(name="acme/late", reason="x"),
        ),
    )
    return RunRecord(
        profile=profile,
        plan=plan,
        survey=survey,
        trials=trials,
        winner="t002",
        status="complete",
        test=evaluation(0.908, 0.884, 0.931),
        baseline=evaluation(0.512, 0.46, 0.56),
        seconds=252,
        cpu_seconds=460,
        unit_cpu_seconds=511,
        notes=("one worker was replaced",),
    )


@pytest.fixture
def of_numbers(run: RunRecord) -> RunRecord:
    """The same run, judged by a metric whose lower values are better."""
    signed = tuple(replace(t, objective=None if t.objective is None else t.objective - 1) for t in run.trials)
    survey = tuple(replace(r, score=None if r.score is None else r.score - 1) for r in run.survey)
    return replace(
        run,
        profile=replace(run.profile, metric="rmse", task="regression", classes=(), counts={}),
        trials=signed,
        survey=survey,
        test=evaluation(0.2, 0.15, 0.25, "rmse"),
        baseline=evaluation(0.6, 0.5, 0.7, "rmse"),
    )


@pytest.fixture
def judged(run: RunRecord) -> Callable[..., RunRecord]:
    """Give the run with another score on the held-out rows, and another baseline."""

    def made(value: float, low: float, high: float, baseline: float) -> RunRecord:
        return replace(run, test=evaluation(value, low, high), baseline=evaluation(baseline, 0, 1))

    return made
