"""A single-file plugin: two tiny backbones with fixed random weights."""

import torch
from torch import nn

from autotransfer.plugin import BackboneSpec, ImageInput, hookimpl


def build(weights, seed=0, width=16):
    """Return three convolutions; the same seed gives the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()),
            nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
            nn.Sequential(nn.Conv2d(16, width, 3, 2, 1), nn.ReLU(), nn.Dropout(0.1)),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )


@hookimpl
def autotransfer_backbones():
    """Return both."""
    tiny = ImageInput(size=16, crop=1.0)
    return [
        BackboneSpec(id="toynet/small", factory=build, input=tiny, width=16),
        BackboneSpec(id="toynet/wide", factory=build, options={"seed": 1, "width": 24}, input=tiny),
    ]
