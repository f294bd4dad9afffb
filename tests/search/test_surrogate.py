"""The surrogate: skill, expected gains, what observations and fantasies do, corners."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotransfer.schema import Phase, Recipe
from autotransfer.search.surrogate import (
    Observation,
    Shape,
    Surrogate,
    expected_gain,
    improvement,
    sampling_error,
    shape_of,
)

STAGES = ("a", "b", "c", "d")


def _recipe(backbone: str = "m/a", freeze: int = 0, **values: Any) -> Recipe:
    return Recipe(
        backbone=backbone,
        strategy="core/partial",
        values={"lr": 1e-3, "lr_ratio": 0.1, "head_start": True, **values},
        freeze=freeze,
        stages=STAGES,
    )


def _surrogate(**more: Any) -> Surrogate:
    return Surrogate({"m/a": 0.8, "m/b": 0.6}, **{"floor": 0.3, "validation": 100, **more})


def test_skill_is_0_for_the_constant_predictor_and_1_for_the_best_head() -> None:
    found = _surrogate()
    assert [found.skill(v) for v in (0.3, 0.8, 0.9)] == pytest.approx([0.0, 1.0, 1.2])
    errors = Surrogate({"m/a": -2.0, "m/b": -3.0}, floor=-10.0, validation=50)
    assert [errors.skill(v) for v in (-10.0, -2.0)] == pytest.approx([0.0, 1.0])


def test_improvement_against_an_integral() -> None:
    draws = np.random.default_rng(0).normal(0.4, 0.2, 2_000_000)
    assert improvement(0.4, 0.2, 0.5) == pytest.approx(np.maximum(draws - 0.5, 0).mean(), abs=3e-4)
    assert improvement(0.4, 0.0, 0.5) == 0.0
    assert improvement(0.7, 0.0, 0.5) == pytest.approx(0.2)
    assert improvement(float("-inf"), 0.1, 0.5) == 0.0


def test_nothing_is_gained_above_the_ceiling() -> None:
    draws = np.minimum(np.random.default_rng(0).normal(0.95, 0.1, 2_000_000), 1.0)
    assert improvement(0.95, 0.1, 0.9, 1.0) == pytest.approx(np.maximum(draws - 0.9, 0).mean(), abs=3e-4)
    assert improvement(0.95, 0.1, 1.0, 1.0) == 0.0
    assert improvement(0.95, 0.1, 0.9, math.inf) == improvement(0.95, 0.1, 0.9)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
def test_sampling_error_of_a_share_is_that_of_drawn_rows(share: float) -> None:
    found = np.random.default_rng(0).binomial(200, share, 20_000) / 200
    assert sampling_error(share, 0.1, 200) == pytest.approx(found.std(), rel=0.1)


def test_sampling_error_of_a_root_mean_squared_error_is_that_of_drawn_rows() -> None:
    found = np.sqrt((np.random.default_rng(0).normal(0, 3.0, (20_000, 100)) ** 2).mean(1))
    assert sampling_error(-3.0, -9.0, 100) == pytest.approx(found.std(), rel=0.06)


def test_noise_is_in_skill_and_never_zero() -> None:
    easy, hard = (Surrogate({"m/a": top}, floor=0.1, validation=60) for top in (0.9, 0.5))
    assert hard.noise > 2 * easy.noise
    errors = Surrogate({"m/a": -2.0}, floor=-4.0, validation=60)
    tenfold = Surrogate({"m/a": -20.0}, floor=-40.0, validation=60)
    assert errors.noise == pytest.approx(tenfold.noise)
    assert Surrogate({"m/a": 1.0}, floor=0.1, validation=60).noise > 0


def test_before_any_trial_more_trained_stages_and_a_middle_rate_promise_more() -> None:
    gains = [expected_gain(shape_of(_recipe(freeze=k), None)) for k in (0, 2, 4)]
    assert gains == sorted(gains, reverse=True)
    assert gains[-1] == 0.0
    ratios = [expected_gain(shape_of(_recipe(lr_ratio=r), None)) for r in (0.003, 0.28, 1.0)]
    assert max(ratios) == ratios[1]
    means, spreads = _surrogate().predict([_recipe(), _recipe("m/b")])
    assert means[0] > means[1]
    assert (spreads > 0).all()


@pytest.mark.parametrize(
    ("phases", "shape"),
    [
        ([], Shape(0.0, 0.0, True)),
        ([Phase(epochs=9, freeze=4)], Shape(0.0, 0.0, True)),
        ([Phase(epochs=9, freeze=1, lr_ratio=0.3)], Shape(0.75, 3e-4, True)),
        ([Phase(epochs=9, stages=(1,), lr_ratio=0.3)], Shape(0.25, 3e-4, True)),
        ([Phase(epochs=9, parameters="bias", lr_ratio=0.3)], Shape(1.0, 3e-4, True)),
        ([Phase(epochs=2, freeze=3, lr_ratio=0.5), Phase(epochs=2, freeze=0, lr_ratio=0.2)], Shape(1.0, 2e-4, True)),
        ([Phase(epochs=9, lr_ratio=0.4, layer_decay=0.5)], Shape(1.0, 1e-4 * 7.5 / 4, True)),
        ([Phase(epochs=9, stage_lrs={"0": 0.0, "1": 0.0, "2": 3e-4, "3": 1e-4})], Shape(0.5, 2e-4, True)),
        ([Phase(epochs=9, stage_lrs={str(n): 0.0 for n in range(4)})], Shape(0.0, 0.0, True)),
    ],
)
def test_the_shape_of_a_recipe_is_that_of_its_phases(phases: list[Phase], shape: Shape) -> None:
    found = shape_of(_recipe(lr_ratio=0.9), phases)
    assert found.rate == pytest.approx(shape.rate)
    assert replace(found, rate=shape.rate) == shape


def test_a_head_that_is_trained_first_is_warm_whatever_its_start() -> None:
    cold = _recipe(head_start=False)
    assert not shape_of(cold, [Phase(epochs=9, freeze=1)]).warm
    assert shape_of(cold, [Phase(epochs=2, freeze=4), Phase(epochs=9, freeze=1)]).warm


def test_a_strategy_whose_values_say_nothing_is_judged_by_its_phases() -> None:
    silent = Recipe(backbone="m/a", strategy="mine/fixed", values={"lr": 1e-3}, stages=STAGES)
    phases = [Phase(epochs=9, freeze=0, lr_ratio=0.16)]
    told = Surrogate({"m/a": 0.8}, floor=0.3, validation=100, phases=lambda r: phases if r == silent else None)
    (mean,), _ = told.predict([silent])
    assert mean == pytest.approx(told.survey["m/a"] + expected_gain(Shape(1.0, 1.6e-4, False)))
    (blind,), _ = _surrogate().predict([silent])
    assert blind < mean


def test_an_observation_moves_its_neighbours_most_and_other_backbones_a_little() -> None:
    found = _surrogate()
    asked = [_recipe(lr_ratio=0.12), _recipe(lr_ratio=0.01, freeze=3), _recipe("m/b", lr_ratio=0.12)]
    before, wide = found.predict(asked)
    found.observe(_recipe(), 0.95, left=0)
    after, narrow = found.predict(asked)
    rise = after - before
    assert rise[0] > rise[2] > 0.02
    assert rise[0] > rise[1]
    assert narrow[0] < wide[0]


def test_a_fantasy_lowers_the_expected_improvement_nearby() -> None:
    found = _surrogate()
    asked, tried = [_recipe(lr_ratio=0.12)], [_recipe()]
    (free,), (wide,) = found.predict(asked)
    (held,), (narrow,) = found.predict(asked, tried)
    assert held == pytest.approx(free, abs=0.02)
    assert improvement(held, narrow, 1.0) < improvement(free, wide, 1.0)


def test_what_rungs_add_is_learned() -> None:
    found = _surrogate()
    warm, cold = _recipe(), _recipe(head_start=False)
    assert found.expect(cold, 0.8, 2)[0] > found.expect(warm, 0.8, 2)[0] > found.skill(0.8)
    assert found.expect(warm, 0.8, 0) == (pytest.approx(found.skill(0.8)), 0.0)
    hoped = found.expect(warm, 0.8, 1)[0]
    for _ in range(4):
        found.observe(warm, 0.8, left=0, before=0.8)  # the last rung added nothing
    assert found.expect(warm, 0.8, 1)[0] < hoped


def test_other_runs_count_less_than_this_one() -> None:
    past = [Observation(_recipe(), 0.3, 0.05, here=False)]
    own = [Observation(_recipe(), 0.3, 0.05, here=True)]
    alone, foreign, here = (_surrogate(past=p).predict([_recipe()])[0][0] for p in ([], past, own))
    assert alone < foreign < here


@pytest.mark.parametrize(
    ("survey", "floor"),
    [({}, None), ({"m/a": 0.5}, None), ({"m/a": 0.5, "m/b": 0.5}, 0.5), ({"m/a": 0.0}, 0.0), ({"m/a": -4.0}, None)],
)
def test_degenerate_surveys_give_finite_predictions(survey: dict[str, float], floor: float | None) -> None:
    found = Surrogate(survey, floor=floor, validation=1)
    found.observe(_recipe(), 0.5, left=2)
    means, spreads = found.predict([_recipe(), _recipe("m/unknown")])
    assert np.isfinite(means).all()
    assert (spreads > 0).all()
    assert math.isfinite(found.skill(0.5))
