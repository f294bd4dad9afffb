"""A single-file plugin whose backbones each break the contract in another way."""

import time

import torch
from torch import nn

from autotransfer.plugin import BackboneSpec, ImageInput, hookimpl


class NotANumber(nn.Module):
    """Gives NaN."""

    def forward(self, x):
        return x.mean((2, 3)) * float("nan")


class Sleeper(nn.Module):
    """Hangs after its first batches."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls > 4:
            time.sleep(600)
        return x.mean((2, 3))


class Plain(nn.Module):
    """Three numbers an image."""

    def forward(self, x):
        return x.mean((2, 3))


def raises(weights):
    """Raise."""
    raise RuntimeError("the licence server does not answer")


def no_module(weights):
    """Return no module."""
    return 7


@hookimpl
def autotransfer_backbones():
    """Return all of them."""
    made = {
        "nan": {"factory": not_a_number},
        "sleeper": {"factory": sleeper},
        "width": {"factory": plain, "width": 5},
        "map": {"factory": plain, "output": "map"},
        "raises": {"factory": raises},
        "seven": {"factory": no_module},
        "lost": {"factory": "faulty:nowhere"},
    }
    return [BackboneSpec(id=f"faulty/{n}", input=ImageInput(size=16, crop=1.0), **kw) for n, kw in made.items()]


def not_a_number(weights):
    return NotANumber()


def sleeper(weights):
    return Sleeper()


def plain(weights):
    torch.manual_seed(0)
    return Plain()
