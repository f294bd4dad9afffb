"""Acme's network: plain torch, no word of autotransfer in it."""

from itertools import pairwise
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn


class Shapes(nn.Module):
    """Four convolutions and a mean: images [N, 3, 32, 32] to features [N, 48]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 24, 32, 48)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, stride=2 if i else 1, padding=1), nn.BatchNorm2d(b), nn.ReLU())
                for i, (a, b) in enumerate(pairwise(widths))
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return ``float32`` [N, 48]."""
        return self.blocks(images).mean((2, 3))


def build(weights: Path | None) -> nn.Module:
    """Return the network with these weights, or with random ones."""
    network = Shapes()
    if weights is not None:
        network.load_state_dict(load_file(weights))
    return network
