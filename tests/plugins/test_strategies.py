"""The strategies searched by default: what they suit, what they search, and the phases they give."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from autotransfer.errors import ConfigError
from autotransfer.plugin import BackboneSpec, Choice, Phase, Profile, Strategy, frozen_stages
from autotransfer.strategy import overrides
from autotransfer.targets import TargetProfile
from autotransfer_strategies import autotransfer_strategies
from autotransfer_strategies.settings import batch_size, fine_tuning
from autotransfer_strategies.surgical import blocks

STRATEGIES = {s.id: s for s in autotransfer_strategies()}
PROBE, PARTIAL, FULL, RIDGE, DEPTHS = (STRATEGIES[f"core/{n}"] for n in ("probe", "partial", "full", "ridge", "depths"))
KNN, PROTOTYPES, LPFT, GRADUAL = (STRATEGIES[f"core/{n}"] for n in ("knn", "prototypes", "lpft", "gradual"))
SURGICAL, NORMS, LORA, AVERAGED = (STRATEGIES[f"core/{n}"] for n in ("surgical", "norms", "lora", "averaged"))
L2SP, BSS = STRATEGIES["core/l2sp"], STRATEGIES["core/bss"]
CORAL, ADABN = STRATEGIES["core/coral"], STRATEGIES["core/adabn"]
ADAPTED = {f"core/{n}" for n in ("mcc", "dann", "cdan", "deep-coral")}
CLOSED = {s.id: s for s in (RIDGE, DEPTHS, KNN, PROTOTYPES, CORAL, ADABN)}
TRAINED = {i: s for i, s in STRATEGIES.items() if i not in CLOSED}
TUNED = {i: s for i, s in TRAINED.items() if s is not PROBE}
PROFILE = Profile(
    name="toy", modality="image", task="multiclass", metric="accuracy", rows=500, train=300, validation=100, test=100
)


def spec(stages: int, transfer: bool = True) -> BackboneSpec:
    return BackboneSpec(
        id="acme/net", factory="acme.net:build", stages=tuple(f"s{i}" for i in range(stages)), transfer=transfer
    )


def test_every_strategy_says_what_it_is() -> None:
    assert len(STRATEGIES) == 21
    assert all(s.summary and s.source and s.needs and s.when and not s.baseline for s in STRATEGIES.values())
    assert [s.id for s in STRATEGIES.values() if s.depths] == ["core/depths"]


@pytest.mark.parametrize(
    ("door", "users"),
    [
        ("head", set(CLOSED)),
        ("adapt", {"core/lora", "core/adabn"}),
        ("objective", {"core/l2sp", "core/bss", *ADAPTED}),
        ("combine", set()),
        ("finish", {"core/adabn"} | set(TUNED) - {"core/lora"} - ADAPTED),
    ],
)
def test_doors_are_used_where_they_are_needed(door: str, users: set[str]) -> None:
    assert {i for i, s in STRATEGIES.items() if overrides(s, door)} == users


def test_only_the_averaged_one_asks_for_copies_of_its_weights() -> None:
    assert {i: s.snapshots for i, s in TUNED.items() if overrides(s, "finish") and s.snapshots} == {"core/averaged": 4}


@pytest.mark.parametrize("strategy", CLOSED.values(), ids=CLOSED)
def test_closed_forms_train_nothing_and_search_nothing(strategy: Strategy) -> None:
    assert strategy.phases(PROFILE, spec(5), {"epochs": 10}) == []
    assert strategy.space(PROFILE, spec(5)) == {}


@pytest.mark.parametrize("strategy", TUNED.values(), ids=TUNED)
def test_spaces_are_small(strategy: Strategy) -> None:
    assert set(strategy.space(PROFILE, spec(6))) - {"lr", "lr_ratio"} <= {"freeze_fraction", "layer_decay", "block"}


@pytest.mark.parametrize("strategy", [DEPTHS, PARTIAL, LPFT, GRADUAL, SURGICAL], ids=lambda s: s.id)
@pytest.mark.parametrize(("stages", "fits"), [(0, False), (1, False), (2, True), (9, True)])
def test_some_need_a_place_to_cut(strategy: Strategy, stages: int, fits: bool) -> None:
    verdict = strategy.applies(PROFILE, spec(stages))
    assert verdict.ok == fits
    assert verdict.reason == ("" if fits else "the backbone has fewer than two stages")


@pytest.mark.parametrize("strategy", [RIDGE, KNN, PROBE, FULL, NORMS, L2SP, BSS, AVERAGED], ids=lambda s: s.id)
@pytest.mark.parametrize("stages", [0, 1, 2])
def test_others_do_not(strategy: Strategy, stages: int) -> None:
    assert strategy.applies(PROFILE, spec(stages)).ok


@pytest.mark.parametrize(
    ("strategy", "changes", "text"),
    [
        (KNN, {"train": 10_001}, "carry all 10,001 training rows; wanted at most 10,000"),
        (L2SP, {"train": 2001}, "pays up to 2,000 training rows; there are 2,001"),
        (BSS, {"train": 2001}, "pays up to 2,000 training rows; there are 2,001"),
        (PROTOTYPES, {"classes": tuple("abc")}, "up to 10 training rows a class; here are 100 on average"),
        (PROTOTYPES, {"task": "regression"}, "and the task is regression"),
        (PROTOTYPES, {"task": "multilabel", "classes": tuple("abc")}, "and the task is multilabel"),
    ],
    ids=str,
)
def test_data_that_do_not_suit_are_refused_with_the_reason(strategy: Strategy, changes: Any, text: str) -> None:
    verdict = strategy.applies(replace(PROFILE, **changes), spec(5))
    assert not verdict.ok
    assert text in verdict.reason
    suited = replace(PROFILE, train=30, classes=tuple("abc"))
    assert strategy.applies(suited, spec(5)).ok


@pytest.mark.parametrize(("linear", "fits"), [(None, True), (0.9, True), (0.5, True), (0.49, False), (0.0, False)])
def test_lora_wants_linear_layers_as_far_as_is_known(linear: float | None, fits: bool) -> None:
    verdict = LORA.applies(PROFILE, replace(spec(5), linear=linear))
    assert verdict.ok == fits
    assert fits or "lie outside linear layers" in verdict.reason
    assert LORA.applies(PROFILE, spec(0)).reason == "the backbone has no stage"


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_baselines_are_refused_with_a_reason(strategy: Strategy) -> None:
    verdict = strategy.applies(PROFILE, spec(3, transfer=False))
    assert not verdict.ok
    assert "baseline" in verdict.reason


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


def test_lpft_is_the_head_alone_and_then_what_partial_trains() -> None:
    values = {"epochs": 10, "freeze_fraction": 0.33, "freeze": 2, "lr": 1e-3, "lr_ratio": 0.2}
    first, second = LPFT.phases(PROFILE, spec(5), values)
    assert first == Phase(epochs=10, lr=1e-3, freeze=5)
    assert [second] == PARTIAL.phases(PROFILE, spec(5), values)


@pytest.mark.parametrize(
    ("stages", "freezes"), [(2, [2, 1, 0]), (4, [4, 3, 2, 1, 0]), (5, [5, 4, 2, 1, 0]), (12, [12, 9, 6, 3, 0])]
)
def test_gradual_unfreezes_group_by_group(stages: int, freezes: list[int]) -> None:
    phases = GRADUAL.phases(PROFILE, spec(stages), {"epochs": 10, "lr": 1e-3, "lr_ratio": 0.2})
    assert [p.freeze for p in phases] == freezes
    assert [p.epochs for p in phases[:-1]] == [1.0] * (len(freezes) - 1)
    assert sum(p.epochs for p in phases) == pytest.approx(10)
    groups = len(freezes) - 1
    assert [p.layer_decay ** (stages / groups) for p in phases] == pytest.approx([1 / 2.6] * len(phases))


@pytest.mark.parametrize(
    ("stages", "found"),
    [
        (2, {"first": (0,)}),
        (3, {"first": (0,), "middle": (1,)}),
        (4, {"first": (0,), "middle": (1, 2)}),
        (12, {"first": (0, 1, 2, 3), "middle": (4, 5, 6, 7)}),
    ],
)
def test_surgical_trains_one_block_below_the_last(stages: int, found: dict[str, tuple[int, ...]]) -> None:
    assert blocks(stages) == found
    assert SURGICAL.space(PROFILE, spec(stages))["block"] == Choice(tuple(found))
    for block, numbers in found.items():
        values = {"epochs": 10, "lr": 1e-3, "lr_ratio": 0.2, "block": block}
        assert SURGICAL.phases(PROFILE, spec(stages), values) == [
            Phase(epochs=10, lr=1e-3, lr_ratio=0.2, stages=numbers)
        ]


def test_norms_lora_and_regularised_are_one_phase_each() -> None:
    values = {"epochs": 10, "freeze": 2, "lr": 1e-3, "lr_ratio": 0.2}
    whole = Phase(epochs=10, lr=1e-3, lr_ratio=0.2, freeze=0)
    assert NORMS.phases(PROFILE, spec(5), values) == [replace(whole, parameters="norms_and_biases")]
    assert L2SP.phases(PROFILE, spec(5), values) == BSS.phases(PROFILE, spec(5), values) == [whole]
    assert AVERAGED.phases(PROFILE, spec(5), values) == [replace(whole, averaging=0.999)]
    (thin,) = LORA.phases(PROFILE, spec(5), values)
    assert thin.freeze == 2
    assert L2SP.training(PROFILE, values) == replace(fine_tuning(PROFILE), weight_decay=0.0)


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
    values = {"epochs": 10, "freeze": 2, "lr": "fast", "lr_ratio": 0.1, "layer_decay": 1.0, "block": "first"}
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
    assert all(s.training(profile, {}) == fine_tuning(profile) for s in TUNED.values() if s is not L2SP)
    assert PROBE.training(profile, {}).label_smoothing == 0.0


def several(*tasks: str, metric: str = "accuracy") -> Profile:
    each = tuple(
        TargetProfile(name=f"t{i}", task=t, metric=metric, rows=500, train=30, validation=100, test=100)
        for i, t in enumerate(tasks)
    )
    return replace(PROFILE, task="multi-task", metric="skill", train=30, each=each)


def test_what_remembers_rows_is_for_one_target_and_the_rest_for_any_number() -> None:
    labelled = {i: s for i, s in STRATEGIES.items() if not s.unlabeled}
    verdicts = {i: s.applies(several("binary", "regression"), spec(6)) for i, s in labelled.items()}
    assert {i for i, v in verdicts.items() if not v.ok} == {"core/knn", "core/prototypes"}
    for id in ("core/knn", "core/prototypes"):
        assert verdicts[id].reason == "it remembers rows with their labels, for one target; here are 2"
    assert KNN.applies(PROFILE, spec(6)).ok


def test_labels_of_several_targets_are_smoothed_where_all_of_them_gain() -> None:
    assert fine_tuning(several("multiclass", "multiclass")).label_smoothing == 0.1
    assert fine_tuning(several("multiclass", "binary")).label_smoothing == 0.0
    assert fine_tuning(several("multiclass", "regression")).label_smoothing == 0.0
    assert fine_tuning(several("multiclass", "multiclass", metric="log_loss")).label_smoothing == 0.0
