"""A single-file plugin: networks with a table of positions, one that can be built for any size, one that cannot."""

import torch
from torch import nn

from autotransfer.plugin import BackboneSpec, ImageInput, hookimpl

PATCH = 4


class Tiles(nn.Module):
    """Patches of 4 pixels, a table of positions, two blocks."""

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.stem = nn.Conv2d(3, 12, PATCH, PATCH)
        self.positions = nn.Parameter(torch.randn(1, 12, size // PATCH, size // PATCH) * 0.1)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Conv2d(12, 12, 3, 1, 1), nn.ReLU()) for _ in range(2)))

    def forward(self, x):
        return self.blocks(self.stem(x) + self.positions).amax((2, 3))


def build(weights, pixels=16):
    """Return the network with fixed random weights; its table of positions is resampled from the one of 16 pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network, whole = Tiles(pixels), Tiles(16)
    state = whole.state_dict()
    state["positions"] = nn.functional.interpolate(state["positions"], (pixels // PATCH,) * 2, mode="bilinear")
    network.load_state_dict(state)
    return network


@hookimpl
def autotransfer_backbones():
    """Return both."""
    own = ImageInput(size=16, crop=1.0)
    stages = ("blocks.0", "blocks.1")
    return [
        BackboneSpec(id="sizes/any", factory=build, size_option="pixels", input=own, stages=stages, macs=160_000),
        BackboneSpec(id="sizes/fixed", factory=build, input=own, stages=stages),
    ]
