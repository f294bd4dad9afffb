"""Fused heads: each equals the head trained alone; starts, dropout, odd settings; refusals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from autotransfer.errors import ConfigError, PluginContractError
from autotransfer.protocols import Task
from autotransfer.schema import Training
from autotransfer.strategy import HeadState
from autotransfer.tasks import make_task
from autotransfer.train import fused
from autotransfer.train.balance import Loss
from autotransfer.train.fused import FusedHead, HeadSetting, fit_heads
from autotransfer.train.heads import LinearHead
from autotransfer.train.sampling import batches, epoch_order, steps_per_epoch, stream
from autotransfer.train.schedule import Segment, rate

EPOCHS, SIZE, WIDTH = 3, 16, 12
TASKS: dict[str, Task] = {
    "multiclass": make_task("multiclass", ["a", "b", "c"]),
    "binary": make_task("binary", ["a", "b"]),
    "multilabel": make_task("multilabel", [["a"], ["b", "c"], ["d"]]),
    "regression": make_task("regression", [0.0, 1.0, 5.0]),
}
SETTINGS = [
    HeadSetting(lr=3e-3, weight_decay=0.0),
    HeadSetting(lr=1e-2, weight_decay=1.0, label_smoothing=0.1),
    HeadSetting(lr=1e-1, weight_decay=0.1, label_smoothing=0.3),
]
BALANCED = [
    HeadSetting(lr=1e-2, balance="logits"),
    HeadSetting(lr=1e-2),
    HeadSetting(lr=3e-2, weight_decay=0.1, label_smoothing=0.1, balance="weights"),
]


def data(name: str, count: int = 70, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return features far from mean 0 and variance 1, and targets that depend on them."""
    draws = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, WIDTH, generator=draws)
    answers = hidden[:, :4] + 0.3 * torch.randn(count, 4, generator=draws)
    features = hidden * torch.logspace(-1, 1, WIDTH) + 0.5
    if name in ("multiclass", "binary"):
        return features, answers[:, : TASKS[name].outputs].argmax(1)
    return features, (answers > 0).float() if name == "multilabel" else answers[:, :1]


def alone(setting: HeadSetting, name: str) -> LinearHead:
    """Train one head with autograd and torch's AdamW, and return it as it is after the last epoch."""
    task, (features, targets) = TASKS[name], data(name)
    head = LinearHead("vector", WIDTH, task.outputs)
    head.standardise(features)
    rows = [
        {"params": [head.linear.weight], "weight_decay": setting.weight_decay},
        {"params": [head.linear.bias], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(rows, lr=setting.lr)
    whole, step = Segment(0, 0, EPOCHS * steps_per_epoch(len(features), SIZE)), 0
    for epoch in range(EPOCHS):
        for chosen in batches(epoch_order(targets, "shuffle", stream(5, "heads", "order", epoch)), SIZE):
            for group in optimizer.param_groups:
                group["lr"] = setting.lr * rate(step, whole, 0.1)
            optimizer.zero_grad()
            at = torch.from_numpy(chosen)
            Loss.of(task, Training(label_smoothing=setting.label_smoothing, balance=setting.balance), targets)(
                head(features[at]), targets[at]
            ).backward()
            optimizer.step()
            step += 1
    return head


def together(settings: Sequence[HeadSetting], name: str = "multiclass", **more: Any) -> list[FusedHead]:
    given: dict[str, Any] = {"epochs": EPOCHS, "batch_size": SIZE, "seed": 5, **more}
    return fit_heads(*data(name), *data(name, 40, seed=1), settings, TASKS[name], **given)


def outputs(head: FusedHead, features: Tensor) -> Tensor:
    return features @ head.state.weight.T + head.state.bias


@pytest.fixture
def last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every evaluation be the best so far, so that heads are returned as they are at the end."""
    for task in TASKS.values():
        count = iter(range(1 << 20))
        monkeypatch.setattr(task, "objective", lambda scores, count=count: float(next(count)), raising=False)


@pytest.mark.usefixtures("last")
@pytest.mark.parametrize("known", [True, False], ids=["batched", "by its loss"])
@pytest.mark.parametrize("name", TASKS)
def test_each_head_equals_the_one_trained_alone(name: str, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not known:
        monkeypatch.setattr(fused, "_GRADIENTS", {})
    features, _ = data(name, 40, seed=1)
    for setting, head in zip(SETTINGS, together(SETTINGS, name), strict=True):
        torch.testing.assert_close(
            outputs(head, features), alone(setting, name)(features).detach(), rtol=1e-5, atol=1e-5
        )
        assert head.best_epoch == EPOCHS


@pytest.mark.usefixtures("last")
def test_at_the_deadline_heads_are_what_the_steps_until_then_made_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = together(SETTINGS)
    now = iter(range(100))
    monkeypatch.setattr(fused.time, "time", lambda: float(next(now)))
    per_epoch = steps_per_epoch(len(data("multiclass")[1]), SIZE)
    stopped = together(SETTINGS, deadline=per_epoch + 2.5)  # an epoch looks at the clock once more than it has steps
    monkeypatch.undo()
    for one, other in zip(stopped, whole, strict=True):
        assert other.epochs == EPOCHS
        assert one.epochs == (per_epoch + 3) / per_epoch
        assert [p.epoch for p in one.curve] == [1.0, one.epochs]
        assert one.curve[0].train_loss == other.curve[0].train_loss
        assert one.best_epoch == one.epochs


@pytest.mark.parametrize(
    ("name", "weighted"), [(n, w) for n in TASKS for w in (False, True) if n != "regression" or not w]
)
def test_losses_are_the_tasks_own(name: str, weighted: bool) -> None:
    draws = torch.Generator().manual_seed(3)
    task, (_, targets) = TASKS[name], data(name)
    logits = 3 * torch.randn(len(targets), 3, task.outputs, generator=draws)
    smoothing = torch.tensor([0.0, 0.1, 0.5])
    columns = task.outputs if name == "multilabel" else 1
    weights = 3 * torch.rand(len(targets), 3, columns, generator=draws) if weighted else None
    ours, slopes = fused._GRADIENTS[name](logits.clone(), targets, smoothing, weights)
    wanted, wanted_slopes = fused._of_loss(task)(logits, targets, smoothing, weights)
    torch.testing.assert_close(ours, wanted)
    torch.testing.assert_close(slopes, wanted_slopes)


@pytest.mark.usefixtures("last")
@pytest.mark.parametrize("known", [True, False], ids=["batched", "by its loss"])
@pytest.mark.parametrize("name", ["binary", "multiclass", "multilabel"])
def test_balanced_heads_beside_others_equal_those_trained_alone(
    name: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not known:
        monkeypatch.setattr(fused, "_GRADIENTS", {})
    features, _ = data(name, 40, seed=1)
    for setting, head in zip(BALANCED, together(BALANCED, name), strict=True):
        wanted = alone(setting, name)(features).detach()
        torch.testing.assert_close(outputs(head, features), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("last")
def test_decay_leaves_the_bias_alone() -> None:
    heavy, none = together([HeadSetting(lr=1e-2, weight_decay=90.0), HeadSetting(lr=1e-2, weight_decay=0.0)])
    mean = data("multiclass")[0].mean(0)
    middle = [h.state.bias + h.state.weight @ mean for h in (heavy, none)]  # the bias on standardised features
    assert heavy.state.weight.abs().sum() < 0.2 * none.state.weight.abs().sum()
    assert middle[0].abs().sum() > 0.5 * middle[1].abs().sum()


def test_32_heads_from_gentle_to_absurd_are_finite_and_do_not_disturb_each_other() -> None:
    settings = [
        HeadSetting(lr=10.0 ** (k % 8 - 4), weight_decay=(0.0, 0.1)[k % 2], dropout=(0.0, 0.1, 0.5, 0.9)[k // 8])
        for k in range(32)
    ]
    heads = together(settings)
    assert len(heads) == 32
    for head in heads:
        assert head.state.weight.isfinite().all()
        assert head.state.bias.isfinite().all()
        assert -1 < head.objective <= 1
        assert len(head.curve) == EPOCHS
    for k in (0, 9, 31):
        (own,) = together([settings[k]])
        torch.testing.assert_close(own.state.weight, heads[k].state.weight, rtol=1e-3, atol=1e-4)


def test_a_head_that_overflows_is_left_at_its_start_and_the_others_learn() -> None:
    wild, tame = together([HeadSetting(lr=1e38, weight_decay=1e30), HeadSetting(lr=1e-2)])
    assert wild.objective == float("-inf")
    assert wild.curve == ()
    assert not wild.state.weight.any()
    assert tame.objective > 0.6


def test_the_best_epoch_is_kept_and_the_objective_is_its_own() -> None:
    task, (features, targets) = TASKS["multiclass"], data("multiclass", 40, seed=1)
    for head in together([replace(s, dropout=0.2) for s in SETTINGS], epochs=8):
        assert head.objective == max(p.objective for p in head.curve)
        assert next(p.epoch for p in head.curve if p.objective == head.objective) == head.best_epoch
        assert task.objective(task.scores(outputs(head, features), targets)) == pytest.approx(head.objective)
        assert head.curve[-1].train_loss < head.curve[0].train_loss


def test_a_given_start_is_scored_and_kept_where_nothing_is_better() -> None:
    (good,) = together([HeadSetting(lr=1e-2)], epochs=30)
    worse = HeadSetting(lr=30.0, start=good.state)
    (kept,) = together([worse], epochs=1)
    assert kept.best_epoch == 0
    assert kept.curve[0].epoch == 0
    assert kept.objective == good.objective
    torch.testing.assert_close(kept.state.weight, good.state.weight, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("last")
def test_dropout_is_by_rate_and_seed() -> None:
    dry, wet, wetter = together([HeadSetting(lr=1e-2, dropout=d) for d in (0.0, 0.2, 0.5)])
    (again,) = together([HeadSetting(lr=1e-2, dropout=0.2)])
    torch.testing.assert_close(again.state.weight, wet.state.weight, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(dry.state.weight, wet.state.weight, rtol=1e-2)
    assert not torch.allclose(wetter.state.weight, wet.state.weight, rtol=1e-2)
    assert wetter.curve[-1].train_loss > dry.curve[-1].train_loss
    (other,) = together([HeadSetting(lr=1e-2, dropout=0.2)], seed=6)
    assert not torch.allclose(other.state.weight, wet.state.weight, rtol=1e-2)


def test_a_judge_of_its_own_has_the_last_word() -> None:
    task = TASKS["multiclass"]
    given = together(SETTINGS, judge=lambda outputs, targets: -float(task.loss(outputs, targets)))
    for head in given:
        features, targets = data("multiclass", 40, seed=1)
        assert head.objective == pytest.approx(-float(task.loss(outputs(head, features), targets)), rel=1e-4)


def test_every_step_ticks_and_no_heads_are_no_work() -> None:
    ticks: list[int] = []
    together(SETTINGS, tick=lambda: ticks.append(1))
    assert len(ticks) == EPOCHS * steps_per_epoch(70, SIZE)
    assert together([]) == []


@pytest.mark.parametrize(
    "wrong", [{"lr": 0.0}, {"lr": float("nan")}, {"weight_decay": -1.0}, {"dropout": 1.0}, {"label_smoothing": -0.1}]
)
def test_odd_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="a head needs lr > 0"):
        HeadSetting(**{"lr": 1e-3, **wrong})


def test_a_start_that_does_not_fit_is_refused() -> None:
    small = HeadState(weight=torch.zeros(3, 5), bias=torch.zeros(3))
    with pytest.raises(PluginContractError, match=r"has weight and bias \(\(3, 5\), \(3,\)\); wanted"):
        together([HeadSetting(lr=1e-3, start=small)])
    broken = HeadState(weight=torch.full((3, WIDTH), torch.nan), bias=torch.zeros(3))
    with pytest.raises(PluginContractError, match="not finite"):
        together([HeadSetting(lr=1e-3, start=broken)])
