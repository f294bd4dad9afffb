"""What trials are compared by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from autotransfer.schema import Recipe, TrialRecord
from autotransfer.search.judging import with_loss
from autotransfer.tasks import guess_task, make_task

RECORD = TrialRecord(id="t001", recipe=Recipe(backbone="m/a", strategy="core/full"), status="done", objective=0.5)


def _loss(
    labels: Any,
    outputs: torch.Tensor,
    factor: float = 1.0,
    balance: str = "none",
    metric: str | None = None,
    training: Any = None,
) -> float | None:
    task = make_task(guess_task(labels), labels, metric)
    recipe = replace(RECORD.recipe, training=replace(RECORD.recipe.training, balance=balance))
    known = (task.encode(labels), task.encode(labels if training is None else training))
    return with_loss(replace(RECORD, recipe=recipe), task, outputs * factor, *known).calibrated_loss


def _classes() -> tuple[list[str], torch.Tensor]:
    rng = np.random.default_rng(0)
    labels = [str(n) for n in rng.integers(0, 3, 50)]
    right = torch.nn.functional.one_hot(torch.tensor([int(n) for n in labels]), 3)
    return labels, right + torch.from_numpy(rng.normal(0, 1, (50, 3))).float()


def test_how_sure_a_training_made_its_network_does_not_count() -> None:
    labels, outputs = _classes()
    plain = _loss(labels, outputs)
    assert plain == pytest.approx(_loss(labels, outputs, 7.0), rel=1e-4)
    assert plain == pytest.approx(_loss(labels, outputs, 0.2), rel=1e-4)


def test_it_is_about_the_least_loss_over_all_temperatures() -> None:
    labels, outputs = _classes()
    wanted = torch.tensor([int(n) for n in labels])
    least = minimize_scalar(
        lambda s: float(torch.nn.functional.cross_entropy(outputs * float(np.exp(s)), wanted)), bounds=(-3, 3)
    ).fun
    assert _loss(labels, outputs) == pytest.approx(least, abs=0.01)  # targets are drawn in a little, as Platt does
    worse = outputs[torch.randperm(50, generator=torch.Generator().manual_seed(0))]
    assert (_loss(labels, worse) or 0.0) > least + 0.05


def test_numbers_have_none() -> None:
    assert _loss([0.5, 1.25, 3.5, 2.0] * 5, torch.zeros(20, 1)) is None


def _uneven() -> tuple[list[str], torch.Tensor]:
    """Return forty rows of a class, ten of another, and answers for classes of one size."""
    rng = np.random.default_rng(1)
    labels = ["a"] * 40 + ["b"] * 10
    right = torch.nn.functional.one_hot(torch.tensor([int(n == "b") for n in labels]), 2)
    return labels, 2.0 * right + torch.from_numpy(rng.normal(0, 1, (50, 2))).float()


def test_classes_count_alike_where_they_do_in_the_metric() -> None:
    labels, outputs = _uneven()
    wanted = torch.tensor([int(n == "b") for n in labels])
    weights = torch.tensor([50 / 80, 50 / 20])

    def weighted(s: float) -> float:
        losses = torch.nn.functional.cross_entropy(outputs * float(np.exp(s)), wanted, reduction="none")
        return float((losses * weights[wanted]).mean())

    found = _loss(labels, outputs, balance="logits", metric="balanced_accuracy")
    assert found == pytest.approx(minimize_scalar(weighted, bounds=(-3, 3)).fun, abs=0.01)
    assert found == pytest.approx(_loss(labels, outputs, 5.0, "weights", "balanced_accuracy"), rel=1e-4)


def test_answers_for_classes_as_frequent_as_they_are_lose_their_share_first() -> None:
    labels, outputs = _uneven()
    shares = torch.tensor([0.9, 0.1])  # of the training rows
    training = ["a"] * 90 + ["b"] * 10
    plain = _loss(labels, outputs + shares.log(), 1.0, "none", "balanced_accuracy", training)
    assert plain == pytest.approx(_loss(labels, outputs, 1.0, "logits", "balanced_accuracy"), rel=1e-5)


def test_answers_for_other_classes_than_the_metric_counts_have_none() -> None:
    labels, outputs = _uneven()
    assert _loss(labels, outputs, metric="accuracy") is not None
    assert _loss(labels, outputs, balance="logits", metric="accuracy") is None
