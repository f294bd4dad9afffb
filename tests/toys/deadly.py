"""A single-file plugin whose networks kill processes; to be copied to a folder, where files say when.

``armed`` holds a number: the training step of a process that kills it (or its node, where ``node`` is there too), once.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from autotransfer.plugin import BackboneSpec, ImageInput, hookimpl

FOLDER = Path(__file__).parent
steps = 0


class Trap(nn.Module):
    """Passes on what it gets, as long as nothing is armed."""

    def __init__(self, poison=False):
        """Make a trap; poison ends every process that trains it."""
        super().__init__()
        self.poison = poison

    def forward(self, x):
        """Return the input, or nothing ever."""
        global steps
        if self.training and torch.is_grad_enabled():
            steps += 1
            if self.poison:
                with (FOLDER / "victims").open("a") as file:
                    file.write("one\n")
                os._exit(1)
            self.spring()
        return x

    def spring(self):
        """Kill, where that is asked for now."""
        armed = FOLDER / "armed"
        if armed.exists() and steps >= int(armed.read_text()):
            armed.unlink()
            victim = os.getppid() if (FOLDER / "node").exists() else os.getpid()
            os.kill(victim, signal.SIGKILL)
            if victim != os.getpid():  # this worker goes with its node, before it can end its job
                sys.stdin.read()
                signal.pause()


def build(weights, poison=False):
    """Return two small stages."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()),
            nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), Trap(poison)),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )


@hookimpl
def autotransfer_backbones():
    """Return one that can be armed, and one that always kills."""
    tiny = ImageInput(size=16, crop=1.0)
    return [
        BackboneSpec(id="deadly/net", factory=build, input=tiny, width=16),
        BackboneSpec(id="deadly/poison", factory=build, options={"poison": True}, input=tiny, width=16),
    ]
