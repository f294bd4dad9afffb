"""Low-rank changes of weight matrices, in place: the network's modules and the names of its stages stay.

Parametrizations of torch, not wrapped layers as ``peft`` has them: many networks read ``layer.weight`` and multiply by
themselves (the attention of BEiT, EVA and Swin v2 in timm, torch's own MultiheadAttention), where a wrapped layer's
matrices would silently count for nothing. Core merges them when the model is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autotransfer.plugin import PluginError, linear_weights

RANK, ALPHA = 8, 8.0


class Thin(nn.Module):
    """``W + alpha / r * up @ down``; ``up`` begins at zero, so that training begins at the pretrained network."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows, columns = weight.shape
        rank = min(RANK, rows, columns)
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        self.down = nn.Parameter(weight.new_empty(rank, columns))
        self.share = ALPHA / RANK
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the changed weight, in ``float32`` whatever the layers compute in."""
        with torch.autocast(weight.device.type, enabled=False):
            return torch.addmm(weight, self.up, self.down, alpha=self.share)


def insert(backbone: nn.Module, owners: Mapping[str, int], freeze: int) -> None:
    """Put thin matrices beside the weights of linear layers in all but the first ``freeze`` stages.

    Args:
        backbone: changed in place.
        owners: stage of each parameter, by name.
        freeze: stages that are not trained.

    Raises:
        PluginError: there is no linear layer in these stages.
    """
    names = [n for n in linear_weights(backbone) if owners.get(n, 0) >= freeze]
    if not names:
        raise PluginError("no linear layer lies in the stages that are trained; LoRA has nothing to add to")
    for name in names:
        path, _, own = name.rpartition(".")
        layer = backbone.get_submodule(path)
        parametrize.register_parametrization(layer, own, Thin(getattr(layer, own).detach()))
