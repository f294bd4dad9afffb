"""Given splits whose training rows lack a class: heads have its output all the same, and never say it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from autotransfer import engine
from autotransfer.config import Settings
from autotransfer.model import TransferModel, load
from autotransfer.strategy import HeadState, NeighbourState, Strategy
from autotransfer.tasks import make_task
from autotransfer.train.heads import NEVER, closed_form

NAMES = np.array(["a dark", "b grey", "c bright"])
HEADS = ("core/ridge", "core/depths", "core/knn", "core/prototypes", "core/probe")


@pytest.fixture(autouse=True)
def _own_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies,baselines=autotransfer_baselines")


def _shades(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng, labels = np.random.default_rng(seed), np.arange(rows) % 3
    images = rng.integers(0, 90, (rows, 16, 16, 3)) + 70 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


def _fit(data: Any, toynet: str, strategies: Any, **more: Any) -> TransferModel:
    given = {"backbones": "toynet/small", "plugins": [toynet], "executor": "serial", "trials": 1, **more}
    return engine.fit(Settings(data=data, strategies=strategies, **given))


@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("strategy", HEADS)
def test_a_class_without_training_rows_is_no_hindrance(
    toynet: str, tmp_path: Path, strategy: str, missing: int
) -> None:
    (images, labels), (others, truth) = _shades(60, 0), _shades(30, 1)
    own = labels != missing
    model = _fit(
        (images[own][:30], NAMES[labels[own][:30]]),
        toynet,
        [strategy],
        validation=(others, NAMES[truth]),
        test=(others, NAMES[truth]),
        space={"epochs": 2},
    )
    told = {t.recipe.strategy: (t.status, t.reason) for t in model.run.trials}
    assert strategy in told
    assert {status for status, _ in told.values()} == {"done"}, told  # the baselines' too
    assert model.classes == tuple(NAMES)
    model.save(tmp_path / "kept")
    chances = load(tmp_path / "kept", [toynet]).predict_proba(others)
    assert chances.shape == (30, 3)
    known = truth != missing
    assert (chances.argmax(1)[known] == truth[known]).mean() > 0.6
    assert not (chances.argmax(1) == missing).any()


def test_nor_is_one_of_one_target_of_several(toynet: str, tmp_path: Path) -> None:
    rows = []
    for split, (images, labels) in {
        "train": _shades(48, 0),
        "validation": _shades(24, 1),
        "test": _shades(24, 2),
    }.items():
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            if split == "train" and label == 2:
                continue
            Image.fromarray(image).save(tmp_path / f"{split}{i}.png")
            rows.append({"image": f"{split}{i}.png", "shade": NAMES[label], "odd": str(i % 2), "split": split})
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    model = _fit(str(tmp_path / "table.csv"), toynet, ["core/ridge"], target=["shade", "odd"])
    told = {t.recipe.strategy: (t.status, t.reason) for t in model.run.trials}
    assert "core/ridge" in told
    assert {status for status, _ in told.values()} == {"done"}, told


class Given(Strategy):
    """A head as the test wants it."""

    id = "toy/given"

    def __init__(self, state: HeadState | NeighbourState) -> None:
        self.state = state

    def head(self, features: Tensor, targets: Tensor) -> HeadState | NeighbourState:
        return self.state


class Some:
    """Rows of the first two classes of three."""

    targets = torch.tensor([0, 1, 1, 0])


def test_only_what_is_lacking_is_added() -> None:
    task, features = make_task("multiclass", list("abc")), torch.randn(4, 5)

    def found(state: Any) -> Any:
        return closed_form(Given(state), features, Some(), task)  # type: ignore[arg-type]

    short = found(HeadState(weight=torch.ones(2, 5), bias=torch.ones(2)))
    assert short.bias.tolist() == [1, 1, NEVER]
    assert short.weight.sum(1).tolist() == [5, 5, 0]
    for count in (1, 3, 4):  # one that lacks a class with rows is wrong, and is refused where it is taken on
        state = HeadState(weight=torch.ones(count, 5), bias=torch.ones(count))
        assert found(state) is state
    near = {"keys": features, "mean": torch.zeros(5), "scale": torch.ones(5), "neighbours": 1, "temperature": 0.1}
    values = found(NeighbourState(values=torch.ones(4, 2), link="softmax", **near)).values  # type: ignore[arg-type]
    assert values.tolist() == [[1, 1, 0]] * 4
