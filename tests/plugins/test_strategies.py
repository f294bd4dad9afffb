"""The strategies searched by default: what they suit, what they search, and the phases they give."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from autotransfer.errors import ConfigError
from autotransfer.plugin import BackboneSpec, Choice, Phase, Profile, Strategy, frozen_stages
from autotransfer.protocols import overrides
from autotransfer_strategies import autotransfer_strategies
from autotransfer_strategies.settings import batch_size, fine_tuning

STRATEGIES = {s.id: s for s in autotransfer_strategies()}
PROBE, PARTIAL, FULL, RIDGE, DEPTHS = (STRATEGIES[f"core/{n}"] for n in ("probe", "partial", "full", "ridge", "depths"))
TRAINED = {s.id: s for s in (PROBE, PARTIAL, FULL)}
PROFILE = Profile(
    name="toy", modality="image", task="multiclass", metric="accuracy", rows=500, train=300, validation=100, test=100
)


def spec(stages: int, transfer: bool = True) -> BackboneSpec:
    return BackboneSpec(
        id="acme/net", factory="acme.net:build", stages=tuple(f"s{i}" for i in range(stages)), transfer=transfer
    )


def test_there_are_five() -> None:
    assert set(STRATEGIES) == {*TRAINED, "core/ridge", "core/depths"}
    assert all(s.summary and s.source and not s.baseline for s in STRATEGIES.values())
    assert not any(overrides(s, door) for s in STRATEGIES.values() for door in ("adapt", "objective", "finish"))
    assert [s.id for s in STRATEGIES.values() if overrides(s, "head")] == ["core/ridge", "core/depths"]
    assert [s.id for s in STRATEGIES.values() if s.depths] == ["core/depths"]


@pytest.mark.parametrize("strategy", [RIDGE, DEPTHS], ids=lambda s: s.id)
def test_closed_forms_train_nothing_and_search_nothing(strategy: Strategy) -> None:
    assert strategy.phases(PROFILE, spec(5), {"epochs": 10}) == []
    assert strategy.space(PROFILE, spec(5)) == {}


@pytest.mark.parametrize(("stages", "fits"), [(0, False), (1, False), (2, True)])
def test_all_depths_need_more_than_one(stages: int, fits: bool) -> None:
    verdict = DEPTHS.applies(PROFILE, spec(stages))
    assert verdict.ok == fits
    assert bool(verdict.reason) == (not fits)
    assert RIDGE.applies(PROFILE, spec(stages)).ok


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_baselines_are_refused_with_a_reason(strategy: Strategy) -> None:
    verdict = strategy.applies(PROFILE, spec(3, transfer=False))
    assert not verdict.ok
    assert "baseline" in verdict.reason


@pytest.mark.parametrize(("stages", "fits"), [(0, False), (1, False), (2, True), (9, True)])
def test_partial_needs_a_place_to_cut(stages: int, fits: bool) -> None:
    verdict = PARTIAL.applies(PROFILE, spec(stages))
    assert verdict.ok == fits
    assert bool(verdict.reason) == (not fits)
    assert PROBE.applies(PROFILE, spec(stages)).ok
    assert FULL.applies(PROFILE, spec(stages)).ok


@pytest.mark.parametrize("stages", range(2, 14))
def test_partial_freezes_some_but_not_all_and_each_number_once(stages: int) -> None:
    fractions = PARTIAL.space(PROFILE, spec(stages))["freeze_fraction"]
    assert isinstance(fractions, Choice)
    frozen = [frozen_stages(float(f), stages) for f in fractions.values if f is not None]
    assert frozen == sorted(set(frozen))
    assert 0 < frozen[0] <= frozen[-1] < stages
    assert len(frozen) >= min(stages - 1, 2)


def test_a_probe_is_one_frozen_phase_with_more_epochs() -> None:
    (phase,) = PROBE.phases(PROFILE, spec(5), {"epochs": 10, "lr": 2e-3, "weight_decay": 0.1})
    assert phase == Phase(epochs=40, lr=2e-3, freeze=5)


def test_partial_is_one_phase_with_k_frozen() -> None:
    values = {"epochs": 10, "freeze_fraction": 0.4, "freeze": 2, "lr": 1e-3, "lr_ratio": 0.2}
    assert PARTIAL.phases(PROFILE, spec(5), values) == [Phase(epochs=10, lr=1e-3, lr_ratio=0.2, freeze=2)]


def test_full_is_one_phase_with_nothing_frozen() -> None:
    values = {"epochs": 3, "lr": 1e-3, "lr_ratio": 0.2, "layer_decay": 0.75}
    assert FULL.phases(PROFILE, spec(5), values) == [Phase(epochs=3, lr=1e-3, lr_ratio=0.2, layer_decay=0.75, freeze=0)]


@pytest.mark.parametrize("strategy", TRAINED.values(), ids=TRAINED)
def test_every_draw_gives_phases(strategy: Strategy) -> None:
    rng, net = Random(0), spec(4)
    for _ in range(30):
        values = {n: d.sample(rng) for n, d in strategy.space(PROFILE, net).items()}
        assert all(values[n] in d for n, d in strategy.space(PROFILE, net).items())
        values |= {"epochs": 10, "freeze": 2}
        phases = strategy.phases(PROFILE, net, values)
        assert phases
        assert all(p.lr == values["lr"] and 0 < p.lr_ratio <= 1 for p in phases)


@pytest.mark.parametrize("strategy", TRAINED.values(), ids=TRAINED)
def test_a_value_that_is_no_number_is_named(strategy: Strategy) -> None:
    values = {"epochs": 10, "freeze": 2, "lr": "fast", "lr_ratio": 0.1, "layer_decay": 1.0}
    with pytest.raises(ConfigError, match="'lr' is 'fast'; wanted a number"):
        strategy.phases(PROFILE, spec(4), values)


@pytest.mark.parametrize(("rows", "size"), [(1, 8), (160, 8), (319, 8), (320, 16), (640, 32), (1280, 64), (50_000, 64)])
def test_batches_grow_with_the_rows(rows: int, size: int) -> None:
    assert batch_size(rows) == size
    profile = replace(PROFILE, train=rows)
    assert {s.training(profile, {}).batch_size for s in TRAINED.values()} == {size}


@pytest.mark.parametrize(
    ("task", "metric", "smoothing"),
    [
        ("multiclass", "accuracy", 0.1),
        ("multiclass", "log_loss", 0.0),
        ("binary", "accuracy", 0.0),
        ("multilabel", "f1", 0.0),
        ("regression", "rmse", 0.0),
    ],
)
def test_labels_are_smoothed_where_it_helps(task: str, metric: str, smoothing: float) -> None:
    profile = replace(PROFILE, task=task, metric=metric)
    assert fine_tuning(profile).label_smoothing == smoothing
    assert FULL.training(profile, {}) == PARTIAL.training(profile, {}) == fine_tuning(profile)
    assert PROBE.training(profile, {}).label_smoothing == 0.0
