"""Heads by likeness: leave-one-out by hand, groups, odd features, class means."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from autotransfer.plugin import NeighbourState
from autotransfer.tasks import make_task
from autotransfer.train.heads import LinearHead
from autotransfer.train.neighbours import with_state
from autotransfer_strategies import similar
from autotransfer_strategies.similar import as_points, neighbour_head, prototype_head


def blobs(rows: int, classes: int = 3, width: int = 6, spread: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows around one centre a class, far from the origin, features of unlike scale."""
    draws = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(rows) % classes
    points = centres[labels] + spread * torch.randn(rows, width, generator=draws)
    return points * torch.logspace(-1, 1, width) + 20.0, labels


def answers(state: NeighbourState, x: Tensor) -> Tensor:
    outputs = state.values.shape[1]
    return with_state(LinearHead("vector", x.shape[1], outputs), state)(x)


def loss_by_hand(x: Tensor, y: Tensor, standardised: bool, count: int, temperature: float, smoothing: float) -> float:
    """Predict each row by a head that remembers all others; statistics and prior are those of all rows."""
    points, shares = as_points(x, standardised), functional.one_hot(y).float()
    total = 0.0
    for row in range(len(x)):
        rest = torch.arange(len(x)) != row
        state = NeighbourState(
            keys=x[rest],
            values=(1 - smoothing) * shares[rest] + smoothing * shares.mean(0),
            mean=points.mean,
            scale=points.scale,
            neighbours=count,
            temperature=temperature,
            link="softmax",
        )
        total -= float(answers(state, x[row : row + 1])[0, y[row]])
    return total / len(x)


def test_settings_are_those_of_the_least_leave_one_out_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar, "NEIGHBOURS", (1, 4, 12))
    monkeypatch.setattr(similar, "TEMPERATURES", (0.05, 0.3))
    monkeypatch.setattr(similar, "SMOOTHINGS", (0.01, 0.2))
    x, y = blobs(24, spread=1.5)
    losses = {
        (standardised, k, t, s): loss_by_hand(x, y, standardised, k, t, s)
        for standardised in (True, False)
        for k in (1, 4, 12)
        for t in (0.05, 0.3)
        for s in (0.01, 0.2)
    }
    best = min(losses, key=lambda k: losses[k])
    found = neighbour_head(x, y)
    assert (found.neighbours, found.temperature) == best[1:3]
    prior = functional.one_hot(y).float().mean(0)
    wanted = (1 - best[3]) * functional.one_hot(y).float() + best[3] * prior
    torch.testing.assert_close(found.values, wanted)
    assert (found.scale == 1.0).all() != best[0]
    assert torch.equal(found.keys, x)


def test_classes_are_found_on_new_rows_with_honest_chances() -> None:
    task = make_task("multiclass", ["a", "b", "c"])
    (x, y), (new, held) = blobs(150), blobs(600, seed=1)
    outputs = answers(neighbour_head(x, y), new)
    scores = task.scores(outputs, held)
    assert scores["accuracy"] > 0.75
    for factor in (0.25, 4.0):
        assert task.scores(factor * outputs, held)["log_loss"] > scores["log_loss"]


def test_labels_and_numbers_have_their_own_links() -> None:
    x, y = blobs(120)
    new, held = blobs(300, seed=1)
    labels, wanted = (torch.stack([v == 0, v != 2], 1).float() for v in (y, held))
    told = neighbour_head(x, labels)
    assert told.link == "sigmoid"
    scores = make_task("multilabel", [["a"], ["b"]]).scores(answers(told, new), wanted)
    assert scores["roc_auc"] > 0.9
    numbers, amounts = (v.float()[:, None] * 2.5 - 1.0 for v in (y, held))
    told = neighbour_head(x, numbers)
    assert told.link == "identity"
    assert torch.equal(told.values, numbers)
    error = (answers(told, new) - amounts).square().mean()
    assert error < 0.4 * amounts.var()


def test_rows_of_a_group_do_not_speak_for_each_other() -> None:
    rng = np.random.default_rng(0)
    groups = torch.from_numpy(np.repeat(np.arange(20), 6))
    marks = torch.tensor(rng.normal(size=(20, 8)), dtype=torch.float32)
    x = marks[groups] + 0.01 * torch.tensor(rng.normal(size=(120, 8)), dtype=torch.float32)
    y = groups % 2  # a group's label is nothing that others could tell
    alone, whole = neighbour_head(x, y), neighbour_head(x, y, groups)
    sure = [float(functional.softmax(answers(s, x), 1).max(1).values.mean()) for s in (alone, whole)]
    assert sure[0] > 0.95
    assert sure[1] < 0.8
    one = neighbour_head(x, y, torch.zeros(120, dtype=torch.int64))
    assert (one.neighbours, one.temperature) == (alone.neighbours, alone.temperature)


@pytest.mark.parametrize("rows", [2, 3, 5])
def test_few_rows_and_features_that_say_nothing_give_finite_answers(rows: int) -> None:
    y = torch.arange(rows) % 2
    for x in (torch.full((rows, 3), 7.0), torch.cat([torch.full((rows, 2), 1e6), blobs(rows, 2)[0][:, :1]], 1)):
        for state in (neighbour_head(x, y), prototype_head(x, y)):
            assert 1 <= state.neighbours <= len(state.keys)
            assert answers(state, x).isfinite().all()


def test_many_rows_choose_by_some_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = blobs(300)
    whole = neighbour_head(x, y)
    monkeypatch.setattr(similar, "QUERIES", 100)
    monkeypatch.setattr(similar, "CHUNK", 7)
    some = neighbour_head(x, y)
    assert len(some.keys) == 300
    assert (answers(some, x).argmax(1) == answers(whole, x).argmax(1)).float().mean() > 0.95


def test_class_means_by_hand() -> None:
    x, y = blobs(15)
    y = torch.where(y == 1, 3, y)  # a class without rows: 1
    state = prototype_head(x, y)
    standard = functional.normalize((x - x.mean(0)) / x.std(0, correction=0), dim=1)
    means = torch.stack([standard[y == c].mean(0) for c in (0, 2, 3)])
    cosines = standard @ functional.normalize(means, dim=1).T
    found = functional.softmax(answers(state, x), 1)
    torch.testing.assert_close(found[:, [0, 2, 3]], functional.softmax(cosines / state.temperature, 1))
    assert float(found[:, 1].max()) < 1e-5


@pytest.mark.parametrize("temperature", similar.TEMPERATURES)
def test_the_temperature_of_class_means_is_judged_without_the_row(temperature: float) -> None:
    x, y = blobs(12, spread=2.0)
    points = as_points(x, standardised=True).units

    def judged(value: float) -> float:
        total = 0.0
        for row in range(12):
            rest = torch.arange(12) != row
            means = torch.stack([points[rest & (y == c)].mean(0) for c in range(3)])
            logits = points[row] @ functional.normalize(means, dim=1).T / value
            total -= float(functional.log_softmax(logits, 0)[y[row]])
        return total

    assert judged(prototype_head(x, y).temperature) <= judged(temperature) + 1e-4


def test_one_row_a_class_is_enough() -> None:
    x, y = blobs(3, spread=0.1)
    new, held = blobs(60, spread=0.1, seed=1)
    state = prototype_head(x, y)
    assert math.isfinite(state.temperature)
    assert (answers(state, new).argmax(1) == held).float().mean() > 0.9


def test_features_are_centred_and_of_unit_length() -> None:
    x: Any = torch.tensor([[1.0, 5.0, 2.0], [3.0, 5.0, 2.5], [5.0, 5.0, 3.6]])
    for standardised in (True, False):
        points = as_points(x, standardised)
        assert points.scale[1] == 0.0  # constant
        torch.testing.assert_close(points.units.norm(dim=1), torch.ones(3))
        torch.testing.assert_close(points.mean, x.mean(0))
