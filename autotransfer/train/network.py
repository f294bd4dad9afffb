"""A backbone and its head as one plain network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autotransfer.errors import PluginContractError
from autotransfer.protocols import MASK, FittedModule
from autotransfer.train.heads import Head, pool_output
from autotransfer.train.sampling import stream
from autotransfer.weights import mend_torchvision

if TYPE_CHECKING:
    from autotransfer.spec import BackboneSpec


class TransferNetwork(nn.Module):
    """``head(backbone(inputs))``."""

    backbone: nn.Module
    head: Head

    def __init__(self, backbone: nn.Module, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.depths: dict[str, int] | None = None
        """Pooled widths of stages that the head sees before the output, by path; None: it sees the output as it is."""
        self.adapted = False
        """The backbone was changed before training, so that its features are not those of the survey."""

    def forward(self, inputs: Any) -> Tensor:
        """Return the head's outputs ``float32`` [N, outputs]."""
        return self.head.classify(self.pooled(call(self.backbone, inputs), {}, mask_of(inputs)))

    def pooled(self, raw: Any, seen: Mapping[str, Any], mask: Tensor | None = None) -> Tensor:
        """Return the features that the head sees, [N, width].

        Args:
            raw: what the backbone gave.
            seen: pooled features of at least the stages in ``depths``, by path.
            mask: of the inputs.
        """
        return pool_output(raw, self.head.output, mask)


def call(module: nn.Module, inputs: Any) -> Any:
    """Return ``module(**inputs)`` for a mapping, else ``module(inputs)``."""
    return module(**inputs) if isinstance(inputs, Mapping) else module(inputs)


def mask_of(inputs: Any) -> Tensor | None:
    """Return the inputs' mask [N, T]; None where nothing is padded."""
    return inputs.get(MASK) if isinstance(inputs, Mapping) else None


def pooled_call(module: nn.Module, inputs: Any, output: str) -> Tensor:
    """Return the pooled output [N, width] of a backbone on inputs, under their mask."""
    return pool_output(call(module, inputs), output, mask_of(inputs))


def to_device(inputs: Any, device: torch.device) -> Any:
    """Return the inputs with their tensors on ``device``, images with the channels innermost."""
    if isinstance(inputs, Tensor):
        layout = torch.channels_last if inputs.dim() == 4 else torch.preserve_format
        return inputs.to(device, non_blocking=True, memory_format=layout)
    if isinstance(inputs, Mapping):
        return {name: to_device(value, device) for name, value in inputs.items()}
    if type(inputs) in (tuple, list):
        return type(inputs)(to_device(value, device) for value in inputs)
    return inputs


def build_backbone(factory: Callable[..., Any], spec: BackboneSpec, weights: Path | None) -> nn.Module:
    """Return the backbone that the factory makes, in eval mode and ``float32``.

    What it initialises at random is the same in every process: workers build it again, and a checkpoint holds
    only what was trained.

    Raises:
        PluginContractError: the factory gave something that is no module, or a fitted spec's module cannot be fitted.
    """
    mend_torchvision()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(0, "backbone", spec.id))
        module = factory(weights, **spec.options)
    if not isinstance(module, nn.Module):
        raise PluginContractError(f"the factory of {spec.id} gave {type(module).__name__}; wanted a torch.nn.Module")
    if spec.fitted and not isinstance(module, FittedModule):
        raise PluginContractError(f"{spec.id} is a fitted spec; its module needs the methods fit and restore")
    # Convolutions run 1.3 to 1.8 times faster on CPUs with the channels innermost (benchmarks/README.md).
    laid_out: Any = module.float().eval()
    return cast(nn.Module, laid_out.to(memory_format=torch.channels_last))


def merge(network: nn.Module) -> None:
    """Bake parametrizations (low-rank adapters and the like) into plain weights: the architecture is the plain one."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            for name in list(cast(Any, module).parametrizations):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
