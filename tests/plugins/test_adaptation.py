"""Domain adaptation against its definitions: closed forms, loss terms by hand, reversed gradients, statistics."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autotransfer.gap import Gap, Unlabeled
from autotransfer.plugin import BackboneSpec, Profile, Step, TrialFailedError
from autotransfer_strategies import autotransfer_strategies
from autotransfer_strategies.adversaries import (
    LARGEST,
    RANDOM,
    ConditionalAdversary,
    FeatureAdversary,
    reversal_factor,
    reversed_gradient,
)
from autotransfer_strategies.alignment import CovarianceGap, class_confusion, covariance_gap
from autotransfer_strategies.recolouring import recoloured
from autotransfer_strategies.statistics import take_statistics

STRATEGIES = {s.id: s for s in autotransfer_strategies()}
ADAPTING = {i: s for i, s in STRATEGIES.items() if s.unlabeled}
PROFILE = Profile(
    name="toy", modality="image", task="multiclass", metric="accuracy", rows=40, train=24, validation=12, test=4
)
SPEC = BackboneSpec(id="toy/net", factory="toy:net", stages=("one", "two", "three"))


def gap(accuracy: float = 0.9, p: float = 1e-9) -> Gap:
    ends = {"low": accuracy - 0.05, "high": accuracy + 0.05, "auc": accuracy}
    tests = {"p_value": p, "mmd": 0.1, "mmd_p_value": p, "effective": 3.0, "validation": 12}
    return Gap(backbone="toy/net", rows=20, accuracy=accuracy, **ends, **tests)


def given(found: Gap | None) -> Profile:
    return replace(PROFILE, unlabeled=Unlabeled(name="there", rows=20, fingerprint="f", gap=found))


class Sample:
    """Rows of a tensor."""

    def __init__(self, values: Tensor) -> None:
        self.values, self.targets, self.views = values, torch.zeros(len(values), 0), 1

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, indices: Any, augment: str = "none", rng: Any = None) -> Tensor:
        return self.values[list(indices)]


def covariance(x: Tensor) -> Tensor:
    return torch.from_numpy(np.cov(x.double().numpy(), rowvar=False))


def test_each_is_refused_without_unlabeled_rows_and_where_they_look_the_same() -> None:
    assert {i.removeprefix("core/") for i in ADAPTING} == {"coral", "adabn", "deep-coral", "mcc", "dann", "cdan"}
    for strategy in ADAPTING.values():
        assert strategy.applies(PROFILE, SPEC).reason == "no unlabeled rows were given to adapt to"
        assert "look the same" in strategy.applies(given(gap(0.5, p=0.6)), SPEC).reason
        assert strategy.applies(given(gap()), SPEC).ok
        assert strategy.applies(given(None), SPEC).ok
        assert not strategy.applies(given(gap()), replace(SPEC, transfer=False)).ok


def test_what_compares_classes_needs_rows_of_one_class() -> None:
    numbers = replace(given(gap()), task="regression", metric="rmse")
    told = {i: s.applies(numbers, SPEC) for i, s in ADAPTING.items()}
    assert {i for i, v in told.items() if not v.ok} == {"core/mcc", "core/cdan", "core/deep-coral"}
    assert "the task is regression" in told["core/mcc"].reason
    assert "no batch norms" in STRATEGIES["core/adabn"].applies(given(gap()), replace(SPEC, batch_norms=False)).reason


def test_coral_gives_labelled_rows_the_mean_and_covariance_of_the_unlabeled_ones() -> None:
    draws = torch.Generator().manual_seed(0)
    source = torch.randn(400, 4, generator=draws) @ torch.randn(4, 4, generator=draws)
    target = torch.randn(300, 4, generator=draws) @ torch.randn(4, 4, generator=draws) * 30 + 7
    found = recoloured(source, target, added=0.0)
    torch.testing.assert_close(covariance(found) * 399 / 400, covariance(target) * 299 / 300, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(found.mean(0), target.mean(0), rtol=1e-4, atol=1e-3)
    milder = recoloured(source, target)  # with the paper's unit added to both, half way there
    before, after = ((covariance(x) - covariance(target)).norm() for x in (source, milder))
    assert after < before / 2


def test_coral_bears_features_that_do_not_vary_and_few_rows() -> None:
    source = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    source[:, 0] = 3.0
    target = source[:3] * 2
    target[:, 1] = -1.0
    found = recoloured(source, target)
    assert found.isfinite().all()
    torch.testing.assert_close(found[:, 1], torch.full((5,), -1.0))
    torch.testing.assert_close(found[:, 0], torch.full((5,), 6.0))


def test_the_covariances_difference_by_hand() -> None:
    first = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # covariance [[2, 0], [0, 0]]
    second = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])  # [[2, 2], [2, 2]]
    assert covariance_gap(first, second).item() == pytest.approx((4 + 4 + 4) / (4 * 2**2))
    assert covariance_gap(second, second + 5).item() == pytest.approx(0.0, abs=1e-6)
    assert CovarianceGap()(step(first, second)).item() == pytest.approx(0.75)


def test_class_confusion_by_hand() -> None:
    # One row with chances (p, 1 - p): its weight is 1, C_ij = p_i p_j, normalised by row it is p_j: off the diagonal
    # 1 - p and p, whose sum over two classes is 1/2 whatever p is.
    one = torch.tensor([[2.5 * math.log(3.0), 0.0]])
    assert class_confusion(one).item() == pytest.approx(0.5)
    # Two sure rows of two classes are not confused; a sure and a doubtful one weigh 2 : 1 + e^-ln 2 = 1.5.
    sure = torch.tensor([[200.0, 0.0], [0.0, 200.0]])
    assert class_confusion(sure).item() == pytest.approx(0.0, abs=1e-6)
    weights = torch.tensor([2.0, 1.5]) * 2 / 3.5
    chances = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    raw = (chances * weights[:, None]).T @ chances
    raw = raw / raw.sum(1, keepdim=True)
    mixed = torch.tensor([[200.0, 0.0], [0.0, 0.0]])
    assert class_confusion(mixed).item() == pytest.approx(((raw[0, 1] + raw[1, 0]) / 2).item(), rel=1e-5)


def test_no_gradient_flows_through_the_weights_of_rows() -> None:
    outputs = torch.tensor([[1.0, 0.2, -0.5], [0.1, 0.4, 2.0]], requires_grad=True)
    class_confusion(outputs).backward()
    chances = torch.softmax(outputs.detach() / 2.5, 1)
    weights = 1 + torch.exp((chances * chances.log()).sum(1))
    weights = 2 * weights / weights.sum()
    free = outputs.detach().clone().requires_grad_()
    own = torch.softmax(free / 2.5, 1)
    mixed = (own * weights[:, None]).T @ own
    mixed = mixed / mixed.sum(1, keepdim=True)
    ((mixed.sum() - mixed.trace()) / 3).backward()
    torch.testing.assert_close(outputs.grad, free.grad)


def test_a_reversed_gradient_has_the_other_sign_and_the_value_stays() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    seen = reversed_gradient(x, 0.3)
    assert torch.equal(seen, x)
    (seen * torch.tensor([2.0, 5.0])).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([-0.6, -1.5]))
    assert reversal_factor(0.0) == 0.0
    assert reversal_factor(0.1) == pytest.approx(2 / (1 + math.exp(-1)) - 1)
    assert reversal_factor(1.0) == pytest.approx(1.0, abs=1e-4)


def step(
    outputs: Tensor, others: Tensor, features: Any = None, other_features: Any = None, progress: float = 0.5
) -> Any:
    return Step(
        inputs=None,
        outputs=outputs,
        targets=torch.zeros(len(outputs), dtype=torch.long),
        backbone=nn.Identity(),
        stage_features=(features if features is not None else outputs,),
        unlabeled_features=(other_features if other_features is not None else others,),
        unlabeled_outputs=others,
        progress=progress,
    )


def test_dann_teaches_the_discriminator_and_the_features_opposite_things() -> None:
    torch.manual_seed(0)
    term = FeatureAdversary(3)
    here, there = torch.randn(16, 3), torch.randn(16, 3) + 1.5
    both = [here.requires_grad_(), there.requires_grad_()]
    outputs = torch.zeros(16, 2)
    loss = term(step(outputs, outputs, *both))
    odds = term.judge(term.scaled(torch.cat(both)))[:, 0]
    by_hand = -(torch.sigmoid(odds[:16]).log().sum() + (1 - torch.sigmoid(odds[16:])).log().sum()) / 32
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    reversed_one = torch.autograd.grad(loss, both[0], retain_graph=True)[0]
    plain = torch.autograd.grad(by_hand, both[0])[0]
    torch.testing.assert_close(reversed_one, -reversal_factor(0.5) * plain, rtol=1e-4, atol=1e-7)


def test_cdan_sees_the_product_of_features_and_chances() -> None:
    term = ConditionalAdversary(width=2, classes=3)
    features = torch.tensor([[2.0, -1.0]], requires_grad=True)
    outputs = torch.log(torch.tensor([[0.5, 0.3, 0.2]])).requires_grad_()
    seen = term.seen(features, outputs)
    torch.testing.assert_close(seen, torch.tensor([[1.0, -0.5, 0.6, -0.3, 0.4, -0.2]]))
    seen.sum().backward()
    assert outputs.grad is None
    torch.testing.assert_close(features.grad, torch.ones(1, 2))


def test_cdan_draws_the_product_on_random_dimensions_where_it_is_large() -> None:
    torch.manual_seed(0)
    width, classes = 64, LARGEST // 64 + 1
    term = ConditionalAdversary(width, classes)
    a, b = torch.randn(1, width), torch.randn(1, width)
    outputs = torch.randn(1, classes)
    seen = term.seen(a, outputs), term.seen(b, outputs)
    assert seen[0].shape == (1, RANDOM)
    chances = torch.softmax(outputs, 1)
    exact = (a @ b.T) * (chances @ chances.T)  # the inner product that the projection keeps in the mean
    norms = a.norm() * b.norm() * chances.square().sum()
    assert abs((seen[0] @ seen[1].T - exact) / norms).item() < 0.2


def test_adabn_statistics_are_those_of_the_rows() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5))
    net.eval()
    rows = Sample(torch.randn(64, 3) * 5 + 2)
    weights = {n: p.detach().clone() for n, p in net.named_parameters()}
    take_statistics(net, rows)
    seen = net[0](rows.values)
    halves = seen[:32], seen[32:]
    torch.testing.assert_close(net[1].running_mean, seen.mean(0))
    torch.testing.assert_close(net[1].running_var, sum(h.var(0) for h in halves) / 2)
    assert all(torch.equal(weights[n], p) for n, p in net.named_parameters())
    assert not net[1].training
    assert net[1].momentum == 0.1


def test_adabn_needs_batch_norms_and_rows() -> None:
    with pytest.raises(TrialFailedError, match="no batch norms"):
        take_statistics(nn.Linear(3, 3), Sample(torch.zeros(8, 3)))
    with pytest.raises(TrialFailedError, match="there are 1 rows"):
        take_statistics(nn.Sequential(nn.BatchNorm1d(3)), Sample(torch.zeros(1, 3)))


@pytest.mark.parametrize("name", ["core/deep-coral", "core/mcc", "core/dann", "core/cdan"])
def test_a_term_trains_the_backbone_the_same_way_for_a_seed(toys: Any, name: str) -> None:
    strategy = STRATEGIES[name]
    values = {"epochs": 2, "lr": 0.01, "lr_ratio": 0.5, "freeze": 0}
    states = []
    for _ in range(2):
        phases = strategy.phases(PROFILE, SPEC, values)
        trainer = toys.trainer(phases, strategy=strategy, unlabeled=toys.rows(20, seed=9), norm_statistics="frozen")
        assert trainer.run()
        states.append(toys.tensors(trainer.job.network))
    plain = toys.trainer(STRATEGIES["core/full"].phases(PROFILE, SPEC, {**values, "layer_decay": 1.0}))
    assert toys.changed(*states) == set()
    plain.run()
    assert toys.changed(states[0], toys.tensors(plain.job.network))


def test_coral_and_adabn_train_no_weight_of_the_backbone(toys: Any) -> None:
    target = toys.rows(20, seed=9)
    for name in ("core/coral", "core/adabn"):
        trainer = toys.trainer([], strategy=STRATEGIES[name], unlabeled=target)
        before = toys.tensors(trainer.job.network.backbone)
        trainer.run()
        trainer.finish()
        moved = toys.changed(before, toys.tensors(trainer.job.network.backbone))
        assert all("running" in n or "num_batches" in n for n in moved)
        assert bool(moved) is (name == "core/adabn")


def test_adabn_ends_with_the_statistics_of_the_unlabeled_rows_though_labelled_ones_score_worse(toys: Any) -> None:
    target = toys.rows(20, seed=9)
    trainer = toys.trainer([], strategy=STRATEGIES["core/adabn"], unlabeled=target)
    trainer.run()
    trainer.finish()
    twin = toys.made(toys.Conv)
    take_statistics(twin, target)
    torch.testing.assert_close(trainer.job.network.backbone.last.running_mean, twin.last.running_mean)


def test_none_trains_without_unlabeled_rows(toys: Any) -> None:
    with pytest.raises(TrialFailedError, match="made for rows without labels, and none were given"):
        toys.trainer([], strategy=STRATEGIES["core/coral"])
