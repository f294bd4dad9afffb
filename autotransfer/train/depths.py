"""A head on all depths: it sees the pooled features of every stage side by side, not the last output alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from autotransfer.train.heads import Head
from autotransfer.train.network import TransferNetwork, call, mask_of
from autotransfer.train.stages import Stages, stage_outputs

if TYPE_CHECKING:
    from torch import nn

    from autotransfer.protocols import Task
    from autotransfer.strategy import Strategy


class DepthNetwork(TransferNetwork):
    """A network whose head sees the pooled features of several stages and of the backbone's output.

    Source: Evci et al. 2022, Head2Toe (arXiv 2201.03529), section 4: each depth of a row is brought to unit norm,
    so that depths of many and of large features do not drown the others.
    """

    def __init__(self, backbone: nn.Module, head: Head, depths: Mapping[str, int]) -> None:
        super().__init__(backbone, head)
        self.depths: dict[str, int] = dict(depths)

    def forward(self, inputs: Any) -> Tensor:
        """Return the head's outputs ``float32`` [N, outputs]."""
        with stage_outputs(self.backbone, [*self.depths]) as seen:
            raw = call(self.backbone, inputs)
        return self.head.classify(self.pooled(raw, seen, mask_of(inputs)))

    def pooled(self, raw: Any, seen: Mapping[str, Any], mask: Tensor | None = None) -> Tensor:
        """Return the features that the head sees: all depths, each of unit norm, ``float32`` [N, width]."""
        return concatenated([*(seen[path] for path in self.depths), super().pooled(raw, seen, mask)])


def concatenated(pools: Sequence[Tensor]) -> Tensor:
    """Return pooled features [N, widths[i]] of all depths side by side, each row of each depth of unit norm.

    Depths without features are left out; ``float32`` [N, the widths' sum].
    """
    return torch.cat([functional.normalize(p.float(), dim=1) for p in pools if p.shape[1]], 1)


def make_network(
    backbone: nn.Module, stages: Stages, task: Task, strategy: Strategy, output: str, dropout: float = 0.0
) -> TransferNetwork:
    """Return backbone and head as the strategy wants them: the head on the output, or on all depths.

    Args:
        backbone: already adapted.
        stages: of the backbone as it is now.
        task: gives the head.
        strategy: says with ``depths`` what the head sees.
        output: kind of the backbone's output.
        dropout: before the head's linear map.
    """
    if not strategy.depths:
        return TransferNetwork(backbone, cast(Head, task.head(output, stages.width, dropout)))
    inner = zip(stages.paths[:-1], stages.widths[:-1], strict=True)
    depths = {path: width for path, width in inner if width}
    return DepthNetwork(backbone, cast(Head, task.head(output, stages.width + sum(depths.values()), dropout)), depths)
