"""Forecasts of a plan: from cards, from earlier runs, and for a budget."""

from __future__ import annotations

import pytest

from autotransfer.budget import Budget
from autotransfer.profiles import Profile
from autotransfer.schema import Candidate, Plan, Recipe
from autotransfer.search.forecast import forecasts, foretold, multiply_rate
from autotransfer.spec import BackboneSpec

PROFILE = Profile(
    name="d", modality="image", task="multiclass", metric="accuracy", rows=200, train=100, validation=50, test=50
)
SPECS = [
    BackboneSpec(id="m/a", factory="m:f", macs=2_000_000, params=1000),
    BackboneSpec(id="m/b", factory="m:f", params=5000),
    BackboneSpec(id="m/base", factory="m:f", transfer=False),
]


def _plan(*backbones: str) -> Plan:
    recipes = [Recipe(backbone=b, strategy="s/t", values={"lr_ratio": 0.1}) for b in backbones]
    return Plan(backbones=backbones, candidates=tuple(Candidate(recipe=r, reason="") for r in recipes), refusals=())


def test_cards_and_earlier_runs_tell_the_cost_and_baselines_have_none() -> None:
    found = {f.backbone: f for f in forecasts(PROFILE, SPECS, {}, rate=1e6)}
    assert set(found) == {"m/a", "m/b"}
    assert found["m/a"].training_seconds == pytest.approx(3 * 10 * 2.0 * 100)
    assert found["m/a"].survey_seconds == pytest.approx(1.24 * 2.0 * 150)
    assert found["m/b"].training_seconds is None
    assert found["m/b"].memory_bytes > found["m/a"].memory_bytes
    known = {f.backbone: f for f in forecasts(PROFILE, SPECS, {"m/b": 0.5}, rate=1e6)}
    assert known["m/b"].measured
    assert known["m/b"].training_seconds == pytest.approx(3 * 10 * 0.5 * 100)


def test_a_plan_tells_the_time_and_how_many_trials_a_budget_holds() -> None:
    found = forecasts(PROFILE, SPECS[:1], {"m/a": 0.1}, rate=1e6)
    free = foretold(_plan("m/a", "m/a"), found, Budget(), workers=2)
    assert free.seconds == pytest.approx((1.24 * 0.1 * 150 + 2 * 0.2 * 300) / 2)
    assert free.expected_trials is None
    timed = foretold(_plan("m/a", "m/a"), found, Budget(seconds=200), workers=2)
    assert timed.seconds == 200
    assert timed.expected_trials == pytest.approx((0.9 * 400 - 18.6) / 60)
    assert foretold(_plan("m/a"), found, Budget(trials=7), workers=1).expected_trials == 7
    unknown = foretold(_plan("m/b"), forecasts(PROFILE, SPECS[1:2], {}, rate=1e6), Budget(seconds=9), workers=1)
    assert unknown.expected_trials is None


def test_the_speed_of_this_machine_is_a_number() -> None:
    assert multiply_rate() > 1e6
