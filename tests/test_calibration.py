"""The temperature of a model's logits: found where there is one to find, kept where it helps, no answer changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autotransfer import engine
from autotransfer.calibration import best_factor
from autotransfer.config import Settings
from autotransfer.model import TransferModel, load
from autotransfer.tasks import make_task
from autotransfer.tasks.several import Several
from autotransfer.train.heads import LinearHead

CLASSES = make_task("multiclass", ["a", "b", "c"])
LABELS = make_task("multilabel", [("a",), ("b",)])
NUMBERS = make_task("regression", [0.0, 1.0])


def drawn(rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of three classes, and classes drawn by the probabilities that they stand for."""
    logits = 2.0 * torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed))
    chosen = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(seed + 1))[:, 0]
    return logits, chosen


@pytest.mark.parametrize("times", [3.0, 0.25])
def test_logits_too_sharp_or_too_soft_are_brought_back(times: float) -> None:
    logits, targets = drawn(2000)
    found = best_factor(CLASSES, times * logits, targets)
    assert found is not None
    assert found.factor == pytest.approx(1 / times, rel=0.1)
    assert found.after < found.before
    assert found.before == pytest.approx(float(CLASSES.loss(times * logits, targets)), rel=1e-5)
    assert found.after == pytest.approx(float(CLASSES.loss(logits, targets)), rel=0.01)


def test_labels_have_one_temperature_too() -> None:
    logits = 2.0 * torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    targets = (torch.rand(1000, 2, generator=torch.Generator().manual_seed(1)) < logits.sigmoid()).float()
    found = best_factor(LABELS, 4.0 * logits, targets)
    assert found is not None
    assert found.factor == pytest.approx(0.25, rel=0.15)


def test_what_is_not_shown_to_help_is_left_alone() -> None:
    logits, targets = drawn(2000)
    assert best_factor(CLASSES, logits, targets) is None or abs(best_factor(CLASSES, logits, targets).factor - 1) < 0.1
    assert best_factor(CLASSES, 3.0 * logits[:19], targets[:19]) is None
    assert best_factor(NUMBERS, torch.randn(100, 1), torch.randn(100, 1)) is None
    kept = sum(best_factor(CLASSES, *drawn(40, seed)) is not None for seed in range(0, 60, 2))
    assert kept <= 8  # of 30 samples of 40 rows whose logits are right


def test_outputs_of_a_head_are_multiplied_one_by_one() -> None:
    head = LinearHead("vector", 4, 3)
    torch.nn.init.normal_(head.linear.weight)
    torch.nn.init.normal_(head.linear.bias)
    x, factors = torch.randn(5, 4), torch.tensor([0.5, 1.0, 3.0])
    before = head(x)
    head.rescale(factors)
    torch.testing.assert_close(head(x), before * factors)


def fitted(stripes: Any, toynet: str, out: Path | None = None) -> TransferModel:
    images, labels = stripes
    rng = np.random.default_rng(0)
    wrong = np.where(rng.random(len(labels)) < 0.3, rng.permutation(labels), labels)
    # With patience any epoch may be kept, those that overfit too.
    space = {"epochs": 60, "lr": 1e-2, "lr_ratio": 1.0, "label_smoothing": 0.0, "patience": 60}
    given = {"plugins": [toynet], "backbones": "toynet/small", "executor": "serial", "strategies": "core/full"}
    return engine.fit(Settings(data=(images, wrong), trials=1, space=space, out=out, **given))


def test_a_model_that_is_too_sure_is_softened_and_answers_as_before(
    stripes: Any, toynet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")
    model = fitted(stripes, toynet, tmp_path / "run")
    (note,) = (n for n in model.run.notes if "log loss" in n)
    assert note.startswith("the winner: its probabilities are softened (logits times 0.")
    assert note in model.report()
    chances = model.predict_proba(stripes[0])
    np.testing.assert_allclose(load(tmp_path / "run", plugins=[toynet]).predict_proba(stripes[0]), chances, atol=1e-6)
    monkeypatch.setattr("autotransfer.calibration.best_factor", lambda *_: None)
    plain = fitted(stripes, toynet)
    assert list(plain.predict(stripes[0])) == list(model.predict(stripes[0]))
    assert plain.predict_proba(stripes[0]).max(1).mean() > chances.max(1).mean()


def test_each_of_several_targets_has_its_own() -> None:
    from autotransfer.calibration import _each

    logits, targets = drawn(200)
    task = Several({"kind": CLASSES, "age": NUMBERS})
    encoded = torch.cat([targets[:, None].float(), torch.randn(200, 1)], 1)
    encoded[:50, 0] = float("nan")
    (kind, age) = _each(task, torch.cat([logits, torch.zeros(200, 1)], 1), encoded)
    assert (kind[0], age[0]) == ("kind: ", "age: ")
    assert torch.equal(kind[3], logits[50:])
    assert torch.equal(kind[4], targets[50:])
    assert len(age[4]) == 200
