"""Candidates: the guaranteed ones, the drawn ones, and the caller's own space."""

from __future__ import annotations

from typing import Any

import pytest

from autotransfer.errors import ConfigError
from autotransfer.profiles import Profile
from autotransfer.registry import Registry
from autotransfer.schema import Refusal, SurveyRecord
from autotransfer.search.candidates import DRAWN, FAMILY, Proposer, Space
from autotransfer.search.refusals import merged
from autotransfer.space import Choice, LogUniform
from autotransfer.spec import BackboneSpec

PROFILE = Profile(
    name="d",
    modality="image",
    task="multiclass",
    metric="accuracy",
    rows=500,
    train=320,
    validation=80,
    test=100,
    classes=("a", "b", "c"),
)
STAGES = ("s1", "s2", "s3", "s4")


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


def _proposer(registry: Registry, given: Any = None, seed: int = 0, strategies: list[str] | None = None) -> Proposer:
    specs = {i: BackboneSpec(id=i, factory="m:f") for i in ("m/a", "m/b")}
    chosen = [s for s in registry.strategies() if strategies is None or s.id in strategies]
    space = Space(PROFILE, specs, chosen, given or {}, seed=seed)
    survey = [SurveyRecord(backbone=i, status="done", stages=STAGES) for i in specs]
    return Proposer(space, survey, ["m/b", "m/a"], "m/a")


def test_the_default_recipe_of_the_static_winner_comes_first(registry: Registry) -> None:
    found = [c.recipe for c in _proposer(registry).guaranteed()]
    assert [(r.backbone, r.strategy) for r in found] == [
        ("m/a", "core/full"),
        ("m/b", "core/probe"),
        ("m/b", "core/partial"),
        ("m/b", "core/depths"),
        ("m/a", "core/probe"),
        ("m/a", "core/depths"),
    ]
    assert found[0].values["layer_decay"] == 0.75
    assert (found[2].freeze, found[2].values["lr_ratio"]) == (3, 0.3)
    assert found[3].stages == STAGES


def test_draws_depend_on_the_seed_alone_and_never_repeat_what_was_tried(registry: Registry) -> None:
    one, two, other = (_proposer(registry, seed=s) for s in (1, 1, 2))
    first = one.draw()
    assert [c.recipe for c in first] == [c.recipe for c in two.draw()]
    assert [c.recipe for c in first] != [c.recipe for c in other.draw()]
    assert DRAWN / 2 < len({c.recipe.key for c in first}) == len(first) <= DRAWN
    for candidate in first[:5]:
        one.take(candidate)
    again = {c.recipe.key for c in one.draw()}
    assert not again & {c.recipe.key for c in first[:5]}


def test_fractions_that_freeze_the_same_stages_are_one_candidate(registry: Registry) -> None:
    given = {
        "freeze_fraction": Choice((0.50, 0.52, 0.55)),
        "lr": Choice((1e-3,)),
        "lr_ratio": Choice((0.1,)),
        "head_start": Choice((True,)),
    }
    proposer = _proposer(registry, given, strategies=["core/partial"])
    drawn = proposer.draw()
    assert sorted((c.recipe.backbone, c.recipe.freeze) for c in drawn) == [("m/a", 2), ("m/b", 2)]
    for candidate in drawn:
        proposer.take(candidate)
    assert proposer.draw() == []


def test_the_callers_space_takes_the_place_of_the_strategys(registry: Registry) -> None:
    given = {"lr": LogUniform(0.5, 0.6), "label_smoothing": Choice((0.3,)), "epochs": Choice((4,))}
    for candidate in _proposer(registry, given).guaranteed():
        lr = candidate.recipe.values.get("lr")
        assert lr is None or 0.5 <= float(lr) <= 0.6  # a closed-form head has none
        assert candidate.recipe.training.label_smoothing == 0.3
        assert candidate.recipe.values["epochs"] == 4


def test_unknown_names_in_the_space_are_listed_with_suggestions(registry: Registry) -> None:
    space = _proposer(registry, {"lr_ration": Choice((1,)), "depth": Choice((2,))}).space
    with pytest.raises(ConfigError, match="lr_ratio") as caught:
        space.unknown_values()
    assert "'depth'" in str(caught.value)


def test_heads_of_one_backbone_are_proposed_once_with_rivals_of_other_values(registry: Registry) -> None:
    proposer = _proposer(registry)
    families = [c for c in proposer.guaranteed() if c.rivals]
    assert [(c.recipe.backbone, c.recipe.strategy, len(c.rivals)) for c in families] == [
        ("m/b", "core/probe", FAMILY - 1),
        ("m/a", "core/probe", FAMILY - 1),
    ]
    own = families[0]
    assert len({r.key for r in (own.recipe, *own.rivals)}) == FAMILY
    assert {(r.backbone, r.strategy, r.training.batch_size) for r in own.rivals} == {
        ("m/b", "core/probe", own.recipe.training.batch_size)
    }
    assert "core/probe" not in {c.recipe.strategy for c in proposer.draw()}
    heads = _proposer(registry, strategies=["core/probe"])
    heads.guaranteed()
    assert heads.draw()  # nothing else is left, so that more heads are proposed


def test_a_strategy_that_failed_twice_on_a_backbone_is_given_up_there(registry: Registry) -> None:
    proposer = _proposer(registry, strategies=["core/full", "core/partial"])
    proposer.space.failed["m/b", "core/full"] = ["out of range"]
    assert ("m/b", "core/full") in {(c.recipe.backbone, c.recipe.strategy) for c in proposer.draw()}
    proposer.space.failed["m/b", "core/full"].append("the loss became nan")
    drawn = {(c.recipe.backbone, c.recipe.strategy) for c in proposer.draw()}
    assert drawn == {("m/a", "core/full"), ("m/a", "core/partial"), ("m/b", "core/partial")}
    told = {r.name: r.reason for r in proposer.space.refusals}
    assert told["core/full on m/b"] == "it was given up after 2 failures: the loss became nan"


def test_before_the_survey_nothing_is_refused_for_want_of_stages(registry: Registry) -> None:
    space = _proposer(registry).space
    told = {r.name: r.reason for r in space.unsuited()}
    assert told.pop("core/coral on m/a") == "no unlabeled rows were given to adapt to"
    adapting = {s.id for s in space.strategies if s.unlabeled}
    assert {n for n in told if n.partition(" on ")[0] not in adapting} == {
        "core/prototypes on m/a",
        "core/prototypes on m/b",
    }
    assert "107 on average" in told["core/prototypes on m/a"]
    assert space.refusals == []
    space.specs["m/c"] = BackboneSpec(id="m/c", factory="m:f", stages=("one",))
    assert "core/partial on m/c" in {r.name for r in space.unsuited()}


def test_what_the_survey_found_of_a_network_decides_what_suits_it(registry: Registry) -> None:
    specs = {i: BackboneSpec(id=i, factory="m:f") for i in ("m/cnn", "m/vit")}
    chosen = [s for s in registry.strategies() if s.id == "core/lora"]
    space = Space(PROFILE, specs, chosen)
    survey = [
        SurveyRecord(backbone=i, status="done", stages=STAGES, linear=share)
        for i, share in (("m/cnn", 0.01), ("m/vit", 0.98))
    ]
    assert {c.recipe.backbone for c in Proposer(space, survey, ["m/cnn", "m/vit"], None).draw()} == {"m/vit"}
    assert [r.name for r in space.refusals] == ["core/lora on m/cnn"]


def test_many_backbones_are_refused_without_comparing_each_with_all(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = {f"m/{i}": BackboneSpec(id=f"m/{i}", factory="m:f") for i in range(60)}
    space = Space(PROFILE, specs, registry.strategies())
    compared, equal = [], Refusal.__eq__

    def counted(self: Refusal, other: object) -> bool:
        compared.append(1)
        return equal(self, other)

    monkeypatch.setattr(Refusal, "__eq__", counted)
    found = space.unsuited()
    told = merged(found, space.strategies, specs)
    assert len(compared) < 3 * len(found)
    assert [r.name for r in told if r.name.startswith("core/coral")] == ["core/coral on all backbones"]
    assert [r for r in told if "all backbones" not in r.name] == [r for r in found if r.name.startswith("core/proto")]
    space.refuse("m/a", "too large")
    space.refuse("m/b", "too slow")
    space.refuse("m/a", "too large")
    assert [(r.name, r.reason) for r in space.refusals] == [("m/a", "too large"), ("m/b", "too slow")]
