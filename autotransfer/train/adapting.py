"""A strategy's change of the backbone before training, and whether its features are others from there on."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autotransfer.strategy import overrides
from autotransfer.train.autocast import exact
from autotransfer.train.evaluate import device_of, probe_of
from autotransfer.train.network import pooled_call
from autotransfer.train.stages import find_stages

if TYPE_CHECKING:
    from autotransfer.codec import Scalar
    from autotransfer.protocols import Rows
    from autotransfer.strategy import Strategy

SAME = 1e-5
"""Share of the largest feature by which features may differ and still be the same."""


@exact()
def adapted(
    backbone: nn.Module,
    strategy: Strategy,
    values: Mapping[str, Scalar],
    rows: Rows,
    *,
    declared: Sequence[str],
    output: str,
    seed: int,
) -> bool:
    """Let a strategy change the backbone in place, and return whether its features are others from here on.

    Args:
        backbone: in eval mode; on the CPU while it is changed, where the rows are that the strategy reads.
        strategy: whose method ``adapt`` is called.
        values: of the recipe, ``freeze`` among them.
        rows: for training.
        declared: paths of the stages.
        output: kind of the backbone's output.
        seed: of what the strategy draws from torch.
    """
    if not overrides(strategy, "adapt"):
        return False
    given: Any = strategy.adapt
    device, probe = device_of(backbone), probe_of(rows, backbone)
    with torch.no_grad():
        before = pooled_call(backbone, probe, output)
    more: dict[str, Any] = {}
    if "owners" in inspect.signature(given).parameters:
        more["owners"] = find_stages(backbone, probe, declared=declared, output=output).owners
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        given(backbone.cpu(), values, rows, **more)
    backbone.to(device).eval()
    with torch.no_grad():
        after = pooled_call(backbone, probe, output)
    gap = float((after - before).abs().max()) if after.shape == before.shape else float("inf")
    return not gap <= SAME * float(before.abs().max())
