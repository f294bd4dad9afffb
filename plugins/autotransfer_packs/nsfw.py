"""open_nsfw (Yahoo, 2016): a ResNet-50 of half the channels, converted from Caffe by way of TensorFlow and ONNX.

It differs from today's ResNet-50 in three ways: a bottleneck's stride lies in its first convolution, the first
pooling rounds up instead of padding, and the file has every batch norm folded into its convolution.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from autotransfer_packs import onnx_file

_NAME = re.compile(r"bn_stage(\d)_block(\d)_(branch2a|branch2b|branch2c|proj_shortcut)/")
_PLACES = {
    "branch2a": ("conv1", "bn1"),
    "branch2b": ("conv2", "bn2"),
    "branch2c": ("conv3", "bn3"),
    "proj_shortcut": ("downsample.0", "downsample.1"),
}


class Affine(nn.Module):
    """What remains of a folded batch norm: a scale and a shift per channel.

    A real batch norm would need the statistics that folding has used up; with made-up ones the network would
    compute something else in training than in evaluation.
    """

    def __init__(self, channels: int, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` [N, C, H, W], scaled and shifted."""
        return torch.addcmul(self.bias[:, None, None], x, self.weight[:, None, None])


def network() -> nn.Module:
    """Return the network with random weights: ``float32`` [N, 3, 224, 224] -> [N, 1024]."""
    make: Any = ResNet  # its annotations name instances where it takes classes
    net: nn.Module = make(Bottleneck, (3, 4, 6, 3), num_classes=0, channels=(32, 64, 128, 256), norm_layer=Affine)
    net.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    for module in net.modules():
        if isinstance(module, Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
    return net


def fill(net: nn.Module, weights: Path) -> None:
    """Fill the network from the pack's ONNX file.

    Raises:
        WeightsError: the file does not hold this network.
    """
    file = onnx_file.read(weights)
    state: dict[str, Tensor] = {}
    for node in file.nodes:
        if node.kind == "Conv":
            convolution, norm = _place(node.output)
            kernel = file.tensor(node.inputs[1])
            state[f"{convolution}.weight"] = kernel
            state[f"{norm}.weight"] = torch.ones(len(kernel))
            state[f"{norm}.bias"] = file.tensor(node.inputs[2])
    if "conv1.weight" in state:  # the graph takes blue first; the card gives red first
        state["conv1.weight"] = state["conv1.weight"].flip(1)
    onnx_file.fill(net, state, weights)


def _place(output: str) -> tuple[str, str]:
    """Return our names of the convolution and the norm whose result has this name in the graph."""
    found = _NAME.match(output)
    if found is None:
        return "conv1", "bn1"
    stage, block, part = int(found[1]), found[2], found[3]
    convolution, norm = _PLACES[part]
    return f"layer{stage + 1}.{block}.{convolution}", f"layer{stage + 1}.{block}.{norm}"
