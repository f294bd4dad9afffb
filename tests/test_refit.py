"""``refit=True``: the winner's recipe from the winner's start, on training and validation rows together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from autotransfer import engine
from autotransfer.config import Settings
from autotransfer.model import TransferModel
from autotransfer.search.trial import Worker


@pytest.fixture(autouse=True)
def _own_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")


@pytest.fixture(scope="module")
def shades() -> tuple[np.ndarray, np.ndarray]:
    """Images ``uint8`` [120, 16, 16, 3] of noise, dark, grey or bright."""
    rng, labels = np.random.default_rng(0), np.arange(120) % 3
    images = rng.integers(0, 90, (120, 16, 16, 3)) + 70 * labels[:, None, None, None]
    return images.astype(np.uint8), np.array(["dark", "grey", "bright"])[labels]


def _fit(data: Any, toynet: str, strategy: str, **more: Any) -> TransferModel:
    given = {"backbones": "toynet/small", "plugins": [toynet], "executor": "serial", "trials": 1, **more}
    return engine.fit(Settings(data=data, strategies=[strategy], **given))


def _won(model: TransferModel) -> Any:
    return next(t for t in model.run.trials if t.id == model.run.winner)


@pytest.mark.parametrize(("strategy", "best"), [("core/probe", 0.0), ("core/full", 1.0)])
def test_it_begins_where_the_trial_began(shades: Any, toynet: str, strategy: str, best: float) -> None:
    space = {"epochs": 1, "lr": 1e-9, "head_start": True}  # the start is all that there is to the model
    plain, again = (_fit(shades, toynet, strategy, space=space, refit=refit) for refit in (False, True))
    assert (_won(again).best_epoch, _won(again).objective) == (best, _won(plain).objective)
    assert again.recipe.values["head_start"]
    right = [(m.predict(shades[0]) == shades[1]).mean() for m in (plain, again)]
    assert right[0] > 0.7
    assert right[1] > right[0] - 0.05
    first, second = (m.predict_proba(shades[0]) for m in (plain, again))
    assert 0 < abs(first - second).mean() < 0.1  # of more rows, but as sure


def test_a_cold_head_stays_cold(shades: Any, toynet: str) -> None:
    space = {"epochs": 1, "lr": 1e-9, "head_start": False}
    chances = _fit(shades, toynet, "core/full", space=space, refit=True).predict_proba(shades[0][:3])
    assert chances == pytest.approx(1 / 3, abs=1e-3)


def test_it_ends_at_the_best_epoch_whatever_phase_that_lies_in(
    shades: Any, toynet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _trainers(monkeypatch)
    model = _fit(shades, toynet, "core/lpft", space={"epochs": 2}, refit=True)
    last = made[-1]
    assert last.job.validation is None
    assert len(last.job.train) == model.run.profile.train + model.run.profile.validation
    assert len(last.job.phases) == 2
    assert last.step == round(_won(model).best_epoch * last.per_epoch)


def test_averaged_weights_are_what_is_shipped(
    shades: Any, toynet: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "mean.py").write_text(AVERAGED)
    made = _trainers(monkeypatch)
    plugins = [toynet, str(tmp_path / "mean.py")]
    model = _fit(shades, toynet, "mean/weights", plugins=plugins, refit=True)
    average, state = made[-1].average, model.module.state_dict()
    assert "head.linear.weight" in average
    assert all(torch.equal(state[n], t) for n, t in average.items())


AVERAGED = '''
from autotransfer.plugin import Phase, Strategy, hookimpl


class Weights(Strategy):
    """Everything trained, the weights averaged."""

    id = "mean/weights"

    def phases(self, profile, spec, values):
        return [Phase(epochs=2, lr=1e-2, freeze=0, averaging=0.9)]


@hookimpl
def autotransfer_strategies():
    return [Weights()]
'''


def _trainers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that takes every training that begins from here on."""
    made, plain = list[Any](), Worker.trainer

    def noted(self: Worker, *given: Any, **more: Any) -> Any:
        made.append(plain(self, *given, **more))
        return made[-1]

    monkeypatch.setattr(Worker, "trainer", noted)
    return made
