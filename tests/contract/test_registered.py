"""Every registered image backbone, with random weights: one step of training moves what it should and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autotransfer.errors import AutotransferError
from autotransfer.registry import Registry
from autotransfer.schema import Phase, Recipe, Training
from autotransfer.spec import BackboneSpec, ImageInput
from autotransfer.strategy import Strategy
from autotransfer.tasks import make_task
from autotransfer.testing import check_strategy
from autotransfer.train.cuts import check_cuts
from autotransfer.train.heads import LinearHead
from autotransfer.train.job import Job
from autotransfer.train.loop import Trainer
from autotransfer.train.network import TransferNetwork, build_backbone, to_device
from autotransfer.train.stages import Stages, find_stages

REGISTRY = Registry.discover()
NETWORKS = [s for s in REGISTRY.backbones("image") if not s.fitted and s.namespace in ("timm", "packs")]


class Noise:
    """Two rows of random pixels with two classes."""

    def __init__(self, size: int) -> None:
        self.images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        self.targets = torch.tensor([0, 1])

    def __len__(self) -> int:
        return 2

    def batch(self, indices: Sequence[int], augment: str = "none", rng: Any = None) -> Tensor:
        return self.images[list(indices)]

    @property
    def views(self) -> int:
        return 1

    def view(self, numbers: Any) -> Noise:
        return self


def _smallest(spec: BackboneSpec, module: nn.Module) -> tuple[int, Stages]:
    """Return the smallest size that the network takes, with its stages there."""
    assert isinstance(spec.input, ImageInput)
    for size in (64, 96, 160):
        try:
            inputs = to_device(Noise(size).images, torch.device("cpu"))
            return size, find_stages(module, inputs, declared=spec.stages, output=spec.output)
        except (RuntimeError, AssertionError, ValueError, AutotransferError):
            continue
    inputs = to_device(Noise(spec.input.size).images, torch.device("cpu"))
    return spec.input.size, find_stages(module, inputs, declared=spec.stages, output=spec.output)


@pytest.mark.parametrize("spec", NETWORKS, ids=lambda s: s.id)
def test_one_step_moves_the_trained_stages_and_nothing_else(spec: BackboneSpec) -> None:
    torch.manual_seed(0)
    module = build_backbone(REGISTRY.factory(spec), spec, None)
    size, stages = _smallest(spec, module)
    rows, freeze = Noise(size), len(stages) // 2
    cuts = check_cuts(module, stages, to_device(rows.images, torch.device("cpu")))
    assert [c.reason for c in cuts if not c.ok] == []

    settings = Training(batch_size=2, warmup=0.0, norm_statistics="batch", optimizer="sgd", weight_decay=0.0, clip=0.0)
    recipe = Recipe(backbone=spec.id, strategy="kit/one", stages=stages.paths, training=settings)
    job = Job(
        network=TransferNetwork(module, LinearHead(spec.output, stages.width, 2)),
        stages=stages,
        task=make_task("binary", ["a", "b"]),
        strategy=Strategy(),
        phases=[Phase(epochs=2, lr=0.1, freeze=freeze)],
        recipe=recipe,
        train=rows,
        validation=None,
    )
    before = {n: t.clone() for n, t in module.state_dict().items()}
    trainer = Trainer(job)
    with torch.no_grad():  # a head of zeros would let no gradient through
        job.network.head.linear.weight.normal_(generator=torch.Generator().manual_seed(1))
    trainer.run()
    moved = {n for n, t in module.state_dict().items() if not torch.equal(t, before[n])}
    assert {n for n in moved if stages.owners[n] < freeze} == set()
    parameters = {n for n, _ in module.named_parameters()}
    assert {stages.owners[n] for n in moved & parameters} == set(range(freeze, len(stages)))


@pytest.mark.parametrize("strategy", REGISTRY.strategies(), ids=lambda s: s.id)
def test_every_registered_strategy_passes_the_kit(strategy: Strategy) -> None:
    told = [str(f) for f in check_strategy(strategy)]
    if strategy.unlabeled:  # the kit has no such rows, and says that it tried nothing: tests/plugins have some
        reason = "it does not apply to made-up data and was not tried: no unlabeled rows were given to adapt to"
        assert told == [f"warning: {strategy.id}: {reason}"]
    else:
        assert told == []
