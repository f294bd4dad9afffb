"""Metrics: equal to scikit-learn's, left out where they mean nothing, with a bootstrap interval."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from autotransfer.tasks import METRICS, make_task
from autotransfer.tasks.metrics import MEASURES, deciding, interval, measured, signed


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits)
    return shares / shares.sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_metrics_of_classes_are_those_of_scikit_learn(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.append(rng.integers(0, classes, 40), np.arange(classes))
    chances = softmax(np.round(rng.normal(size=(len(labels), classes)), 1))  # rounded: with ties
    chosen = chances.argmax(1)
    scores = measured("multiclass", chances, labels)
    kept: Any = {"average": "macro", "zero_division": 0.0}
    wanted = {
        "accuracy": sk.accuracy_score(labels, chosen),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, chosen),
        "precision": sk.precision_score(labels, chosen, **kept),
        "recall": sk.recall_score(labels, chosen, **kept),
        "f1": sk.f1_score(labels, chosen, **kept),
        "log_loss": sk.log_loss(labels, chances),
        "roc_auc": sk.roc_auc_score(labels, chances if classes > 2 else chances[:, 1], multi_class="ovr"),
    }
    assert scores == pytest.approx(wanted, abs=1e-12)
    assert tuple(scores) == METRICS["multiclass"] == METRICS["binary"]


def test_a_class_without_rows_does_not_count() -> None:
    chances = softmax(np.array([[3.0, 0, 0], [0, 2.0, 0], [1.0, 0, 0]]))
    labels = np.array([1, 0, 1])
    scores = measured("multiclass", chances, labels)
    areas = [sk.roc_auc_score(labels == c, chances[:, c]) for c in (0, 1)]
    assert scores["roc_auc"] == pytest.approx(np.mean(areas))
    assert "roc_auc" not in measured("multiclass", chances, np.ones(3, dtype=np.int64))
    assert scores["f1"] == pytest.approx(sk.f1_score(labels, chances.argmax(1), average="macro"))
    assert scores["balanced_accuracy"] == 0.0


@pytest.mark.parametrize("labels", [1, 3])
def test_metrics_of_label_sets_are_those_of_scikit_learn(labels: int) -> None:
    rng = np.random.default_rng(labels)
    truth = rng.integers(0, 2, (30, labels))
    chances = rng.random((30, labels))
    chosen = chances >= 0.5
    scores = measured("multilabel", chances, truth)
    columns = range(labels)
    wanted = {
        "f1": np.mean([sk.f1_score(truth[:, c], chosen[:, c]) for c in columns]),
        "f1_micro": sk.f1_score(truth.ravel(), chosen.ravel()),
        "accuracy": (chosen == truth).all(1).mean(),
        "log_loss": np.mean([sk.log_loss(truth[:, c], chances[:, c]) for c in columns]),
        "roc_auc": np.mean([sk.roc_auc_score(truth[:, c], chances[:, c]) for c in columns]),
    }
    assert scores == pytest.approx(wanted, abs=1e-12)


def test_label_sets_with_constant_labels() -> None:
    truth = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 1]])
    chances = np.array([[0.9, 0.1, 0.8], [0.9, 0.2, 0.1], [0.4, 0.3, 0.7]])
    scores = measured("multilabel", chances, truth)
    assert scores["roc_auc"] == 1.0  # of the one label that is sometimes there
    assert scores["f1"] == pytest.approx((0.8 + 0.0 + 1.0) / 3)
    assert "roc_auc" not in measured("multilabel", chances[:, :2], truth[:, :2])


def test_metrics_of_numbers_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.normal(5, 3, 50), rng.normal(5, 3, 50)
    wanted = {
        "rmse": sk.mean_squared_error(truth, predicted) ** 0.5,
        "mae": sk.mean_absolute_error(truth, predicted),
        "r2": sk.r2_score(truth, predicted),
    }
    assert measured("regression", predicted, truth) == pytest.approx(wanted)
    assert set(measured("regression", predicted, np.full(50, 2.0))) == {"rmse", "mae"}
    assert set(measured("regression", predicted[:3], np.full(3, 0.1))) == {"rmse", "mae"}  # whose mean is not 0.1


def test_no_rows_no_scores() -> None:
    assert measured("multiclass", np.zeros((0, 3)), np.zeros(0, dtype=np.int64)) == {}
    task = make_task("binary", ["a", "b"])
    low, high = interval(task, torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    assert np.isnan(low)
    assert np.isnan(high)


def test_certain_and_wrong_has_a_finite_log_loss() -> None:
    scores = measured("binary", np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1, 0]))
    assert scores["log_loss"] == pytest.approx(-np.log(1e-15))
    assert scores["accuracy"] == 0.0


def test_the_sign_is_turned_where_lower_is_better() -> None:
    scores = {"accuracy": 0.8, "log_loss": 0.5, "rmse": 2.0, "mae": 1.0, "r2": 0.3}
    assert [signed(m, scores) for m in scores] == [0.8, -0.5, -2.0, -1.0, 0.3]
    assert signed("roc_auc", scores) == float("-inf")


def test_the_interval_of_an_accuracy_is_the_binomial_one() -> None:
    task = make_task("binary", ["a", "b"])
    right = np.arange(400) % 10 < 8  # accuracy .8, standard error .02
    targets = torch.zeros(400, dtype=torch.int64)
    outputs = torch.tensor(np.where(right[:, None], [1.0, 0.0], [0.0, 1.0]))
    low, high = interval(task, outputs, targets)
    assert low == pytest.approx(0.8 - 1.96 * 0.02, abs=0.006)
    assert high == pytest.approx(0.8 + 1.96 * 0.02, abs=0.006)
    assert interval(task, outputs, targets) == (low, high)
    assert interval(task, outputs, targets, seed=1) != (low, high)


@pytest.mark.parametrize(
    ("name", "values"),
    [("multiclass", ["a", "b", "c"] * 20), ("multilabel", ["a|b", "b", "c|a"] * 20), ("regression", [*range(60)])],
)
def test_the_interval_of_every_metric_holds_its_value(name: str, values: list[Any]) -> None:
    torch.manual_seed(0)
    for metric in MEASURES[name]:
        task = make_task(name, values, metric)
        targets = task.encode(values)
        outputs = task.survey_target(targets).float() + torch.randn(60, task.outputs)
        low, high = interval(task, outputs, targets, draws=200)
        assert low < task.scores(outputs, targets)[metric] < high, metric


@pytest.mark.parametrize(
    ("name", "values"),
    [("binary", ["a", "b"] * 9), ("multilabel", ["a|b", "b", "c|a"] * 6), ("regression", [*range(18)])],
)
def test_the_deciding_metric_alone_is_the_objective_of_all(name: str, values: list[Any]) -> None:
    outputs = torch.randn(18, 3, generator=torch.Generator().manual_seed(0))
    for metric in MEASURES[name]:
        task = make_task(name, values, metric)
        own, targets = outputs[:, : task.outputs], task.encode(values)
        assert deciding(task, own, targets) == task.objective(task.scores(own, targets))
    task = make_task("binary", ["a", "b"], "roc_auc")
    assert deciding(task, outputs[:, :2], torch.zeros(18, dtype=torch.int64)) == float("-inf")


def test_the_interval_of_a_metric_that_does_not_decide() -> None:
    task = make_task("regression", [*range(30)])
    targets = task.encode([*range(30)])
    low, high = interval(task, targets + 0.1 * torch.randn(30, 1), targets, "r2", draws=50)
    assert 0.8 < low < high <= 1


def test_resamples_without_a_class_are_left_out() -> None:
    task = make_task("binary", ["a", "b"], metric="roc_auc")
    targets = torch.tensor([0, 0, 0, 1])
    outputs = torch.tensor([[1.0, 0], [1.0, 0], [0, 1.0], [0, 2.0]])
    low, high = interval(task, outputs.repeat(2, 1), targets.repeat(2), draws=100)
    assert 0 <= low <= high == 1.0
    missing = torch.zeros(8, dtype=torch.int64)
    assert np.isnan(interval(task, outputs.repeat(2, 1), missing, draws=10)).all()


def test_few_rows_that_are_all_right_are_not_sure() -> None:
    task = make_task("binary", ["a", "b"])
    targets = torch.tensor([0, 1] * 4)
    outputs = torch.nn.functional.one_hot(targets, 2).float()
    low, high = interval(task, outputs, targets)
    assert (low, high) == (pytest.approx(0.6306, abs=1e-4), 1.0)  # Clopper and Pearson: 0.025 ** (1 / 8)
    assert np.isnan(interval(task, outputs[:4], targets[:4])).all()
