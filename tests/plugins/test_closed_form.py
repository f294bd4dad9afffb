"""Heads in closed form: exact leave-one-out, calibrated logits, odd features."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeCV
from torch import Tensor

from autotransfer.plugin import HeadState
from autotransfer.tasks import make_task
from autotransfer.train.heads import LinearHead
from autotransfer_strategies import closed_form
from autotransfer_strategies.closed_form import PENALTIES, ridge_head, solution, temperature


def features(rows: int, width: int, seed: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=draws) * torch.logspace(-2, 2, width) + 5.0


def answers(head: HeadState, x: Tensor) -> Tensor:
    return x @ head.weight.T + head.bias


@pytest.mark.parametrize(("rows", "width"), [(20, 5), (8, 30), (9, 9)])
@pytest.mark.parametrize("penalty", [0.01, 1.0, 50.0])
def test_left_out_predictions_are_those_of_models_without_the_row(rows: int, width: int, penalty: float) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(rows, width)), rng.normal(size=(rows, 3))
    x -= x.mean(0)
    weight, left = solution(x, y, penalty)
    assert weight == pytest.approx(Ridge(alpha=penalty).fit(x, y).coef_, abs=1e-8)
    for row in range(rows):
        rest = np.arange(rows) != row
        assert left[row] == pytest.approx(Ridge(alpha=penalty).fit(x[rest], y[rest]).predict(x[[row]])[0], abs=1e-7)


def test_numbers_are_the_ridge_regression_of_scikit_learn() -> None:
    x = features(50, 6)
    y = 0.1 * x[:, 3:4] + torch.randn(50, 1, generator=torch.Generator().manual_seed(1))
    standard = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
    model = RidgeCV(alphas=PENALTIES * 50).fit(standard, y.double().numpy())
    wanted = torch.as_tensor(model.predict(standard)).float().reshape(50, 1)
    torch.testing.assert_close(answers(ridge_head(x, y), x), wanted, rtol=1e-3, atol=1e-3)


def test_a_nearly_dead_feature_does_not_drown_the_others_when_it_begins_to_live() -> None:
    """A unit of 1e-9 beside others of 1 carries no less of the labels; a step of training moves it by 1e-4."""
    draws = torch.Generator().manual_seed(3)
    x, y = torch.randn(200, 12, generator=draws), torch.randint(0, 3, (200,), generator=draws)
    x[:, 7] = 1e-9 * (y.float() - 1.0 + 0.1 * x[:, 7])
    head, own = ridge_head(x, y), LinearHead("vector", 12, 3)
    own.standardise(x)
    own.begin(head)
    moved = x.clone()
    moved[:, 7] += 1e-4
    torch.testing.assert_close(own.classify(x), answers(head, x), rtol=1e-4, atol=1e-4)
    assert (own.classify(moved) - own.classify(x)).abs().max() < 0.1


@pytest.mark.parametrize("width", [4, 200])
def test_classes_are_found_and_their_chances_are_honest(width: int) -> None:
    task = make_task("multiclass", ["a", "b", "c"])
    x, new = features(120, width), features(3000, width, seed=1)
    noise = torch.Generator().manual_seed(2)
    truth = torch.randn(width, 3, generator=noise) / torch.logspace(-2, 2, width)[:, None] / width**0.5
    y, held = (((v - 5.0) @ truth + 0.3 * torch.randn(len(v), 3, generator=noise)).argmax(1) for v in (x, new))
    head = ridge_head(x, y)
    scores = task.scores(answers(head, new), held)
    assert scores["accuracy"] > (0.7 if width == 4 else 0.4)
    for factor in (0.25, 4.0):  # much softer or sharper chances are worse on rows that it has not seen
        assert task.scores(factor * answers(head, new), held)["log_loss"] > scores["log_loss"]


def test_labels_are_logits_of_their_chances() -> None:
    task = make_task("multilabel", [["a"], ["b"]])
    x, new = features(200, 5), features(2000, 5, seed=1)
    y, held = (((v[:, :2] - 5.0) / torch.logspace(-2, 2, 5)[:2] > 0.8).float() for v in (x, new))
    head = ridge_head(x, y)
    scores = task.scores(answers(head, new), held)
    assert scores["roc_auc"] > 0.95
    for factor in (0.25, 4.0):
        assert task.scores(factor * answers(head, new), held)["log_loss"] > scores["log_loss"]


def test_the_temperature_is_the_minimum_of_its_loss() -> None:
    assert temperature(np.ones(1), lambda logits: (logits - 7.0) ** 2) == pytest.approx(7.0, rel=1e-3)


def test_features_that_say_nothing_give_the_frequencies() -> None:
    y = torch.tensor([0, 0, 0, 1])
    head = ridge_head(torch.full((4, 3), 7.0), y)
    assert not head.weight.any()
    assert head.bias.isfinite().all()
    assert head.bias.argmax() == 0
    mixed = torch.cat([features(4, 2), torch.full((4, 1), 1e6)], 1)
    head = ridge_head(mixed, y)
    assert head.weight.isfinite().all()
    assert not head.weight[:, 2].any()


def test_many_rows_choose_the_penalty_by_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    x = features(300, 5)
    y = (x[:, 0] > 5.0).long()
    whole = ridge_head(x, y)
    monkeypatch.setattr(closed_form, "CHOICE_ROWS", 100)
    some = ridge_head(x, y)
    assert (answers(whole, x).argmax(1) == answers(some, x).argmax(1)).float().mean() > 0.9


@pytest.mark.parametrize("kind", ["classes", "labels", "numbers"])
def test_a_few_rows_at_a_time_give_what_all_at_once_do(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The solution of all rows in one piece is written out here; the first rows choose penalty and temperature."""
    x, noise = features(300, 6), torch.randn(300, 3, generator=torch.Generator().manual_seed(1))
    x[:, 4] = 7.0
    truth = (x[:, :3] - 5.0) / torch.logspace(-2, 2, 6)[:3] + noise
    y = truth.argmax(1) if kind == "classes" else (truth > 0.5).float() if kind == "labels" else truth
    shares = torch.eye(3)[y].double().numpy() if kind == "classes" else y.double().numpy()
    raw = x.double().numpy()
    even = np.where(raw.std(0) > 0, raw.std(0), np.inf)
    even = np.maximum(even, 0.01 * np.median(even[np.isfinite(even)]))
    standard = (raw - raw.mean(0)) / even
    penalty = float(RidgeCV(alphas=PENALTIES * 100).fit(standard[:100], shares[:100]).alpha_)
    weight, left_out = solution(standard, shares, penalty)
    sharp, bias = 1.0, shares.mean(0)
    if kind == "classes":
        wanted = torch.nn.functional.cross_entropy
        sharp = temperature(left_out[:100], lambda z: wanted(torch.tensor(z), y[:100], reduction="none").numpy())
    elif kind == "labels":
        both = torch.nn.functional.binary_cross_entropy_with_logits
        bias = bias - 0.5
        sharp = temperature(
            left_out[:100] - 0.5,
            lambda z: both(torch.tensor(z), torch.tensor(shares[:100]), reduction="none").numpy(),
        )
    monkeypatch.setattr(closed_form, "CHOICE_ROWS", 100)
    monkeypatch.setattr(closed_form, "CHUNK_ROWS", 64)
    head = ridge_head(x, y)
    assert head.weight.numpy() == pytest.approx(sharp * weight / even, rel=1e-6, abs=1e-6)
    assert answers(head, x).numpy() == pytest.approx(sharp * (standard @ weight.T + bias), abs=1e-3)


def test_memory_does_not_grow_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_form, "CHOICE_ROWS", 256)
    monkeypatch.setattr(closed_form, "CHUNK_ROWS", 256)
    peaks = []
    for rows in (2_000, 20_000):
        x = features(rows, 32)
        y = (x[:, 0] > 5.0).long()
        tracemalloc.start()
        ridge_head(x, y)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 20_000 * 32 * 8 / 2  # a single copy in double precision
    assert peaks[1] < 1.5 * peaks[0]


def test_a_ridge_penalty_is_judged_on_groups_that_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(24), 10)
    labels = torch.from_numpy(np.arange(24)[groups] % 2)
    marks = rng.normal(size=(24, 60))[groups] + 0.01 * rng.normal(size=(240, 60))
    features = torch.tensor(marks, dtype=torch.float32)
    alone, whole = ridge_head(features, labels), ridge_head(features, labels, torch.from_numpy(groups))
    one = ridge_head(features, labels, torch.zeros(240, dtype=torch.int64))
    spread = [float((features @ h.weight.T).std()) for h in (alone, whole)]
    assert torch.equal(one.weight, alone.weight)
    assert spread[1] < 0.7 * spread[0]
