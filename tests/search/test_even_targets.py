"""Several targets, one with a rare class: balance and thresholds target by target, through the public face too."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from autotransfer import engine
from autotransfer.config import Settings
from autotransfer.errors import ConfigError
from autotransfer.model import TransferModel, load
from autotransfer.profiles import Profile
from autotransfer.schema import Recipe, Training, TrialRecord
from autotransfer.search.balancing import balancing, faults, shifted, usual
from autotransfer.search.transferability import judge
from autotransfer.space import Choice
from autotransfer.targets import TargetProfile
from autotransfer.tasks import Several, make_task
from autotransfer.tasks.thresholds import best_shift
from autotransfer.train.balance import log_priors


def target(name: str, task: str, metric: str, imbalance: float = 1.0) -> TargetProfile:
    classes = () if task == "regression" else ("a", "b")
    return TargetProfile(
        name=name, task=task, metric=metric, rows=100, train=60, validation=20, test=20,
        classes=classes, imbalance=imbalance,
    )  # fmt: skip


SIZE, RARE = target("size", "regression", "rmse"), target("kind", "binary", "balanced_accuracy", 10.0)
BETWEEN, EVEN, PLAIN = (
    target("mark", "binary", "f1", 9.0),
    target("side", "binary", "accuracy"),
    target("hit", "binary", "accuracy", 9.0),
)


def profile(*each: TargetProfile) -> Profile:
    return Profile(
        name="x", modality="image", task="multi-task", metric="skill", rows=100, train=60, validation=20, test=20,
        targets=tuple(t.name for t in each), each=each,
    )  # fmt: skip


def test_what_is_offered_is_what_any_target_calls_for() -> None:
    assert balancing(profile(SIZE, EVEN, PLAIN), closed=False) == {}
    domains = balancing(profile(SIZE, RARE, EVEN), closed=False)
    assert domains == {"balance": Choice(("logits", "weights", "none")), "thresholds": Choice((True,))}
    assert usual(balancing(profile(BETWEEN, SIZE), closed=False)) == {"balance": "none"}
    for order in ((BETWEEN, RARE), (RARE, BETWEEN)):  # a metric that counts classes alike comes before one between
        assert usual(balancing(profile(*order), closed=False)) == {"balance": "logits"}
    sets = replace(target("tags", "multilabel", "f1"), classes=("p", "q", "r"))
    assert balancing(profile(sets, SIZE), closed=False) == {"thresholds": Choice((True,))}


def test_what_has_no_meaning_for_the_targets_is_refused_with_the_reason() -> None:
    asked = {"balance": Choice(("logits", "none")), "thresholds": Choice((True,))}
    assert faults(profile(RARE, SIZE), asked) == []
    assert faults(profile(SIZE, PLAIN), {"thresholds": Choice((True,))}) == []
    assert faults(profile(RARE, SIZE), {"balance": Choice(("sampling",))}) == [
        "balance is 'sampling'; wanted for multi-task some of: none, logits, weights"
    ]
    told = faults(profile(SIZE, SIZE), asked)
    assert told[0].startswith("balance is 'logits', 'none'; wanted 'none': no target is of classes and judged by")
    assert told[1] == "thresholds is True; wanted false: no threshold changes rmse, rmse"


def answers(count: int = 240) -> tuple[Several, torch.Tensor, torch.Tensor]:
    """Logits of a rare class that are all too low, a number, and a class told without fault; labels missing."""
    rng = np.random.default_rng(0)
    kinds = make_task("binary", ["rare", "usual"], "balanced_accuracy")
    task = Several(
        {"kind": kinds, "size": make_task("regression", [0.0, 2.0]), "side": make_task("binary", ["l", "r"])}
    )
    rare = np.arange(count) % 8 == 0
    rows = [("rare" if r else "usual", float(i % 5), "lr"[i % 2]) for i, r in enumerate(rare)]
    rows = [(None if i % 7 == 0 else a, b, c) for i, (a, b, c) in enumerate(rows)]
    first = np.where(rare, -1.0, -3.0) + 0.4 * rng.normal(size=count)
    sides = 4.0 * (np.arange(count) % 2) - 2.0
    columns = [first, np.zeros(count), np.zeros(count), -sides, sides]
    return task, torch.tensor(np.stack(columns, 1)).float(), task.encode(rows)


def test_thresholds_are_each_targets_own() -> None:
    task, outputs, targets = answers()
    recipe = Recipe(backbone="a/b", strategy="core/probe", training=Training(thresholds=True))
    record = TrialRecord(id="t1", recipe=recipe, status="done")
    found = shifted(record, task, outputs, targets, targets)
    kind = task.parts[0]
    own, wanted = kind.of(outputs, targets)
    alone = best_shift(kind.task, own, wanted, log_priors(wanted, 2))
    assert alone is not None
    assert found.shift[:2] == alone.values
    assert found.shift[2:] == (0.0, 0.0, 0.0)
    assert [n.split(" (")[0] for n in found.notes] == ["kind: its logits are shifted"]
    moved = outputs + torch.tensor(found.shift)
    before, after = (task.scores(o, targets)["kind.balanced_accuracy"] for o in (outputs, moved))
    assert after > before + 0.2
    plain = replace(record, recipe=replace(recipe, training=Training()))
    assert shifted(plain, task, outputs, targets, targets) is plain
    assert shifted(record, task, moved, targets, targets).shift == ()


def test_the_survey_counts_a_rare_class_alike() -> None:
    rng = np.random.default_rng(0)
    kinds = np.where(np.arange(200) % 10 == 0, "rare", "usual")
    features = torch.tensor(rng.normal(size=(200, 4)) + 1.2 * (kinds == "rare")[:, None]).float()
    task = make_task("binary", ["rare", "usual"], "balanced_accuracy")
    alone = judge(features, task.encode(kinds.tolist()), task)
    both = Several({"kind": task, "size": make_task("regression", [0.0, 2.0])})
    rows = [(k, None) for k in kinds.tolist()]
    together = judge(features, both.encode(rows), both.judged(both.encode(rows)))
    assert alone.score > 0.7
    assert together.score == pytest.approx(both.judged(both.encode(rows)).parts[0].skill(alone.score))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise, a little brighter in a part of one picture of twelve; each fifth picture has no kind."""
    root, rng = tmp_path_factory.mktemp("even"), np.random.default_rng(0)
    rows = []
    for number in range(600):
        image = rng.integers(0, 160, (16, 16, 3))
        rare = number % 12 == 0
        if rare:
            top, left = rng.integers(0, 7, 2)
            image[top : top + 10, left : left + 10] += 50
        Image.fromarray(image.astype(np.uint8)).save(root / f"{number}.png")
        kind = None if number % 5 == 1 else "rare" if rare else "usual"
        rows.append({"image": f"{number}.png", "kind": kind, "level": float(image.mean())})
    pd.DataFrame(rows).to_csv(root / "table.csv", index=False)
    return root / "table.csv"


def fit(table: Path, toynet: str, **more: Any) -> TransferModel:
    given: dict[str, Any] = {"backbones": ["toynet/small"], "executor": "serial", "trials": 1, **more}
    given["space"] = {"epochs": 5, **more.get("space", {})}
    given = {"strategies": ["core/probe"], "target": ["kind", "level"], "plugins": [toynet], **given}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")
        return engine.fit(Settings(data=str(table), **given))


def pictures(table: Path, count: int) -> list[str]:
    return [str(table.parent / f"{i}.png") for i in range(count)]


def test_a_rare_class_of_one_target_is_balanced_unasked_and_told_of(table: Path, toynet: str, tmp_path: Path) -> None:
    even = fit(table, toynet, out=tmp_path / "run")
    plain = fit(table, toynet, space={"balance": "none", "thresholds": False})
    assert even.run.profile.each[0].metric == "balanced_accuracy"
    assert {c.recipe.training.balance for c in even.run.plan.candidates} == {"logits"}
    assert all(t.recipe.training.thresholds for t in even.run.trials)
    assert even.run.test is not None
    assert plain.run.test is not None
    own, other = (m.run.test.each["kind"].value for m in (even, plain))  # type: ignore[union-attr]
    assert own > other + 0.05
    assert (tmp_path / "run" / "model" / "README.md").exists()
    again = load(tmp_path / "run", [toynet])
    assert again.predict(pictures(table, 9)).equals(even.predict(pictures(table, 9)))


def test_a_balanced_head_moves_the_classes_and_leaves_the_number(table: Path, toynet: str, tmp_path: Path) -> None:
    def head(balance: str) -> TransferModel:
        space = {"balance": balance, "thresholds": False}
        return fit(table, toynet, strategies=["core/ridge"], space=space, out=tmp_path / balance)

    plain, even = head("none"), head("logits")
    rows = pictures(table, 9)
    apart = [torch.tensor(m.predict_proba(rows)["kind"]).log().double() for m in (plain, even)]
    moved = (apart[1] - apart[0]).diff(dim=1)
    counts = even.run.profile.each[0].counts
    assert moved.std() < 1e-4
    assert float(moved[0]) == pytest.approx(-math.log(counts["usual"] / counts["rare"]), abs=0.1)
    assert np.allclose(plain.predict(rows)["level"], even.predict(rows)["level"])
    assert "classes of kind: logit-adjusted loss" in (tmp_path / "logits/model/README.md").read_text()
    assert "logit-adjusted" not in (tmp_path / "none/model/README.md").read_text()


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"space": {"balance": "sampling"}}, "balance is .*; wanted for multi-task some of: none, logits, weights"),
        (
            {"space": {"balance": "logits"}, "metric": {"kind": "accuracy"}},
            "no target is of classes and judged by balanced_accuracy",
        ),
        ({"space": {"thresholds": True}, "metric": {"kind": "log_loss"}}, "no threshold changes log_loss, rmse"),
    ],
)
def test_what_cannot_be_is_one_clear_error(table: Path, toynet: str, more: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        fit(table, toynet, **more)
