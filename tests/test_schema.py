"""The words: their checks, their JSON, and that no torch comes with them."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
from typing import Any

import pytest

from autotransfer import profiles, schema
from autotransfer.budget import Budget
from autotransfer.codec import from_json, to_json
from autotransfer.errors import ConfigError, PluginContractError
from autotransfer.profiles import DataIssue, Profile
from autotransfer.schema import (
    Candidate,
    CurvePoint,
    CutReport,
    Evaluation,
    Forecast,
    Phase,
    Plan,
    Recipe,
    Refusal,
    RunRecord,
    SurveyRecord,
    Training,
    TrialRecord,
    Verdict,
)

RECIPE = Recipe(
    backbone="acme/x",
    strategy="core/partial",
    values={"lr": 1e-3, "epochs": 3, "note": None},
    freeze=2,
    stages=("a", "b"),
    training=Training(dropout=0.1),
)
PROFILE = Profile(
    name="pets",
    modality="image",
    task="multiclass",
    metric="accuracy",
    rows=10,
    train=6,
    validation=2,
    test=2,
    classes=("a", "b"),
    counts={"a": 5, "b": 5},
    issues=(DataIssue(what="unreadable", count=1, text="one", rows=("x.jpg",)),),
    facts={"image.width": 3, "acme.blur": 0.5},
    fingerprint="f",
)
RECORD = TrialRecord(
    id="t1",
    recipe=RECIPE,
    status="done",
    scores={"target": {"accuracy": 0.5}},
    objective=0.5,
    curve=(CurvePoint(epoch=1, train_loss=0.5, objective=0.5),),
)
SURVEY = SurveyRecord(backbone="acme/x", status="done", cuts=(CutReport(after="a", ok=True, score=0.4, macs=10),))
FORECAST = Forecast(backbone="acme/x", survey_seconds=1, training_seconds=None, memory_bytes=9, disk_bytes=8)
PLAN = Plan(
    backbones=("acme/x",),
    candidates=(Candidate(recipe=RECIPE, reason="default", macs=5),),
    refusals=(Refusal(name="acme/y", reason="no weights"),),
    forecasts=(FORECAST,),
    seconds=5,
    licences={"acme/x": "MIT"},
)
EVALUATION = Evaluation(metric="accuracy", value=0.5, low=0.4, high=0.6, rows=2)
RUN = RunRecord(
    profile=PROFILE,
    plan=PLAN,
    survey=(SURVEY,),
    trials=(RECORD,),
    winner="t1",
    status="complete",
    test=EVALUATION,
    versions={"torch": "2"},
)
EVERY: list[Any] = [
    RECIPE,
    PROFILE,
    RECORD,
    SURVEY,
    FORECAST,
    PLAN,
    EVALUATION,
    RUN,
    Budget(seconds=3),
    Verdict(False, "no"),
    Phase(epochs=1, stages=(0, 2), stage_lrs={"0": 1e-4}),
    Training(),
    DataIssue(what="x", count=0, text=""),
    Refusal(name="a", reason="b"),
    CutReport(after="a", ok=False, reason="differs"),
    CurvePoint(epoch=1, train_loss=0.1, objective=0.2),
    Candidate(recipe=RECIPE, reason="x", seconds=3),
]


@pytest.mark.parametrize("value", EVERY, ids=lambda v: type(v).__name__)
def test_json_both_ways(value: Any) -> None:
    assert from_json(type(value), json.loads(json.dumps(to_json(value)))) == value


def test_every_word_is_frozen_and_shown_here() -> None:
    rooms = (schema, profiles)
    words = {c for r in rooms for _, c in inspect.getmembers(r, dataclasses.is_dataclass) if c.__module__ == r.__name__}
    assert {Budget, *words} == {type(v) for v in EVERY}
    for value in EVERY:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, dataclasses.fields(value)[0].name, None)


def test_the_words_bring_no_torch() -> None:
    code = "import sys, autotransfer.schema, autotransfer.hookspecs, autotransfer.plugin; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_recipe_has_one_key_whatever_its_journey() -> None:
    assert from_json(Recipe, json.loads(json.dumps(to_json(RECIPE)))).key == RECIPE.key
    whole = dataclasses.replace(RECIPE, training=Training(dropout=0))
    assert from_json(Recipe, to_json(whole)).key == whole.key
    others = [
        dataclasses.replace(RECIPE, seed=1),
        dataclasses.replace(RECIPE, threads=2),
        dataclasses.replace(RECIPE, values={"lr": 2e-3}),
        dataclasses.replace(RECIPE, training=Training()),
        dataclasses.replace(RECIPE, freeze=None),
    ]
    assert len({r.key for r in (RECIPE, *others)}) == 6


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (90, 90),
        ("90", 90),
        ("90s", 90),
        ("1.5m", 90),
        ("10m", 600),
        ("1h30m", 5400),
        (" 2H ", 7200),
        ("1h1m1s", 3661),
        (None, None),
    ],
)
def test_budget_as_written(given: Any, seconds: float | None) -> None:
    assert Budget.parse(given) == Budget(seconds=seconds)


@pytest.mark.parametrize("given", ["", "ten", "10 m", "-5", "5d", "m", "1m1h", "1e3"])
def test_budget_in_other_forms(given: str) -> None:
    with pytest.raises(ConfigError, match="'90s', '10m', '1h30m'"):
        Budget.parse(given)


@pytest.mark.parametrize("given", [0, -1, "0", "0m", float("nan")])
def test_budget_is_positive(given: Any) -> None:
    with pytest.raises(ConfigError, match="wanted more than 0"):
        Budget.parse(given)


def test_trials_are_positive_and_alone() -> None:
    assert Budget.parse(None, 3) == Budget(trials=3)
    with pytest.raises(ConfigError, match="trials is 0; wanted 1 or more"):
        Budget.parse(None, 0)
    with pytest.raises(ConfigError, match="both budget and trials"):
        Budget.parse("10m", 3)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"freeze": 1, "stages": (1,)}, "in one way, got freeze and stages"),
        ({"lr": 0}, "lr > 0"),
        ({"lr_ratio": 0}, "lr_ratio in"),
        ({"lr_ratio": 1.5}, "lr_ratio in"),
        ({"epochs": -1}, "epochs >= 0"),
        ({"layer_decay": 0}, "layer_decay > 0"),
        ({"sampler": "odd"}, "unknown sampler"),
        ({"augment": "heavy"}, "unknown sampler or augment"),
    ],
)
def test_impossible_phases(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(PluginContractError, match=text):
        Phase(**{"epochs": 1, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer": "adam"},
        {"batch_size": 0},
        {"weight_decay": -1},
        {"clip": -1},
        {"label_smoothing": 1},
        {"dropout": 1},
        {"warmup": 1},
        {"norm_statistics": "mine"},
    ],
)
def test_impossible_training(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        Training(**fields)


def test_all_faults_of_training_at_once() -> None:
    with pytest.raises(ConfigError, match=r"optimizer .*batch_size .*warmup"):
        Training(optimizer="x", batch_size=0, warmup=2)
