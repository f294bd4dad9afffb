"""Prices of recipes, rung by rung."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotransfer.profiles import Profile
from autotransfer.schema import CutReport, Phase, Recipe, SurveyRecord, Training, TrialRecord
from autotransfer.search.board import Board
from autotransfer.search.candidates import FAMILY
from autotransfer.search.costs import Costs
from autotransfer.search.prices import Prices
from autotransfer.spec import BackboneSpec
from autotransfer.strategy import Strategy
from autotransfer.targets import TargetProfile

PROFILE = Profile(
    name="d", modality="image", task="multiclass", metric="accuracy", rows=200, train=100, validation=0, test=50
)
STAGES = ("a", "b", "c", "d")
ROW = 100.0


class Fixed(Strategy):
    """Phases that do not depend on values."""

    def __init__(self, name: str, *phases: Phase) -> None:
        self.id = f"toy/{name}"
        self.own = list(phases)

    def phases(self, profile: Profile, spec: BackboneSpec, values: Mapping[str, Any]) -> list[Phase]:
        if "broken" in values:
            raise KeyError("broken")
        return self.own


HEAD = Phase(epochs=4, freeze=4)
STRATEGIES = {
    "plain": Fixed("plain", Phase(epochs=10, freeze=0)),
    "probed": Fixed("probed", HEAD, Phase(epochs=10, freeze=0)),
    "growing": Fixed("growing", HEAD, Phase(epochs=2, freeze=3), Phase(epochs=8, freeze=0)),
    "head": Fixed("head", HEAD),
}


@pytest.fixture
def prices() -> Prices:
    cuts = tuple(CutReport(after=s, ok=True, macs=ROW * (i + 1) / 4) for i, s in enumerate(STAGES))
    record = SurveyRecord(backbone="m/a", status="partial", rows=60, macs=ROW, stages=STAGES, cuts=cuts)
    registry: Any = SimpleNamespace(strategy=lambda id: STRATEGIES[id.removeprefix("toy/")])
    context: Any = SimpleNamespace(specs={"m/a": BackboneSpec(id="m/a", factory="m:f")}, path=Path)
    return Prices(context, PROFILE, registry, Costs(PROFILE, lambda: [record], clock=False))


def recipe(name: str, batch_size: int = 2, **values: Any) -> Recipe:
    training = Training(batch_size=batch_size)
    return Recipe(backbone="m/a", strategy=f"toy/{name}", values=values, stages=STAGES, training=training)


@pytest.mark.parametrize(
    ("name", "rungs"), [("plain", (2, 5, None)), ("probed", (6, 9, None)), ("growing", (6, 9, None)), ("head", (None,))]
)
def test_rungs_are_counted_from_where_the_backbone_first_moves(
    prices: Prices, name: str, rungs: tuple[int | None, ...]
) -> None:
    assert prices.rungs(recipe(name)) == rungs
    assert prices.moves(recipe(name)) == (name != "head")


@pytest.mark.parametrize(("name", "rungs"), [("plain", (5, None)), ("probed", (9, None)), ("head", (None,))])
def test_where_two_epochs_are_few_steps_they_are_not_compared(
    prices: Prices, name: str, rungs: tuple[int | None, ...]
) -> None:
    assert prices.rungs(recipe(name, batch_size=3)) == rungs  # 67 steps
    assert prices.weighed(recipe(name, batch_size=3)) == prices.first(recipe(name, batch_size=3))
    assert len(prices.rungs(recipe(name, batch_size=32))) == len(rungs)  # 5 epochs are 16 steps: once they are


def test_the_first_rung_of_a_training_that_begins_with_the_head_costs_what_moves(prices: Prices) -> None:
    two_epochs = 3 * 2 * 100 * ROW
    assert prices.first(recipe("plain")) == prices.first(recipe("probed")) == pytest.approx(two_epochs)
    assert prices.first(recipe("head")) == (100 - 60) * ROW  # what the survey has not read yet


def test_under_a_clock_a_family_of_heads_has_a_price_and_a_slow_one_raises_it(prices: Prices) -> None:
    (record,) = prices.costs.survey()
    done = replace(record, status="done", rows=100, width=32)
    timed = replace(prices, costs=replace(prices.costs, survey=lambda: [done], clock=True))
    cost = timed.first(recipe("head"))
    assert cost > 0.0
    own: Any = SimpleNamespace(recipe=recipe("head"), rivals=(recipe("head", lr=0.1),) * (FAMILY - 1))
    trial = Board(prices.context, prices.registry).begin(own, (HEAD,), (None,), moves=False, letter="t")
    told = TrialRecord(id="t001", recipe=own.recipe, status="done", epochs=HEAD.epochs, seconds=3.0 * cost)
    timed.learn_heads(trial, told)
    assert timed.first(recipe("head")) == timed.rest(trial) == pytest.approx(3.0 * cost)
    assert timed.first(recipe("plain")) == timed.end(recipe("plain"), 0.0) == 0.0  # nothing was measured of passes


def test_what_grows_is_weighed_by_the_whole_of_it(prices: Prices) -> None:
    growing, whole = recipe("growing"), 3 * 100 * ROW * (2 * 0.25 + 8)
    assert prices.first(growing) == pytest.approx(2 * 100 * ROW * (0.75 + 3 * 0.25))  # the lower stages are run anew
    assert prices.end(growing, 0.0) == pytest.approx(whole + 2 * 0.75 * 100 * ROW)
    assert prices.weighed(growing) == pytest.approx(0.2 * prices.end(growing, 0.0))
    assert prices.weighed(growing) > prices.first(growing)
    assert prices.weighed(recipe("plain")) == prices.first(recipe("plain"))


def test_the_next_rung_is_priced_and_noted(prices: Prices) -> None:
    board = Board(prices.context, prices.registry)
    one: Any = SimpleNamespace(recipe=recipe("growing"))
    trial = board.begin(one, tuple(STRATEGIES["growing"].own), (6, 9, None), moves=True, letter="t")
    first, trial.done = prices.rest(trial), 1
    assert first == prices.first(one.recipe)
    assert prices.rest(trial) == pytest.approx(3 * 3 * 100 * ROW)
    prices.passed(trial)
    assert prices.costs.stored == {"m/a": {3}}


def test_phases_of_an_earlier_run_that_cannot_be_had_are_none(prices: Prices) -> None:
    assert prices.phases_if_known(recipe("plain")) == STRATEGIES["plain"].own
    assert prices.phases_if_known(recipe("gone")) is None
    assert prices.phases_if_known(recipe("plain", broken=1)) is None
    assert prices.phases_if_known(Recipe(backbone="m/other", strategy="toy/plain")) is None


def test_gradients_of_several_targets_that_are_combined_cost_a_backward_pass_each(prices: Prices) -> None:
    each = tuple(
        TargetProfile(name=n, task="binary", metric="accuracy", rows=200, train=100, validation=0, test=50)
        for n in ("kind", "size", "age")
    )
    several = replace(prices, profile=replace(PROFILE, task="multi-task", metric="skill", each=each))
    assert several.end(recipe("plain"), 0.0) == prices.end(recipe("plain"), 0.0) == pytest.approx(30 * 100 * ROW)
    surgery = recipe("plain", combine="pcgrad")
    assert several.end(surgery, 0.0) == pytest.approx((1 + 2 * 3) * 10 * 100 * ROW)
    assert several.first(surgery) == pytest.approx((1 + 2 * 3) * 2 * 100 * ROW)
    assert several.end(recipe("plain", combine="pcgrad", only_target="kind"), 0.0) == prices.end(recipe("plain"), 0.0)
    assert several.end(recipe("plain", combine="sum"), 0.0) == prices.end(recipe("plain"), 0.0)
