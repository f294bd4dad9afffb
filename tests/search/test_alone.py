"""One model for each target of several: what it is trained on, what it costs, and when it is not trained."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from autotransfer.budget import Budget
from autotransfer.data import Prepared, prepare
from autotransfer.recipes import ONLY
from autotransfer.schema import Phase, Recipe
from autotransfer.search import alone
from autotransfer.search.jobs import Context, RungJob
from autotransfer.search.survey import HEAD_BIAS, HEAD_WEIGHT, load_features, write_atomically
from autotransfer.strategy import HeadState, Strategy
from autotransfer.targets import NOT_ALONE


class Trained(Strategy):
    id = "toy/trained"


class Solved(Strategy):
    id = "toy/solved"

    def head(self, features: Any, targets: Any) -> HeadState | None:
        return None


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    rng = np.random.default_rng(0)
    rows = 90
    data = pd.DataFrame({"text": [f"number {i} of {rng.integers(9)}" for i in range(rows)]})
    data["kind"] = [None if i % 3 == 0 else "abc"[i % 4 % 3] for i in range(rows)]
    data["size"] = [None if i % 5 == 0 else float(rng.normal()) for i in range(rows)]
    return prepare(data, target=["kind", "size"], modality="text")


def search(prepared: Prepared, strategy: Strategy | None = None, **more: Any) -> Any:
    """What the comparison asks of a search: a leader whose training costs 90, of a unit of 100."""
    recipe = Recipe(backbone="toy/net", strategy="toy/trained", values={"epochs": 10, "task_weights": "uncertainty"})
    leading = SimpleNamespace(
        id="t004",
        backbone="toy/net",
        candidate=SimpleNamespace(recipe=recipe),
        phases=(Phase(epochs=10, freeze=0),),
        moves=True,
        rungs=(2, 5, None),
    )
    given = {"budget": Budget(trials=4), "spent": 0.0, "unit": 100.0, "workers": 2, "deadline": float("inf"), **more}
    transfer = given.pop("transfer", True)
    leading.moves = given.pop("moves", True)
    return SimpleNamespace(
        context=SimpleNamespace(prepared=prepared, specs={"toy/net": SimpleNamespace(transfer=transfer)}),
        board=SimpleNamespace(leading=lambda: leading, trials=[]),
        profile=prepared.profile,
        prices=SimpleNamespace(end=lambda recipe, start: 90.0 * (ONLY in recipe.values) / (1 + start)),
        registry=SimpleNamespace(strategy=lambda _: strategy or Trained()),
        end=lambda _: given["deadline"],
        notes=[],
        **given,
    )


def shares(prepared: Prepared) -> float:
    """The labels of all targets together, in training rows."""
    return sum(t.train for t in prepared.profile.each) / prepared.profile.train


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({}, "of proportion"),
        ({"spent": 400.0}, ""),
        ({"unit": 200.0}, ""),
        ({"budget": Budget(), "unit": 80.0}, ""),
        ({"budget": Budget(), "unit": 80.0, "spent": 100.0}, "the search would cost too much"),
        ({"budget": Budget(seconds=900), "deadline": time.time() + 600}, ""),
        ({"budget": Budget(seconds=90), "deadline": time.time() + 10}, "too long"),
        ({"transfer": False}, "a no-transfer baseline, which shares nothing"),
        ({"strategy": Solved(), "moves": False}, "alone each would be the same"),
        ({"moves": False}, ""),
    ],
)
def test_it_is_made_where_the_budget_reaches(prepared: Prepared, more: dict[str, Any], why: str) -> None:
    one = search(prepared, **more)
    found = alone._why_not(one, one.board.leading(), 2.0)
    assert (why in found) if why else (found == "")
    if why:
        assert list(alone.compared(one, 2.0)) == []
        assert one.notes == [f"{NOT_ALONE}{found}"]


def test_seconds_are_kept_back_for_it(prepared: Prepared) -> None:
    cost = 90.0 * shares(prepared) / 2
    assert alone.kept_back(search(prepared, budget=Budget(seconds=900))) == pytest.approx(cost)
    assert alone.kept_back(search(prepared, budget=Budget(seconds=100))) == 0.0  # more than its share
    assert alone.kept_back(search(prepared)) == 0.0


def test_one_target_needs_none_of_it() -> None:
    data = pd.DataFrame({"text": [f"number {i} of many" for i in range(40)], "kind": list("ab") * 20})
    one = search(prepare(data, target="kind", modality="text"), budget=Budget(seconds=900))
    assert alone.kept_back(one) == 0.0
    assert list(alone.compared(one, 2.0)) == []
    assert alone.sharing(one) == ()
    assert one.notes == []


def test_its_features_are_those_of_the_rows_with_the_label(prepared: Prepared, tmp_path: Path) -> None:
    context = Context(prepared, [], {}, {}, str(tmp_path))
    train, held = len(prepared.train), len(prepared.validation)
    parts = {
        "train/0": torch.arange(train).float()[:, None],
        "validation/0": torch.arange(held).float()[:, None],
        HEAD_WEIGHT: torch.arange(4.0)[:, None],
        HEAD_BIAS: torch.arange(4.0),
    }
    write_atomically(parts, tmp_path / "features-net.safetensors")
    recipe = Recipe(backbone="toy/net", strategy="toy/trained", values={ONLY: "size"})
    own, job = alone.context_of(context, RungJob(id="s001", recipe=recipe, survey="features-net.safetensors"))
    found = load_features(own.path(job.survey))
    there = ~prepared.targets[:, 1].isnan().numpy()
    assert found["train/0"][:, 0].tolist() == np.flatnonzero(there[prepared.train]).tolist()
    assert found["validation/0"][:, 0].tolist() == np.flatnonzero(there[prepared.validation]).tolist()
    assert found[HEAD_WEIGHT].tolist() == [[3.0]]
    assert found[HEAD_BIAS].tolist() == [3.0]
    assert len(found["train/0"]) == len(own.prepared.train) == own.prepared.profile.train
