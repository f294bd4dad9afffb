"""Balanced losses against values worked out by hand; heads and samplers; what they do to a skewed toy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from autotransfer.errors import ConfigError
from autotransfer.schema import Phase, Training
from autotransfer.strategy import HeadState
from autotransfer.tasks import make_task
from autotransfer.train.balance import Loss, class_weights, evened, log_priors

CLASSES = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])
LABELS = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
TASK = make_task("binary", ["a", "b"])


def _loss(balance: str, smoothing: float = 0.0) -> Loss:
    return Loss.of(TASK, Training(balance=balance, label_smoothing=smoothing), CLASSES)


def test_the_logit_adjusted_loss_by_hand() -> None:
    """Menon et al. 2021, eq. 10: log(1 + sum over the others of pi_other / pi_y exp(f_other - f_y))."""
    f = torch.tensor([[1.0, 0.5], [0.2, -0.3]])
    wanted = [math.log(1 + (0.25 / 0.75) * math.exp(0.5 - 1.0)), math.log(1 + (0.75 / 0.25) * math.exp(0.2 + 0.3))]
    assert float(_loss("logits")(f, torch.tensor([0, 1]))) == pytest.approx(sum(wanted) / 2, abs=1e-6)


def test_the_weighted_loss_by_hand() -> None:
    """Weights N / (C n_y): 8 / (2 * 6) and 8 / (2 * 2); the mean is over the rows, not over the weights."""
    f = torch.tensor([[1.0, 0.5], [0.2, -0.3]])
    plain = [math.log(1 + math.exp(0.5 - 1.0)), math.log(1 + math.exp(0.2 + 0.3))]
    wanted = (plain[0] * 2 / 3 + plain[1] * 2) / 2
    assert float(_loss("weights")(f, torch.tensor([0, 1]))) == pytest.approx(wanted, abs=1e-6)
    assert class_weights(CLASSES, 2).tolist() == pytest.approx([2 / 3, 2.0])
    assert float(class_weights(CLASSES, 2)[CLASSES].mean()) == pytest.approx(1.0)


def test_labels_are_two_classes_each() -> None:
    assert log_priors(LABELS, 2).tolist() == pytest.approx([math.log(1 / 3), 0.0])
    torch.testing.assert_close(class_weights(LABELS, 2), torch.tensor([[4 / 6, 1.0], [2.0, 1.0]]))
    task = make_task("multilabel", [["a"], ["b"]])
    f, y = torch.tensor([[0.4, -1.0]]), torch.tensor([[1.0, 0.0]])
    odds = math.log(1 + math.exp(-(0.4 + math.log(1 / 3)))), math.log(1 + math.exp(-1.0))
    adjusted = Loss.of(task, Training(balance="logits"), LABELS)(f, y)
    assert float(adjusted) == pytest.approx(sum(odds) / 2, abs=1e-6)
    plain = math.log(1 + math.exp(-0.4)), math.log(1 + math.exp(-1.0))
    weighted = Loss.of(task, Training(balance="weights"), LABELS)(f, y)
    assert float(weighted) == pytest.approx((2.0 * plain[0] + plain[1]) / 2, abs=1e-6)


def test_without_a_balance_it_is_the_tasks_own_loss() -> None:
    f, y = torch.randn(8, 2), CLASSES
    for smoothing in (0.0, 0.2):
        assert torch.equal(_loss("none", smoothing)(f, y), TASK.loss(f, y, smoothing))


def test_a_class_without_a_row_is_finite() -> None:
    assert log_priors(torch.tensor([0, 0, 1]), 3).tolist() == pytest.approx([math.log(n / 3) for n in (2, 1, 1)])
    assert class_weights(torch.tensor([0, 0, 1]), 3).isfinite().all()
    assert log_priors(torch.zeros(4, 1), 1).isfinite().all()


def test_a_closed_form_head_is_moved_by_the_log_priors() -> None:
    head = HeadState(weight=torch.ones(2, 3), bias=torch.tensor([0.5, -0.5]))
    assert evened(head, CLASSES, "none") is head
    found = evened(head, CLASSES, "logits")
    assert found.bias.tolist() == pytest.approx([0.5 - math.log(0.75), -0.5 - math.log(0.25)])
    assert torch.equal(found.weight, head.weight)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="balance is one of none, logits, weights, sampling, got 'both'"):
        Training(balance="both")
    with pytest.raises(ConfigError, match="thresholds is true or false, got 'yes'"):
        Training(thresholds="yes")  # type: ignore[arg-type]


def test_sampling_draws_classes_evenly_whatever_the_phase_says(toys: Any) -> None:
    rows = toys.rows(300)
    rows.targets = (torch.arange(300) % 30 == 0).long()
    trainer = toys.trainer([Phase(epochs=1)], train=rows, balance="sampling")
    trainer.enter(0)
    drawn = np.concatenate([trainer._rows_of(step) for step in range(trainer.per_epoch)])
    assert len(drawn) == 300
    assert 0.4 < float(rows.targets[torch.from_numpy(drawn)].float().mean()) < 0.6


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("balance", ["logits", "weights", "sampling"])
def test_balanced_accuracy_of_a_skewed_toy_rises(toys: Any, balance: str, start: bool) -> None:
    """Two overlapping classes, 1 : 20: without a balance the small one is hardly ever predicted."""
    draws = torch.Generator().manual_seed(0)

    def skewed(count: int, every: int) -> tuple[torch.Tensor, torch.Tensor]:
        targets = (torch.arange(count) % every == 0).long()
        return 0.6 * targets[:, None] + torch.randn(count, 8, generator=draws), targets

    (train, y), (held, z) = skewed(600, 20), skewed(400, 2)
    given = toys.TinyRows(torch.zeros(600, 3, 8, 8), y), toys.TinyRows(torch.zeros(400, 3, 8, 8), z)

    def score(balance: str) -> float:
        phases = [Phase(epochs=10, lr=0.02, freeze=3)]
        trainer = toys.trainer(phases, train=given[0], validation=given[1], pooled=(train, held), balance=balance)
        if start:  # a calibrated head on the rows as they are
            odds = HeadState(weight=torch.zeros(3, 8), bias=torch.tensor([math.log(0.95), math.log(0.05), -9.0]))
            trainer.job.network.head.begin(evened(odds, y, balance))
        trainer.run()
        trainer.finish()
        right = trainer.outputs()[:, :2].argmax(1) == z
        return float((right[z == 0].float().mean() + right[z == 1].float().mean()) / 2)

    plain, even = score("none"), score(balance)
    assert even > plain + 0.05
    assert even > 0.7
