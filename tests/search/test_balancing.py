"""Classes of very different size, through the public face: what is offered, chosen, told, saved, refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from autotransfer import engine
from autotransfer.config import Settings
from autotransfer.errors import ConfigError
from autotransfer.model import TransferModel, load
from autotransfer.profiles import Profile
from autotransfer.schema import Recipe, Training, TrialRecord
from autotransfer.search.balancing import balancing, faults, shifted, usual
from autotransfer.search.surrogate import expected_gain, shape_of
from autotransfer.space import Choice, Uniform
from autotransfer.strategy import Strategy
from autotransfer.tasks import make_task
from autotransfer.tasks.thresholds import Shift

PROFILE = Profile(
    name="x", modality="image", task="binary", metric="balanced_accuracy", rows=100, train=60, validation=20, test=20,
    classes=("a", "b"), imbalance=10.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")


@pytest.fixture(scope="module")
def skewed() -> tuple[np.ndarray, np.ndarray]:
    """Noise, a little brighter in a part of one image of twelve."""
    rng = np.random.default_rng(0)
    labels = np.where(np.arange(600) % 12 == 0, "rare", "usual")
    images = rng.integers(0, 160, (600, 16, 16, 3)).astype(np.uint8)
    for number in np.flatnonzero(labels == "rare"):
        top, left = rng.integers(0, 7, 2)
        images[number, top : top + 10, left : left + 10] += 50
    return images, labels


def _fit(data: Any, toynet: str, **more: Any) -> TransferModel:
    given = {"backbones": ["toynet/small"], "executor": "serial", "trials": 2, "strategies": ["core/probe"], **more}
    return engine.fit(Settings(data=data, plugins=[toynet], **given))


def _recall(model: TransferModel, data: Any) -> float:
    found = model.predict(data[0])
    return float((found[data[1] == "rare"] == "rare").mean())


@pytest.fixture(scope="module")
def balanced(skewed: Any, toynet: str, tmp_path_factory: pytest.TempPathFactory) -> TransferModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")
        return _fit(skewed, toynet, out=tmp_path_factory.mktemp("balanced") / "run")


def test_uneven_classes_are_balanced_unasked_and_told_of(balanced: TransferModel) -> None:
    training = balanced.recipe.training
    assert training.balance in ("logits", "weights", "none")
    assert training.thresholds
    assert balanced.recipe.values["balance"] == training.balance
    first = next(t for t in balanced.run.trials if t.id.startswith("t"))
    assert all("balance" in t.recipe.values for t in balanced.run.trials)
    assert {c.recipe.training.balance for c in balanced.run.plan.candidates} == {"logits"}
    assert first.status == "done"


def test_it_finds_the_rare_class_where_a_plain_head_does_not(skewed: Any, toynet: str) -> None:
    off = {"balance": "none", "thresholds": False}
    plain = _fit(skewed, toynet, space=off, trials=1)
    even = _fit(skewed, toynet, space={"balance": "logits", "thresholds": False}, trials=1)
    assert plain.run.test is not None
    assert even.run.test is not None
    assert even.run.test.value > plain.run.test.value + 0.05
    assert _recall(even, skewed) > _recall(plain, skewed)
    assert "logit-adjusted loss" in even.report()
    assert "logit-adjusted loss" not in plain.report()
    assert even.leaderboard().iloc[0]["reason"] == "logit-adjusted loss"


def test_a_head_in_closed_form_is_moved_by_the_log_priors(skewed: Any, toynet: str) -> None:
    def head(balance: str) -> Any:
        space = {"balance": balance, "thresholds": False}
        return _fit(skewed, toynet, strategies=["core/ridge"], trials=1, space=space)

    plain, even = head("none"), head("logits")
    counts = {k: (skewed[1] == k).sum() for k in even.classes}
    apart = [torch.tensor(m.predict_proba(skewed[0][:9])).log().double() for m in (plain, even)]
    moved = (apart[1] - apart[0]).diff(dim=1)
    assert moved.std() < 1e-4
    assert float(moved[0]) == pytest.approx(-math.log(counts["usual"] / counts["rare"]), abs=0.1)


@pytest.mark.parametrize("refit", [False, True])
def test_thresholds_are_in_the_saved_head(
    skewed: Any, toynet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refit: bool
) -> None:
    from autotransfer.search import balancing as module

    def fitted(values: tuple[float, ...] | None) -> TransferModel:
        found = None if values is None else Shift(values, 0.5, 0.75)
        monkeypatch.setattr(module, "best_shift", lambda *given: found)
        out = tmp_path / str(values)
        return _fit(skewed, toynet, strategies=["core/partial"], trials=1, space={"epochs": 1}, out=out, refit=refit)

    plain, moved = fitted(None), fitted((1.5, -1.5))
    again = load(tmp_path / "(1.5, -1.5)", [toynet])
    rows = skewed[0][:40]
    apart = [torch.tensor(m.predict_proba(rows)).log().diff(dim=1) for m in (plain, moved, again)]
    torch.testing.assert_close(apart[1], apart[0] - 3.0, rtol=1e-4, atol=1e-4)
    assert torch.equal(apart[2], apart[1])
    bias = [m.module.state_dict()["head.linear.bias"] for m in (plain, moved)]
    torch.testing.assert_close(bias[1], bias[0] + torch.tensor([1.5, -1.5]))
    decided = np.asarray(moved.classes)[moved.predict_proba(rows).argmax(1)]
    assert (moved.predict(rows) == decided).all()
    won = next(t for t in moved.run.trials if t.id == moved.run.winner)
    assert won.shift == (1.5, -1.5)
    assert won.objective == next(t for t in plain.run.trials if t.id == won.id).objective  # compared without
    assert "shifted logits" in moved.report()
    assert "its logits are shifted (rare +1.5, usual -1.5): balanced_accuracy 0.5000" in moved.report()
    assert "shifted logits" in str(moved.leaderboard().set_index("trial").loc[won.id, "reason"])
    card = (tmp_path / "(1.5, -1.5)" / "model" / "README.md").read_text()
    assert "its logits are shifted as the validation rows say, and its probabilities with them" in card
    assert "probabilities are those of equally frequent classes" in card
    assert "logits are shifted" not in plain.report()


def test_one_call_gives_the_same_model_twice(skewed: Any, toynet: str, balanced: TransferModel) -> None:
    again = _fit(skewed, toynet)
    assert again.recipe == balanced.recipe
    assert [t.shift for t in again.run.trials] == [t.shift for t in balanced.run.trials]
    assert np.array_equal(again.predict_proba(skewed[0][:20]), balanced.predict_proba(skewed[0][:20]))


def test_balanced_sampling_is_for_who_asks(skewed: Any, toynet: str) -> None:
    model = _fit(skewed, toynet, trials=1, space={"balance": "sampling"})
    assert model.recipe.training.balance == "sampling"
    assert not any("heads that were trained together" in n for t in model.run.trials for n in t.notes)
    assert "classes drawn evenly" in model.report()


def test_even_classes_and_other_metrics_are_left_alone(stripes: Any, toynet: str, skewed: Any) -> None:
    assert "balance" not in _fit(stripes, toynet, trials=1).recipe.values
    assert "balance" not in _fit(skewed, toynet, trials=1, metric="accuracy").recipe.values
    assert balancing(replace(PROFILE, metric="log_loss"), closed=False) == {}
    assert balancing(replace(PROFILE, imbalance=3.0), closed=False) == {}
    numbers = replace(PROFILE, task="regression", metric="rmse", classes=(), imbalance=1.0)
    assert balancing(numbers, closed=False) == {}


def test_what_is_offered() -> None:
    domains = balancing(PROFILE, closed=False)
    assert domains == {"balance": Choice(("logits", "weights", "none")), "thresholds": Choice((True,))}
    assert balancing(PROFILE, closed=True)["balance"] == Choice(("logits", "none"))
    assert usual(domains) == {"balance": "logits"}
    between = balancing(replace(PROFILE, metric="f1"), closed=False)
    assert usual(between) == {"balance": "none"}
    sets = replace(PROFILE, task="multilabel", metric="f1", imbalance=1.5)
    assert balancing(sets, closed=False) == {"thresholds": Choice((True,))}


def test_a_strategy_may_settle_it_itself(skewed: Any, toynet: str) -> None:
    from autotransfer.search.candidates import Space
    from autotransfer.spec import BackboneSpec

    class Even(Strategy):
        id = "toy/even"

        def space(self, profile: Any, spec: Any) -> Any:
            return {"balance": Choice(("none",))}

    spec = BackboneSpec(id="toy/net", factory="toy:build")
    domains = Space(PROFILE, {spec.id: spec}, [Even()]).domains(Even(), spec)
    assert domains["balance"] == Choice(("none",))
    assert domains["thresholds"] == Choice((True,))


@pytest.mark.parametrize(
    ("space", "text"),
    [
        ({"balance": "heavy"}, "balance is .*heavy.*; wanted for binary some of: none, logits, weights, sampling"),
        ({"balance": {"uniform": [0, 1]}}, "wanted for binary some of: none"),
        ({"thresholds": 1}, "thresholds is .*; wanted true or false"),
        ({"thresholds": "yes", "balance": "heavy"}, "balance is .*; thresholds is "),
    ],
)
def test_wrong_values_are_one_clear_error(skewed: Any, toynet: str, space: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        _fit(skewed, toynet, space=space)


def test_what_a_task_does_not_know_is_refused() -> None:
    numbers = replace(PROFILE, task="regression", metric="rmse", classes=())
    assert "wanted for regression some of: none" in faults(numbers, {"balance": Choice(("logits",))})[0]
    assert "no threshold changes rmse" in faults(numbers, {"thresholds": Choice((True,))})[0]
    assert faults(numbers, {"balance": Choice(("none",)), "thresholds": Choice((False,))}) == []
    sets = replace(PROFILE, task="multilabel", metric="f1")
    assert faults(sets, {"balance": Choice(("logits", "weights"))}) == []
    assert "some of: none, logits, weights" in faults(sets, {"balance": Choice(("sampling",))})[0]
    assert faults(PROFILE, {"thresholds": Uniform(0, 1)})


def test_heads_with_and_without_share_one_product(balanced: TransferModel) -> None:
    told = [n for t in balanced.run.trials for n in t.notes if "heads that were trained together" in n]
    assert told
    assert int(told[0].split("best of ")[1].split()[0]) > 10


def test_a_balance_is_expected_to_help_a_little_before_any_trial() -> None:
    recipe = Recipe(backbone="a/b", strategy="core/probe", values={"lr": 1e-3})
    even, uneven = (replace(recipe, values={"lr": 1e-3, "balance": b}) for b in ("logits", "none"))
    assert expected_gain(shape_of(even, None)) == expected_gain(shape_of(recipe, None)) == 0.0
    assert -0.1 < expected_gain(shape_of(uneven, None)) < 0.0
    draws = [Choice(("logits", "weights", "none")).sample(Random(i)) for i in range(30)]
    assert set(draws) == {"logits", "weights", "none"}


def test_only_a_recipe_that_asks_gets_a_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    from autotransfer.search import balancing as module

    monkeypatch.setattr(module, "best_shift", lambda *given: Shift((1.0, 0.0), 0.5, 0.6))
    task, outputs, targets = make_task("binary", ["a", "b"], "f1"), torch.zeros(20, 2), torch.arange(20) % 2
    recipe = Recipe(backbone="a/b", strategy="core/probe")
    record = TrialRecord(id="t1", recipe=recipe, status="done")
    assert shifted(record, task, outputs, targets, targets) is record
    asked = replace(record, recipe=replace(recipe, training=Training(thresholds=True)))
    found = shifted(asked, task, outputs, targets, targets)
    assert found.shift == (1.0, 0.0)
    assert found.notes == ("its logits are shifted (a +1): f1 0.5000 on the validation rows without, 0.6000 with it, "
                           "each fifth of them shifted as the others say",)  # fmt: skip
