"""Outputs of a network on rows, in eval mode."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autotransfer.errors import PluginContractError
from autotransfer.train.autocast import mixed
from autotransfer.train.network import TransferNetwork, pooled_call, to_device
from autotransfer.train.ragged import in_order, trimmed, windows
from autotransfer.train.stages import Stages, pooled_stages, stage_outputs

if TYPE_CHECKING:
    from autotransfer.protocols import Rows

EVALUATION_BATCH = 32


def nothing() -> None:
    """The tick of callers without a watchdog."""


def best_device() -> torch.device:
    """Return where this process computes: its GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's first tensor, the CPU where it has none."""
    tensors = itertools.chain(module.parameters(), module.buffers())  # lazy: this is asked at every step
    return next((t.device for t in tensors), torch.device("cpu"))


def probe_of(rows: Rows, module: nn.Module) -> Any:
    """Return the inputs of the first two rows, or of the only one, on the module's device."""
    return to_device(rows.batch(range(min(2, len(rows)))), device_of(module))


@contextmanager
def arithmetic(threads: int, dtype: str, device: torch.device) -> Iterator[None]:
    """Run with this number of CPU threads and this dtype, and the same random state afterwards as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), mixed(dtype, device):
            yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def predict(
    network: TransferNetwork, rows: Rows, tick: Callable[[], None] = nothing, count: int | None = None
) -> Tensor:
    """Return outputs ``float32`` [N, outputs] on the CPU, in the order of the rows."""
    network.eval()
    device = device_of(network)
    parts = []
    for window in windows(rows, 0, len(rows), EVALUATION_BATCH):
        found = []
        for numbers in window:
            tick()
            found.append(network(to_device(trimmed(rows.batch(numbers)), device)).float().cpu())
        parts.append(in_order(window, found))
    return torch.cat(parts) if parts else torch.zeros(0, 0)


@torch.no_grad()
def features(
    backbone: nn.Module,
    stages: Stages,
    rows: Rows,
    output: str,
    start: int,
    stop: int,
    tick: Callable[[], None] = nothing,
) -> Iterator[list[Tensor]]:
    """Yield pooled features after each stage, some rows at a time: lists of ``float32`` [B, width] on the CPU.

    Raises:
        PluginContractError: the backbone gives values that are not finite, or a width that changes.
    """
    backbone.eval()
    device = device_of(backbone)
    with stage_outputs(backbone, stages.paths[:-1]) as seen:
        for window in windows(rows, start, stop, EVALUATION_BATCH):
            found = []
            for numbers in window:
                tick()
                final = pooled_call(backbone, to_device(trimmed(rows.batch(numbers)), device), output)
                _expect(final, stages.width)
                pools = pooled_stages(seen, stages, final) if stages.paths else [final]
                found.append([p.float().cpu() for p in pools])
            yield [in_order(window, depth) for depth in zip(*found, strict=True)]


def _expect(final: Tensor, width: int) -> None:
    if not final.isfinite().all():
        raise PluginContractError("the backbone gives values that are not finite (NaN or infinity)")
    if final.shape[1] != width:
        raise PluginContractError(f"the backbone gives {final.shape[1]} features, before it was {width}")
