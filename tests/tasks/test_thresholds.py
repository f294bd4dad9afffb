"""Thresholds: the best shift found, told of honestly, and kept only where it helps on rows that did not choose it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from autotransfer.protocols import Task
from autotransfer.tasks import make_task
from autotransfer.tasks.metrics import deciding
from autotransfer.tasks.thresholds import FOLDS, LABELS, MOST, best_shift

PRIORS = torch.tensor([0.95, 0.05]).log()


def _binary(metric: str = "balanced_accuracy") -> Task:
    return make_task("binary", ["a", "b"], metric)


def _skewed(count: int = 400, apart: float = 2.0, every: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the exact log posteriors of two normal classes, 1 : 19, and the classes."""
    draws = torch.Generator().manual_seed(0)
    targets = (torch.arange(count) % every == 0).long()
    x = apart * targets + torch.randn(count, generator=draws)
    share = 1.0 / every
    odds = apart * x - apart**2 / 2 + math.log(share / (1 - share))
    return torch.stack([torch.zeros(count), odds], 1).float(), targets


def test_balanced_accuracy_asks_for_about_the_log_priors() -> None:
    """Bayes: subtracting the log priors is best, which is a share of 1 (Menon et al. 2021, section 4.1)."""
    task, (outputs, targets) = _binary(), _skewed(4000)
    found = best_shift(task, outputs, targets, PRIORS)
    assert found is not None
    share = (found.values[1] - found.values[0]) / float(PRIORS[0] - PRIORS[1])
    assert 0.6 < share < MOST
    assert found.after > found.before + 0.1
    assert found.before == pytest.approx(deciding(task, outputs, targets))
    assert deciding(task, outputs + torch.tensor(found.values), targets) >= found.after - 0.02


def test_macro_f1_asks_for_less_than_balanced_accuracy() -> None:
    outputs, targets = _skewed(4000)
    shifts = {}
    for metric in ("f1", "balanced_accuracy"):
        found = best_shift(_binary(metric), outputs, targets, PRIORS)
        assert found is not None
        shifts[metric] = found.values[1] - found.values[0]
    assert 0 < shifts["f1"] < shifts["balanced_accuracy"]


def test_the_sum_of_the_shift_is_nothing_and_other_classes_keep_their_order() -> None:
    draws = torch.Generator().manual_seed(1)
    targets = torch.cat([torch.full((n,), c) for c, n in enumerate((200, 200, 20))])
    priors = torch.tensor([200.0, 200.0, 20.0]).div(420).log()
    outputs = torch.nn.functional.one_hot(targets, 3) * 1.5 + torch.randn(420, 3, generator=draws) + priors
    found = best_shift(make_task("multiclass", list("abc"), "recall"), outputs, targets, priors)
    assert found is not None
    assert found.values[0] == pytest.approx(found.values[1])
    assert found.values[2] > found.values[0]
    assert sum(found.values) == pytest.approx(0.0, abs=1e-6)


def test_what_is_at_its_best_already_is_left_alone() -> None:
    outputs, targets = _skewed()
    evened = outputs - torch.tensor([[0.0, math.log(1 / 19)]])
    apart = 20.0 * torch.nn.functional.one_hot(targets, 2)
    assert best_shift(_binary(), apart, targets, PRIORS) is None
    found = best_shift(_binary(), evened, targets, PRIORS)
    assert found is None or abs(found.values[1] - found.values[0]) < 1.5


def test_noise_gains_nothing_on_rows_that_did_not_choose() -> None:
    """On outputs that say nothing a shift seems to help on the rows that chose it; on others it seldom does."""
    kept = []
    for seed in range(30):
        draws = torch.Generator().manual_seed(seed)
        outputs, targets = torch.randn(60, 2, generator=draws), (torch.arange(60) % 10 == 0).long()
        found = best_shift(_binary(), outputs, targets, PRIORS)
        if found is not None:
            kept.append(found.after - found.before)
    assert len(kept) < 8


def test_labels_have_a_threshold_each_where_macro_f1_decides() -> None:
    draws = torch.Generator().manual_seed(0)
    there = (torch.rand(600, 3, generator=draws) < torch.tensor([0.5, 0.1, 0.1])).float()
    outputs = 2.0 * there - 1.0 + torch.randn(600, 3, generator=draws)
    outputs[:, 1] -= 2.0  # far too careful; the others are about right
    task = make_task("multilabel", [["a"], ["b"], ["c"]])
    found = best_shift(task, outputs, there, torch.zeros(3))
    assert found is not None
    assert 1.0 < found.values[1] <= LABELS
    assert abs(found.values[0]) < 1.0
    whole = deciding(task, outputs + torch.tensor(found.values), there)
    assert whole > deciding(task, outputs, there) + 0.1
    assert found.before == pytest.approx(deciding(task, outputs, there))


def test_other_metrics_of_labels_move_all_thresholds_alike() -> None:
    draws = torch.Generator().manual_seed(0)
    there = (torch.rand(600, 3, generator=draws) < 0.3).float()
    outputs = 4.0 * there - 4.0 + torch.randn(600, 3, generator=draws)
    found = best_shift(make_task("multilabel", [["a"], ["b"], ["c"]], "f1_micro"), outputs, there, torch.zeros(3))
    assert found is not None
    assert len(set(found.values)) == 1
    assert found.values[0] > 1.0


@pytest.mark.parametrize("metric", ["log_loss", "roc_auc"])
def test_probabilities_are_judged_without_thresholds(metric: str) -> None:
    assert best_shift(_binary(metric), *_skewed(), PRIORS) is None


def test_too_few_rows_and_numbers_have_none() -> None:
    outputs, targets = _skewed(2 * FOLDS - 1, every=3)
    assert best_shift(_binary(), outputs, targets, PRIORS) is None
    assert best_shift(_binary(), outputs[:0], targets[:0], PRIORS) is None
    numbers = make_task("regression", [0.0, 1.0, 5.0])
    assert best_shift(numbers, torch.zeros(20, 1), torch.zeros(20, 1), torch.zeros(1)) is None
    one = torch.zeros(50, dtype=torch.long)
    assert best_shift(_binary(), torch.randn(50, 2), one, PRIORS) is None


def test_it_is_the_same_each_time_and_many_classes_take_no_time_to_speak_of() -> None:
    rng = np.random.default_rng(0)
    outputs = torch.from_numpy(rng.normal(size=(3000, 1000)).astype(np.float32))
    targets = torch.from_numpy(rng.integers(0, 1000, 3000))
    priors = torch.full((1000,), -math.log(1000))
    task = make_task("multiclass", list(range(1000)), "balanced_accuracy")
    assert best_shift(task, outputs, targets, priors) == best_shift(task, outputs, targets, priors)
