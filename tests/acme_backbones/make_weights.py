"""Draws shapes, teaches the network to tell them apart, and writes its weights into the package."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from acme_backbones.network import Shapes
from safetensors.torch import save_file
from torch import nn

KINDS = 6


def draw(kind: int, rng: np.random.Generator) -> np.ndarray:
    """Return one image ``float32`` [3, 32, 32] of a disc, ring, square, cross, bars or checks, in random colours."""
    y, x = np.mgrid[:32, :32] - rng.uniform(11, 21, (2, 1, 1))
    size, turn = rng.uniform(6, 11), rng.uniform(-0.3, 0.3)
    u, v = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    distance = np.hypot(u, v)
    box = np.maximum(abs(u), abs(v)) < size
    mask = (
        distance < size,
        abs(distance - size) < size / 4,
        box,
        (np.minimum(abs(u), abs(v)) < size / 4) & box,
        (np.floor(u / size * 3) % 2 == 0) & box,
        ((np.floor(u / size * 2) + np.floor(v / size * 2)) % 2 == 0) & box,
    )[kind]
    ink, paper = rng.uniform(0, 1, (2, 3, 1, 1))
    return (np.where(mask, ink, paper) + rng.normal(0, 0.05, (3, 32, 32))).astype(np.float32)


def main() -> None:
    """Train for a few epochs and save."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    labels = rng.integers(KINDS, size=6000)
    images = torch.from_numpy(np.stack([draw(int(k), rng) for k in labels]))
    rows, targets = (images - 0.5) / 0.25, torch.from_numpy(labels)
    network, head = Shapes(), nn.Linear(48, KINDS)
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(12):
        for batch in torch.randperm(5000).split(64):
            loss = nn.functional.cross_entropy(head(network(rows[batch])), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.eval()
    right = (head(network(rows[5000:])).argmax(1) == targets[5000:]).float().mean()
    path = Path(__file__).parent / "acme_backbones" / "shapes.safetensors"
    save_file(network.state_dict(), path)
    print(f"{right:.3f} right on fresh shapes; sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
