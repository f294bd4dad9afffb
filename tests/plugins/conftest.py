"""What the tests of backbones share: the checks that hold for every card."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autotransfer.plugin import BackboneSpec, mend_torchvision
from autotransfer.train.cuts import check_cuts
from autotransfer.train.stages import Stages, find_stages

mend_torchvision()


@pytest.fixture(scope="session")
def card_agrees() -> Callable[[BackboneSpec, Callable[..., Any]], None]:
    """A check of a card's sizes and stages against the network, by shapes alone, at the card's own input size."""

    def check(spec: BackboneSpec, factory: Callable[..., Any]) -> None:
        with torch.device("meta"):
            network = factory(None, **spec.options)
            rows = torch.empty(2, spec.input.channels, spec.input.size, spec.input.size)
            found = _sizes(network, rows, spec)
        assert found == {"width": spec.width, "params": spec.params, "macs": spec.macs}

    return check


def _sizes(network: nn.Module, rows: torch.Tensor, spec: BackboneSpec) -> dict[str, int]:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        output = network.eval()(rows)
    assert output.dim() == {"vector": 2, "tokens": 3, "map": 4}[spec.output]
    return {
        "width": output.shape[1],
        "params": sum(p.numel() for p in network.parameters()),
        "macs": counter.get_total_flops() // 2 // len(rows),
    }


@pytest.fixture(scope="session")
def stages_hold() -> Callable[[BackboneSpec, nn.Module, int], Stages]:
    """A check that a network can be cut between all declared stages, and that each of them learns."""

    def check(spec: BackboneSpec, network: nn.Module, size: int) -> Stages:
        torch.manual_seed(0)
        rows = torch.randn(2, spec.input.channels, size, size)
        stages = find_stages(network, rows, declared=spec.stages, output=spec.output)
        assert stages.paths == spec.stages
        assert all(stages.widths)
        assert [dataclasses.replace(c, stem=True) for c in check_cuts(network, stages, rows) if not c.ok] == []
        parameters = dict(network.named_parameters())
        assert set(parameters) <= set(stages.owners)
        assert {stages.owners[name] for name in parameters} == set(range(len(spec.stages))), "every stage has some"
        network.train()
        network(rows).square().sum().backward()
        learning = {stages.owners[n] for n, p in parameters.items() if p.grad is not None and p.grad.abs().sum() > 0}
        assert learning == set(range(len(spec.stages)))
        return stages

    return check


def _clips(lengths, seed=0):
    rng, samples = np.random.default_rng(seed), max(lengths)
    waveform, mask = np.zeros((len(lengths), samples), np.float32), np.zeros((len(lengths), samples), np.int64)
    for i, n in enumerate(lengths):
        tone = 0.2 * np.sin(2 * np.pi * (200 + 300 * i) * np.arange(n) / 16_000)
        waveform[i, :n], mask[i, :n] = tone + rng.normal(size=n) * 0.05, 1
    return {"waveform": torch.from_numpy(waveform), "attention_mask": torch.from_numpy(mask)}


@pytest.fixture(scope="session")
def clips():
    """Makes inputs of noisy tones of given lengths in samples: padded waveforms and their mask."""
    return _clips


@pytest.fixture(scope="session")
def padding_does_not_count():
    """A check that each clip of a batch has the features that it has alone, and with more silence after it."""

    def check(network, lengths=(32_000, 20_000, 500, 1)):
        inputs = _clips(lengths)
        with torch.no_grad():
            whole = network(**inputs)
            assert whole.isfinite().all()
            for row, n in enumerate(lengths):
                own = {k: v[row : row + 1, :n] for k, v in inputs.items()}
                for beyond in (0, 7_777):
                    padded = {k: nn.functional.pad(v, (0, beyond)) for k, v in own.items()}
                    gap = (network(**padded)[0] - whole[row]).abs().max()
                    assert gap <= 1e-5 * whole.abs().max(), (n, beyond, float(gap))

    return check
