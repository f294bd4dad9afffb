"""LoRA in place: where thin matrices are put, what they train, what is left when they are merged."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autotransfer.errors import PluginError
from autotransfer.plugin import BackboneSpec, Profile, linear_weights
from autotransfer.schema import Recipe, Training
from autotransfer.search.trial import build_network
from autotransfer.train import checkpoint
from autotransfer.train.cuts import check_cuts
from autotransfer.train.job import Job
from autotransfer.train.loop import Trainer
from autotransfer.train.network import merge
from autotransfer_strategies.lora import LowRank
from autotransfer_strategies.low_rank import RANK, Thin, insert

LORA = LowRank()
PROFILE = Profile(
    name="toy", modality="image", task="multiclass", metric="accuracy", rows=40, train=24, validation=12, test=4
)
LINEAR = {"self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"}


def training(toys: Any, freeze: int = 1, seed: int = 0, **values: Any) -> Trainer:
    """Return a training of LoRA on two attention blocks, as a worker makes it."""
    spec = BackboneSpec(id="toy/net", factory="toy:net", stages=toys.Tokens.STAGES, output="tokens")
    given = {"epochs": 3, "lr": 0.02, "lr_ratio": 1.0, "freeze": freeze, **values}
    settings = Training(batch_size=6, warmup=0.0)
    recipe = Recipe(
        backbone=spec.id,
        strategy=LORA.id,
        values=given,
        freeze=freeze,
        stages=spec.stages,
        training=settings,
        seed=seed,
    )
    rows = toys.rows(24)
    network, stages = build_network(toys.made(toys.Tokens), spec, LORA, recipe, toys.TASK, rows)
    job = Job(
        network=network,
        stages=stages,
        task=toys.TASK,
        strategy=LORA,
        phases=LORA.phases(PROFILE, spec, given),
        recipe=recipe,
        train=rows,
        validation=toys.rows(12, seed=1),
    )
    return Trainer(job)


@pytest.mark.parametrize(("freeze", "blocks"), [(0, (0, 1)), (1, (1,))])
def test_thin_matrices_lie_in_the_trained_stages_alone_and_alone_are_trained(
    toys: Any, freeze: int, blocks: tuple[int, ...]
) -> None:
    trainer = training(toys, freeze)
    body = trainer.job.network.backbone
    assert trainer.job.stages.paths == toys.Tokens.STAGES
    thin = {n for n, p in body.named_parameters() if "parametrizations" in n and not n.endswith("original")}
    paths = {f"blocks.{b}.{n}" for b in blocks for n in LINEAR}
    wanted = set()
    for path in paths:
        layer, _, own = path.rpartition(".")
        wanted |= {f"{layer}.parametrizations.{own}.0.{side}" for side in ("up", "down")}
    assert thin == wanted
    before = toys.tensors(trainer.job.network)
    trainer.run()
    moved = toys.changed(before, toys.tensors(trainer.job.network))
    assert {n for n in moved if n.startswith("backbone.")} == {f"backbone.{n}" for n in thin}
    assert trainer.selection.prefix == freeze


def test_training_begins_at_the_pretrained_network(toys: Any) -> None:
    trainer, inputs = training(toys, freeze=0), toys.rows(5).inputs
    assert not trainer.job.network.adapted
    with torch.no_grad():
        assert torch.equal(trainer.job.network.backbone(inputs), toys.made(toys.Tokens)(inputs))


def test_a_changed_weight_by_hand() -> None:
    weight = torch.randn(20, 12, generator=torch.Generator().manual_seed(0))
    thin = Thin(weight)
    assert (thin.up.shape, thin.down.shape) == ((20, RANK), (RANK, 12))
    assert torch.equal(thin(weight), weight)
    bound = (6 / ((1 + 5) * 12)) ** 0.5  # Kaiming's, of as many inputs
    assert thin.down.abs().max() <= bound
    with torch.no_grad():
        thin.up.normal_()
    torch.testing.assert_close(thin(weight), weight + 8.0 / 8 * (thin.up @ thin.down))
    assert Thin(torch.zeros(20, 3)).down.shape == (3, 3)  # no rank above the weight's own


def test_merged_it_is_the_plain_architecture_with_the_same_answers(toys: Any) -> None:
    trainer = training(toys, freeze=0)
    trainer.run()
    trainer.finish()
    network, inputs = trainer.job.network.eval(), toys.rows(9, seed=3).inputs
    with torch.no_grad():
        wanted = network(inputs)
    merge(network)
    assert not any(parametrize.is_parametrized(m) for m in network.modules())
    plain = toys.made(toys.Tokens)
    assert set(network.backbone.state_dict()) == set(plain.state_dict())
    assert {type(m) for m in network.backbone.modules()} == {type(m) for m in plain.modules()}
    with torch.no_grad():
        torch.testing.assert_close(network(inputs), wanted, rtol=1e-5, atol=1e-5)
        plain.load_state_dict(network.backbone.state_dict())
        torch.testing.assert_close(plain.eval()(inputs), network.backbone(inputs), rtol=1e-5, atol=1e-5)
    assert toys.changed(toys.tensors(toys.made(toys.Tokens)), toys.tensors(plain)) == {
        f"blocks.{b}.{n}" for b in (0, 1) for n in LINEAR
    }


def test_low_precision_leaves_what_is_merged_exact() -> None:
    weight = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    thin = Thin(weight)
    with torch.no_grad():
        thin.up.normal_(generator=torch.Generator().manual_seed(1))
        exact = thin(weight)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(thin(weight), exact)


def test_it_goes_on_from_a_checkpoint_and_begins_with_its_seed(toys: Any, tmp_path: Path) -> None:
    live, stored, again = training(toys), training(toys), training(toys)
    live.run(1)
    live.run()
    stored.run(1)
    checkpoint.save(stored, tmp_path / "c")
    checkpoint.load(again, tmp_path / "c")
    again.run()
    for trainer in (live, again):
        trainer.finish()
    assert toys.changed(toys.tensors(live.job.network), toys.tensors(again.job.network)) == set()
    first, second = (training(toys, seed=seed).job.network.state_dict() for seed in (0, 1))
    drawn = "backbone.blocks.1.linear1.parametrizations.weight.0.down"
    assert not torch.equal(first[drawn], second[drawn])


def test_cuts_hold_on_the_adapted_network(toys: Any) -> None:
    job = training(toys, freeze=0).job
    cuts = check_cuts(job.network.backbone, job.stages, toys.rows(2).inputs)
    assert [c.ok for c in cuts] == [True, True]


class Reads(nn.Module):
    """Multiplies by a layer's weight itself, as some attention of timm does."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.qkv = nn.Embedding(4, 6), nn.Linear(6, 6)
        self.memory = nn.LSTM(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.qkv.weight, self.qkv.bias)


def test_networks_that_read_the_weight_are_changed_too() -> None:
    body, inputs = Reads(), torch.ones(2, 6)
    assert linear_weights(body) == ["qkv.weight"]  # neither tables nor recurrent weights, which torch keeps flat
    before = copy.deepcopy(body)(inputs)
    insert(body, {}, 0)
    with torch.no_grad():
        body.qkv.parametrizations.weight[0].up.fill_(1.0)  # type: ignore[union-attr,index]
    assert not torch.allclose(body(inputs), before)
    body(inputs).sum().backward()
    assert body.qkv.parametrizations.weight[0].down.grad.abs().sum() > 0  # type: ignore[union-attr,index]


def test_a_network_without_linear_layers_is_refused(toys: Any) -> None:
    with pytest.raises(PluginError, match="no linear layer lies in the stages that are trained"):
        insert(toys.made(toys.Conv), {}, 0)
    body = toys.made(toys.Tokens)
    with pytest.raises(PluginError, match="no linear layer"):
        insert(body, {n: 0 for n, _ in body.named_parameters()}, 1)
