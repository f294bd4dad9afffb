"""A backbone and its head as one plain network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from autotransfer.errors import PluginContractError
from autotransfer.protocols import FittedModule
from autotransfer.train.heads import LinearHead
from autotransfer.weights import mend_torchvision

if TYPE_CHECKING:
    from autotransfer.spec import BackboneSpec


class TransferNetwork(nn.Module):
    """``head(backbone(inputs))``."""

    backbone: nn.Module
    head: LinearHead

    def __init__(self, backbone: nn.Module, head: LinearHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, inputs: Any) -> Tensor:
        """Return the head's outputs ``float32`` [N, outputs]."""
        return cast(Tensor, self.head(call(self.backbone, inputs)))


def call(module: nn.Module, inputs: Any) -> Any:
    """Return ``module(**inputs)`` for a mapping, else ``module(inputs)``."""
    return module(**inputs) if isinstance(inputs, Mapping) else module(inputs)


def to_device(inputs: Any, device: torch.device) -> Any:
    """Return the inputs with their tensors on ``device``."""
    if isinstance(inputs, Tensor):
        return inputs.to(device, non_blocking=True)
    if isinstance(inputs, Mapping):
        return {name: to_device(value, device) for name, value in inputs.items()}
    return inputs


def build_backbone(factory: Callable[..., Any], spec: BackboneSpec, weights: Path | None) -> nn.Module:
    """Return the backbone that the factory makes, in eval mode and ``float32``.

    Raises:
        PluginContractError: the factory gave something that is no module, or a fitted spec's module cannot be fitted.
    """
    mend_torchvision()
    module = factory(weights, **spec.options)
    if not isinstance(module, nn.Module):
        raise PluginContractError(f"the factory of {spec.id} gave {type(module).__name__}; wanted a torch.nn.Module")
    if spec.fitted and not isinstance(module, FittedModule):
        raise PluginContractError(f"{spec.id} is a fitted spec; its module needs the methods fit and restore")
    return module.float().eval()
