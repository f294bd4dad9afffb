"""Several tasks on one backbone: gradient surgery, learned weights, and heads of each task's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autotransfer.errors import PluginContractError
from autotransfer.schema import Phase, Training
from autotransfer.strategy import HeadState, NeighbourState, Strategy
from autotransfer.tasks import Several, make_task
from autotransfer.train import checkpoint, gradients
from autotransfer.train.balance import Loss, log_priors
from autotransfer.train.fused import HeadSetting, _balanced, _of_loss, fit_heads
from autotransfer.train.heads import closed_form
from autotransfer.train.mixing import Mix
from autotransfer.train.sharing import RATE, TaskWeights, evened_heads, losses_of, pcgrad, task_terms

TASK = Several(
    {"kind": make_task("multiclass", list("abc")), "size": make_task("regression", [-1.0, 1.0, 3.0])},
)


def labels(count: int, seed: int = 0) -> Tensor:
    """Targets [N, 2]; each third row lacks its class, each fourth its size."""
    rng = np.random.default_rng(seed)
    rows = [("abc"[i % 3] if i % 3 else None, float(rng.normal()) if i % 4 else None) for i in range(count)]
    return TASK.encode(rows)


def job(task: Several = TASK, targets: Tensor | None = None, **settings: Any) -> Any:
    """What the losses need to know of a training on these targets."""
    losses = losses_of(task, Training(**settings), labels(12) if targets is None else targets)
    return SimpleNamespace(task=task, losses=losses)


def training(toys: SimpleNamespace, phases: Sequence[Phase], **given: Any) -> Any:
    """A training of the tiny network on both targets."""
    toys.trainer.__globals__["TASK"] = TASK
    train, held = toys.rows(24), toys.rows(12, seed=1)
    train.targets, held.targets = labels(24), labels(12, 1)
    return toys.trainer(phases, train=train, validation=held, **given)


@pytest.fixture(autouse=True)
def _own_task(toys: SimpleNamespace) -> Any:
    before = toys.trainer.__globals__["TASK"]
    yield
    toys.trainer.__globals__["TASK"] = before


def surgery(*gradients: Sequence[Tensor], seed: int = 0) -> list[list[Tensor]]:
    """Each task's gradient after PCGrad."""
    shares = pcgrad(gradients, np.random.default_rng(seed))
    return [[sum(s * t for s, t in zip(row, ts, strict=True)) for ts in zip(*gradients, strict=True)] for row in shares]


def test_gradients_that_disagree_lose_what_works_against_the_other() -> None:
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    first, second = (own[0] for own in surgery([one], [other]))
    # g1 + 1/2 g2, and g2 + g1: by hand, g1.g2 = -1, |g1|^2 = 1, |g2|^2 = 2.
    assert first.tolist() == pytest.approx([0.5, 0.5])
    assert second.tolist() == pytest.approx([0.0, 1.0])
    assert float(first @ other) == pytest.approx(0.0)
    assert float(second @ one) == pytest.approx(0.0)


def test_gradients_that_agree_stay_as_they_are() -> None:
    given = [[torch.tensor([1.0, 0.0]), torch.ones(2, 2)], [torch.tensor([1.0, 1.0]), torch.zeros(2, 2)]]
    assert pcgrad(given, np.random.default_rng(0)).tolist() == [[1, 0], [0, 1]]


def test_products_are_over_all_parameters_together() -> None:
    # Against each other in the first parameter, but not in the whole.
    given = [[torch.tensor([-1.0]), torch.tensor([3.0])], [torch.tensor([1.0]), torch.tensor([1.0])]]
    assert pcgrad(given, np.random.default_rng(0)).tolist() == [[1, 0], [0, 1]]


def test_three_tasks_are_projected_one_after_the_other_as_the_algorithm_says() -> None:
    given = [torch.randn(4, generator=torch.Generator().manual_seed(i)) for i in (3, 5, 8)]
    given[1] -= 2 * given[0]
    given[2] -= 2 * given[0]
    for seed in range(4):
        rng, wanted = np.random.default_rng(seed), []
        for i, own in enumerate(given):
            kept = own.clone()
            for j in rng.permutation([j for j in range(3) if j != i]).tolist():
                if kept @ given[j] < 0:
                    kept = kept - (kept @ given[j]) / (given[j] @ given[j]) * given[j]
            wanted.append(kept)
        found = [own[0] for own in surgery(*([g] for g in given), seed=seed)]
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted, strict=True))


def test_a_task_without_gradient_disturbs_nobody() -> None:
    assert surgery([torch.tensor([1.0, -1.0])], [torch.zeros(2)])[0][0].tolist() == [1.0, -1.0]


def test_weights_begin_at_one_and_their_gradient_is_one_less_the_loss() -> None:
    weights = TaskWeights(["kind", "size"])
    losses = [torch.tensor(0.5), torch.tensor(3.0)]
    terms = weights(losses, [True, True])
    assert [t.item() for t in terms] == [0.5, 3.0]
    sum(terms).backward()
    assert weights.logs.grad is not None
    assert weights.logs.grad.tolist() == pytest.approx([1 - 0.5, 1 - 3.0])
    with torch.no_grad():
        weights.logs.copy_(torch.tensor([0.0, 1.0]))
    assert weights(losses, [True, True])[1].item() == pytest.approx(3.0 * np.exp(-1) + 1.0)


def test_a_task_without_labels_in_the_batch_does_not_move_its_weight() -> None:
    weights = TaskWeights(["kind", "size"])
    outputs = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    targets = TASK.encode([("a", None), ("b", None), ("c", None), ("a", None)])
    sum(task_terms(job(), weights, outputs, targets, targets)).backward()
    assert weights.logs.grad is not None
    assert weights.logs.grad[1] == 0
    assert weights.logs.grad[0] != 0


def test_pieces_of_a_batch_add_up_to_it() -> None:
    outputs, targets = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)), labels(7)
    weights = TaskWeights(["kind", "size"])
    with torch.no_grad():
        weights.logs.copy_(torch.tensor([0.3, -0.2]))
    whole = sum(task_terms(job(), weights, outputs, targets, targets))
    pieces = [(outputs[:3], targets[:3]), (outputs[3:4], targets[3:4]), (outputs[4:], targets[4:])]
    summed = sum(sum(task_terms(job(), weights, o, t, targets)) * len(o) / 7 for o, t in pieces)
    assert summed.item() == pytest.approx(whole.item(), rel=1e-6)


def test_small_pieces_train_as_the_whole_batch_does(toys: SimpleNamespace) -> None:
    phases = [Phase(epochs=1, lr=1e-2, lr_ratio=0.5, freeze=2)]
    values = {"task_weights": "uncertainty", "combine": "pcgrad"}
    runs = [training(toys, phases, values=values, norm_statistics="frozen", clip=0.0) for _ in range(2)]
    runs[1].micro = 2
    for run in runs:
        run.run()
    states = [r.job.network.state_dict() for r in runs]
    assert all(torch.allclose(states[0][n], states[1][n], atol=1e-4) for n in states[0])


def test_weights_learn_at_their_own_rate_and_are_told(toys: SimpleNamespace) -> None:
    run = training(toys, [Phase(epochs=3, lr=1e-3, freeze=3)], values={"task_weights": "uncertainty"})
    (group,) = [g for g in _optimizer_groups(run) if g.get("apart")]
    assert group["peak"] == RATE
    run.run()
    assert run.weights is not None
    assert (run.weights.logs != 0).all()
    run.finish()
    assert any(n.startswith("weights of the losses, as learned: kind ") for n in run.notes)


def _optimizer_groups(run: Any) -> list[dict[str, Any]]:
    run.enter(0)
    return list(run.optimizer.param_groups)


def test_equal_weights_have_no_parameters_of_their_own(toys: SimpleNamespace) -> None:
    run = training(toys, [Phase(epochs=1, lr=1e-3, freeze=3)], values={"task_weights": "equal"})
    assert run.weights is None
    assert not any(g.get("apart") for g in _optimizer_groups(run))


def test_a_training_goes_on_from_its_checkpoint(toys: SimpleNamespace, tmp_path: Path) -> None:
    phases = [Phase(epochs=4, lr=1e-3, lr_ratio=0.5, freeze=1)]
    values = {"task_weights": "uncertainty", "combine": "pcgrad"}
    whole, half, again = (training(toys, phases, values=values) for _ in range(3))
    whole.run(2)
    whole.run()
    half.run(2)
    checkpoint.save(half, tmp_path / "half")
    checkpoint.load(again, tmp_path / "half")
    again.run()
    assert torch.equal(again.weights.logs, whole.weights.logs)
    assert not toys.changed(toys.tensors(again.job.network), toys.tensors(whole.job.network))


def test_pcgrad_changes_the_backbone_alone_and_only_where_it_is_asked_for(toys: SimpleNamespace) -> None:
    phases = [Phase(epochs=1, lr=1e-2, lr_ratio=1.0, freeze=0)]
    values: tuple[dict[str, str], ...] = ({}, {"combine": "pcgrad"})
    found = []
    for own in values:
        run = training(toys, phases, values=own)
        run.enter(0)
        run.pristine = False
        with torch.no_grad():  # a head of zeros hands no gradient on
            run.job.network.head.linear.weight.copy_(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)))
        gradients.fill(run, np.arange(6))
        found.append({n: p.grad.clone() for n, p in run.job.network.named_parameters() if p.grad is not None})
    differ = {n for n in found[0] if not torch.allclose(found[0][n], found[1][n], atol=1e-6)}
    assert found[0].keys() == found[1].keys()
    assert differ
    assert all(n.startswith("backbone.") for n in differ)


def test_a_strategys_own_door_sees_a_term_for_each_target(toys: SimpleNamespace) -> None:
    seen: list[int] = []

    class Counting(toys.Toy):  # type: ignore[name-defined,misc]
        def combine(self, gradients: Any) -> None:
            seen.append(len(gradients))

    training(toys, [Phase(epochs=1, lr=1e-3, freeze=2)], strategy=Counting()).run()
    assert set(seen) == {2}


def test_each_target_has_its_own_closed_form_head_on_its_own_rows(toys: SimpleNamespace) -> None:
    asked: list[tuple[int, torch.dtype, list[int] | None]] = []

    class Heads(Strategy):
        id = "toy/heads"

        def head(self, features: Tensor, targets: Tensor, groups: Tensor | None = None) -> HeadState:
            asked.append((len(features), targets.dtype, None if groups is None else groups.tolist()))
            width = 1 if targets.is_floating_point() else 3
            return HeadState(weight=torch.full((width, 5), float(len(asked))), bias=torch.zeros(width))

    rows = SimpleNamespace(targets=labels(12), groups=torch.arange(12))
    state = closed_form(Heads(), torch.randn(12, 5), rows, TASK)  # type: ignore[arg-type]
    assert state is not None
    assert state.weight[:, 0].tolist() == [1, 1, 1, 2]
    missing = [[i for i in range(12) if i % 3], [i for i in range(12) if i % 4]]
    assert asked == [(8, torch.int64, missing[0]), (9, torch.float32, missing[1])]


def test_fused_heads_have_the_gradient_of_the_summed_loss() -> None:
    outputs, targets = torch.randn(9, 3, 4, generator=torch.Generator().manual_seed(0)), labels(9)
    smoothing = torch.tensor([0.0, 0.1, 0.0])
    offset, gradient = _balanced(TASK, targets, ["none"] * 3)
    own, wanted = gradient(outputs, targets, smoothing), _of_loss(TASK)(outputs, targets, smoothing, None)
    assert offset is None
    assert torch.allclose(own[0], wanted[0], atol=1e-6)
    assert torch.allclose(own[1], wanted[1], atol=1e-6)


def test_fused_heads_learn_both_targets() -> None:
    features = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    kinds, sizes = features[:, :3].argmax(1), features[:, 3] - features[:, 0]
    rows = [("abc"[k] if i % 3 else None, float(s)) for i, (k, s) in enumerate(zip(kinds, sizes, strict=True))]
    task = TASK.judged(TASK.encode(rows))
    targets = task.encode(rows)
    (head,) = fit_heads(features, targets, features, targets, [HeadSetting(lr=0.05)], task, epochs=20, batch_size=8)
    assert head.objective > 0.8


EVEN = Several(
    {
        "kind": make_task("multiclass", list("abc"), "balanced_accuracy"),
        "size": make_task("regression", [-1.0, 1.0, 3.0]),
        "plain": make_task("multiclass", list("ab"), "accuracy"),
    }
)
ROWS = [("aaaab"[i % 5] if i % 3 else None, float(i), "aaab"[i % 4]) for i in range(30)]


@pytest.mark.parametrize("balance", ["logits", "weights"])
def test_a_balance_is_for_the_targets_whose_metric_calls_for_it(balance: str) -> None:
    targets = EVEN.encode(ROWS)
    outputs = torch.randn(30, EVEN.outputs, generator=torch.Generator().manual_seed(0))
    own = job(EVEN, targets, balance=balance)
    found = task_terms(own, None, outputs, targets, targets)
    there = torch.tensor([i for i in range(30) if i % 3])
    kinds = targets[there, 0].long()
    alone = Loss.of(EVEN.parts[0].task, Training(balance=balance), kinds)
    plain = EVEN.losses(outputs, targets)
    assert found[0].item() == pytest.approx(alone(outputs[there, :3], kinds).item(), rel=1e-6)
    assert found[0].item() != pytest.approx(plain[0].item(), rel=1e-3)
    assert [t.item() for t in found[1:]] == pytest.approx([t.item() for t in plain[1:]], rel=1e-6)


def test_heads_in_closed_form_are_evened_target_by_target() -> None:
    targets = EVEN.encode(ROWS)
    head = HeadState(weight=torch.ones(EVEN.outputs, 2), bias=torch.zeros(EVEN.outputs))
    found = evened_heads(head, EVEN, targets, "logits")
    kinds = targets[~targets[:, 0].isnan(), 0].long()
    assert torch.equal(found.bias[:3], -log_priors(kinds, 3))
    assert found.bias[3:].tolist() == [0.0, 0.0, 0.0]
    assert torch.equal(found.weight, head.weight)
    assert evened_heads(head, EVEN, targets, "none") is head


@pytest.mark.parametrize("balances", [("none", "logits", "weights"), ("weights", "none", "none")])
def test_fused_heads_balance_as_one_head_does(balances: tuple[str, ...]) -> None:
    targets = EVEN.encode(ROWS)
    outputs = torch.randn(30, 3, EVEN.outputs, generator=torch.Generator().manual_seed(0))
    offset, gradient = _balanced(EVEN, targets, balances)
    losses, slopes = gradient(outputs if offset is None else outputs + offset, targets, torch.zeros(3))
    for k, balance in enumerate(balances):
        leaf = outputs[:, k].clone().requires_grad_()
        wanted = torch.stack(task_terms(job(EVEN, targets, balance=balance), None, leaf, targets, targets)).sum()
        (slope,) = torch.autograd.grad(wanted, leaf)
        assert losses[k].item() == pytest.approx(wanted.item(), rel=1e-5)
        assert torch.allclose(slopes[:, k], slope, atol=1e-6)


def test_labels_of_mixed_rows_count_by_their_shares_where_they_are_there() -> None:
    targets = TASK.encode([("a", None), (None, 2.0), ("c", 1.0), ("b", -1.0)])
    outputs = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    mix = Mix(torch.tensor([2, 0, 3, 1]), 0.7)
    kind, size = TASK.parts
    found = task_terms(job(), None, outputs, targets, targets, mix)
    for part, term in zip((kind, size), found, strict=True):
        total = 0.0
        for share, labels_ in ((0.7, targets), (0.3, targets[mix.partner])):
            rows, own = part.labelled(labels_)
            assert len(rows) == 3
            total += share * float(part.task.loss(outputs[rows][:, part.outputs], own))
        assert term.item() == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_rows_train_both_targets(toys: SimpleNamespace, kind: str) -> None:
    values = {"task_weights": "uncertainty", "combine": "pcgrad"}
    run = training(toys, [Phase(epochs=2, lr=1e-2, lr_ratio=0.5, freeze=1, augment=kind)], values=values)
    before = toys.tensors(run.job.network)
    run.run()
    moved = toys.changed(before, toys.tensors(run.job.network))
    assert {"head.linear.weight", "head.linear.bias"} <= moved
    assert (run.job.network.head.linear.weight.abs().sum(1) > 0).all()  # rows of every class and of the number
    assert all(np.isfinite(p.objective) for p in run.curve)


def test_a_head_of_neighbours_is_refused_by_name() -> None:
    class Near(Strategy):
        id = "toy/near"

        def head(self, features: Tensor, targets: Tensor) -> NeighbourState:
            count, width = len(features), features.shape[1]
            shares = torch.eye(3)[targets.long()] if not targets.is_floating_point() else targets
            scale = {"mean": torch.zeros(width), "scale": torch.ones(width)}
            return NeighbourState(
                keys=features, values=shares, neighbours=min(2, count), temperature=1.0, link="softmax", **scale
            )

    rows = SimpleNamespace(targets=labels(12), groups=None)
    with pytest.raises(PluginContractError, match="toy/near gives NeighbourState for kind; wanted a HeadState"):
        closed_form(Near(), torch.randn(12, 5), rows, TASK)  # type: ignore[arg-type]
