# mypy: disable-error-code="arg-type, no-untyped-def"
"""A single-file plugin: small convolutional networks with fixed random weights; they suffice for half a minute."""

import torch
from torch import nn

from autotransfer.plugin import BackboneSpec, ImageInput, hookimpl


def build(weights, seed=0, width=24):
    """Return four blocks; the same seed gives the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        blocks, before = [], 3
        for number in range(4):
            after = width * (1 + number // 2)
            layers = [nn.Conv2d(before, after, 3, 1 + number % 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
            blocks.append(nn.Sequential(*layers))
            before = after
        return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@hookimpl
def autotransfer_backbones():
    """Return two sizes for fits that are disturbed, and two for fits that are timed: there the trainings weigh."""
    small = ImageInput(size=32, crop=1.0)
    return [
        BackboneSpec(id="nets/small", factory=build, input=small, width=48),
        BackboneSpec(id="nets/wide", factory=build, options={"seed": 1, "width": 32}, input=small, width=64),
        BackboneSpec(id="nets/heavy", factory=build, options={"width": 160}, input=small, width=320),
        BackboneSpec(id="nets/heavier", factory=build, options={"seed": 1, "width": 192}, input=small, width=384),
    ]
