"""Heads on all depths: what they see, what they train, copies and checkpoints."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autotransfer.schema import Phase
from autotransfer.strategy import Strategy
from autotransfer.train import checkpoint
from autotransfer.train.depths import DepthNetwork, concatenated, make_network
from autotransfer.train.evaluate import predict
from autotransfer.train.network import TransferNetwork


class Deep(Strategy):
    id = "toy/deep"
    depths = True


class Fold(nn.Module):
    """A stage whose output [N, C, 2, H/2, W] has no pooled form."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (2, -1))


class Flat(nn.Module):
    """The second stage changes the first one's vector in place."""

    STAGES = ("one", "two")

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x.mean((2, 3))))


class Folding(nn.Module):
    STAGES = ("one", "two", "three")

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 5, 1)
        self.two = nn.Sequential(nn.Conv2d(5, 4, 1), Fold())
        self.three = nn.Conv3d(4, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.three(self.two(self.one(x))).mean((2, 3, 4))


def randomised(network: TransferNetwork) -> TransferNetwork:
    with torch.no_grad():
        network.head.linear.weight.normal_(generator=torch.Generator().manual_seed(3))
    return network


def deep(toys: Any, cls: type[nn.Module], output: str = "vector") -> TransferNetwork:
    body = toys.made(cls)
    return randomised(make_network(body, toys.stages_of(body, output), toys.TASK, Deep(), output)).eval()


def test_each_row_of_each_depth_has_unit_norm() -> None:
    pools = [torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.zeros(2, 0), torch.tensor([[600.0], [-5.0]]).half()]
    joined = concatenated(pools)
    assert joined.dtype == torch.float32
    assert torch.equal(joined, torch.tensor([[0.6, 0.8, 1.0], [0.0, 0.0, -1.0]]))


def test_the_head_sees_every_stage_in_order(toys: Any) -> None:
    network, inputs = deep(toys, toys.Conv), toys.rows(5).inputs
    assert isinstance(network, DepthNetwork)
    assert network.depths == {"one": 4, "two": 6}
    assert len(network.head.mean) == 4 + 6 + 8
    body = network.backbone
    with torch.no_grad():
        one = body.one(body.stem(inputs))
        two = body.two(one)
        pools = [one.mean((2, 3)), two.mean((2, 3)), body(inputs)]
        wanted = network.head.linear(torch.cat([p / p.norm(dim=1, keepdim=True) for p in pools], 1))
        torch.testing.assert_close(network(inputs), wanted)


@pytest.mark.parametrize(
    ("name", "output", "depths"),
    [
        ("Tokens", "tokens", {"blocks.0": 8}),
        ("Pairs", "vector", {"one": 3}),
        ("Residual", "vector", {"one": 3, "two": 3}),
        ("Functional", "vector", {}),
        ("Folding", "vector", {"one": 5}),
    ],
)
def test_networks_of_every_make(toys: Any, name: str, output: str, depths: dict[str, int]) -> None:
    cls = Folding if name == "Folding" else getattr(toys, name)
    network, rows = deep(toys, cls, output), toys.rows(9)
    assert network.depths == depths
    frozen = 3 if name == "Residual" else 0  # what it adds in place, its own backward pass would need
    trainer = toys.trainer([Phase(epochs=1, freeze=frozen)], strategy=Deep(), backbone=toys.made(cls), output=output)
    trainer.run()
    assert trainer.outputs().isfinite().all()
    with torch.no_grad():
        alone = torch.cat([network(rows.inputs[i : i + 1]) for i in range(9)])
    torch.testing.assert_close(predict(network, rows), alone)


def test_a_vector_that_is_changed_in_place_was_taken_before(toys: Any) -> None:
    network, inputs = deep(toys, Flat), toys.rows(4).inputs
    with torch.no_grad():
        first = network.backbone.one(inputs.mean((2, 3)))
        assert (first < 0).any()
        torch.testing.assert_close(network(inputs), network.head.linear(concatenated([first, first.relu()])))


def test_a_copy_is_of_its_own_and_the_same(toys: Any) -> None:
    network, inputs = deep(toys, toys.Conv), toys.rows(4).inputs
    before = network(inputs).detach()
    other = copy.deepcopy(network)
    assert torch.equal(other(inputs), before)
    with torch.no_grad():
        other.backbone.one[0].weight.zero_()
    assert torch.equal(network(inputs), before)
    assert not torch.allclose(other(inputs), before)
    assert not [m for m in network.modules() if m._forward_hooks]


def test_gradients_reach_a_stage_through_its_own_features(toys: Any) -> None:
    network = deep(toys, toys.Conv)
    with torch.no_grad():
        network.head.linear.weight[:, 4:] = 0.0  # the first stage alone counts
    network(toys.rows(6).inputs).pow(2).sum().backward()
    moved = {n.split(".")[0] for n, p in network.backbone.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"stem", "one"}


def test_stored_features_give_what_the_network_gives(toys: Any) -> None:
    trainer = toys.trainer([Phase(epochs=3, lr=0.05, freeze=3)], strategy=Deep())
    trainer.run()
    assert trainer.pristine
    assert trainer.pooled()[0].shape == (24, 18)
    torch.testing.assert_close(trainer.outputs(), predict(trainer.job.network, trainer.job.validation))


def test_trained_stages_move_and_frozen_ones_stay(toys: Any) -> None:
    trainer = toys.trainer([Phase(epochs=2, lr=0.02, lr_ratio=0.05, freeze=1)], strategy=Deep())
    before = toys.tensors(trainer.job.network.backbone)
    trainer.run()
    moved = {n.split(".")[0] for n in toys.changed(before, toys.tensors(trainer.job.network.backbone))}
    assert moved == {"two", "three", "last"}
    assert trainer.curve[-1].train_loss < 1.2


def test_stopping_and_going_on_changes_nothing(toys: Any, tmp_path: Path) -> None:
    def new() -> Any:
        return toys.trainer([Phase(epochs=3, lr=0.02, freeze=2)], strategy=Deep())

    # A rung's end is a turn of the schedule, so that both sides stop at the same epochs.
    whole, first, second = new(), new(), new()
    whole.run(1)
    whole.run()
    first.run(1)
    checkpoint.save(first, tmp_path / "kept")
    checkpoint.load(second, tmp_path / "kept")
    second.run()
    assert not toys.changed(toys.tensors(whole.job.network), toys.tensors(second.job.network))


def test_a_term_of_its_own_still_sees_all_stages(toys: Any) -> None:
    class Term(nn.Module):
        def forward(self, step: Any) -> Tensor:
            assert [f.shape[1] for f in step.stage_features] == [4, 6, 8]
            return step.stage_features[0].pow(2).mean()

    class Both(Deep):
        def objective(self, context: Any) -> nn.Module:
            return Term()

    trainer = toys.trainer([Phase(epochs=1, freeze=0)], strategy=Both())
    trainer.run()
    assert trainer.best is not None


def test_adapted_statistics_come_before_the_features(toys: Any) -> None:
    class Adapted(Deep):
        """Batch norms take the statistics of the training rows (Li et al. 2017, AdaBN)."""

        def adapt(self, backbone: nn.Module, values: Any, rows: Any) -> None:
            for module in backbone.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.reset_running_stats()
                    module.momentum = None
            backbone.train()
            with torch.no_grad():
                backbone(rows.batch(range(len(rows))))
            backbone.eval()

    body, rows = toys.made(toys.Conv), toys.rows(24)
    before = toys.tensors(body)
    strategy = Adapted()
    strategy.adapt(body, {}, rows)
    assert toys.changed(before, toys.tensors(body))
    stale = (torch.zeros(24, 18), torch.zeros(12, 18))  # of the backbone as it was before
    trainer = toys.trainer([Phase(epochs=1, freeze=3)], strategy=strategy, backbone=body, pooled=stale)
    trainer.run()
    torch.testing.assert_close(trainer.outputs(), predict(trainer.job.network, trainer.job.validation))
