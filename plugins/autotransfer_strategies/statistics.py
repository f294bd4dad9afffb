"""AdaBN: the statistics of batch norms, taken from other rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autotransfer.plugin import Rows, TrialFailedError

BATCH = 32
MOST_ROWS = 2048
"""Rows that statistics are taken from; more hardly move them."""


@torch.no_grad()
def take_statistics(backbone: nn.Module, rows: Rows) -> None:
    """Give all batch norms mean and variance of what they see of these rows; nothing else is changed.

    Li et al. 2016, algorithm 1, with the plain mean over batches of the batches' statistics.

    Raises:
        TrialFailedError: the backbone has no batch norm with statistics, or there are fewer than two rows.
    """
    norms = [m for m in backbone.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms or len(rows) < 2:
        found = f"{len(rows)} rows" if norms else "no batch norms"
        raise TrialFailedError(f"there are {found}; adapting batch norms wants some, and two rows or more")
    before = [(m.training, m.momentum) for m in norms]
    device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
    backbone.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # the mean over all batches
    count = min(len(rows), MOST_ROWS)
    starts = range(0, count - 1, BATCH)  # a single row at the end has no spread
    for start in starts:
        inputs = _moved(rows.batch(range(start, min(start + BATCH, count))), device)
        backbone(**inputs) if isinstance(inputs, Mapping) else backbone(inputs)
    for norm, (training, momentum) in zip(norms, before, strict=True):
        norm.train(training)
        norm.momentum = momentum


def _moved(inputs: Any, device: torch.device) -> Any:
    if isinstance(inputs, Mapping):
        return {name: _moved(value, device) for name, value in inputs.items()}
    return inputs.to(device) if isinstance(inputs, torch.Tensor) else inputs
