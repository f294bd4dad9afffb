"""A head that remembers rows, and answers with the mean of the most similar ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from autotransfer.errors import PluginContractError
from autotransfer.strategy import HeadState, NeighbourState
from autotransfer.train.heads import Head, LinearHead

LINKS = ("softmax", "sigmoid", "identity")
LEAST = 1e-6
"""Smallest share that has a logarithm of its own."""


class NeighbourHead(Head):
    """Pool, standardise, bring to unit length, average what the nearest keys stand for.

    Everything it was made from is in its buffers, so that its tensors alone are the whole head.
    """

    keys: Tensor
    values: Tensor
    neighbours: Tensor
    temperature: Tensor
    link: Tensor
    bias: Tensor

    def __init__(self, output: str, width: int, outputs: int, rows: int) -> None:
        super().__init__(output, width, outputs)
        self.register_buffer("keys", torch.zeros(rows, width))
        self.register_buffer("values", torch.zeros(rows, outputs))
        self.register_buffer("neighbours", torch.tensor(1))
        self.register_buffer("temperature", torch.tensor(1.0))
        self.register_buffer("link", torch.tensor(0))
        self.register_buffer("bias", torch.zeros(outputs))
        self.settle()

    def _load_from_state_dict(self, *given: Any, **named: Any) -> None:
        super()._load_from_state_dict(*given, **named)
        self.settle()

    def settle(self) -> None:
        """Read what decides the way of an answer from the buffers: an export follows no way that tensors decide."""
        self.count, self.linked = int(self.neighbours), LINKS[int(self.link)]

    def answer(self, scaled: Tensor) -> Tensor:
        """Return ``float32`` [N, outputs] from standardised features [N, width]."""
        near = (functional.normalize(scaled, dim=1) @ self.keys.T).topk(self.count, dim=1)
        weights = torch.softmax(near.values / self.temperature, 1)
        mean = torch.einsum("nk,nkc->nc", weights, self.values[near.indices])
        if self.linked == "softmax":
            return mean.clamp_min(LEAST).log() + self.bias
        return (mean.clamp(LEAST, 1.0 - LEAST).logit() if self.linked == "sigmoid" else mean) + self.bias

    @property
    def offset(self) -> Tensor:
        """Zero where the answers are those of the neighbours alone."""
        return self.bias

    @torch.no_grad()
    def take(self, state: NeighbourState) -> None:
        """Take on a state of as many rows as this head remembers; :func:`with_state` has checked it."""
        self.mean.copy_(state.mean)
        self.scale.copy_(state.scale)
        self.keys.copy_(functional.normalize((state.keys.to(self.mean) - self.mean) * self.scale, dim=1))
        self.values.copy_(state.values)
        self.neighbours.fill_(state.neighbours)
        self.temperature.fill_(state.temperature)
        self.link.fill_(LINKS.index(state.link))
        self.settle()


def with_state(head: Head, state: HeadState | NeighbourState) -> Head:
    """Return a head as a closed form has it: the given one, or one that remembers rows in its place.

    Raises:
        PluginContractError: the state does not fit the head, or is none.
    """
    if isinstance(state, HeadState) and isinstance(head, LinearHead):
        head.take(state)
        return head
    if not isinstance(state, NeighbourState):
        raise PluginContractError(f"head() gave {type(state).__name__}; wanted a HeadState, a NeighbourState or None")
    _check(head, state)
    made = NeighbourHead(head.output, len(head.mean), head.outputs, len(state.keys)).to(head.mean.device)
    made.take(state)
    return made


def with_tensors(head: Head, tensors: Mapping[str, Tensor]) -> Head:
    """Return an untrained head of the kind that a network's tensors belong to, by their names."""
    keys = tensors.get("head.keys")
    if keys is None:
        return head
    return NeighbourHead(head.output, len(head.mean), head.outputs, len(keys)).to(head.mean.device)


def _check(head: Head, state: NeighbourState) -> None:
    width, rows = len(head.mean), len(state.keys)
    wanted = {"keys": (rows, width), "values": (rows, head.outputs), "mean": (width,), "scale": (width,)}
    got = {name: tuple(getattr(state, name).shape) for name in wanted}
    if got != wanted:
        raise PluginContractError(f"a head of neighbours has the shapes {got}; wanted {wanted}")
    if not all(getattr(state, name).isfinite().all() for name in wanted):
        raise PluginContractError("a head of neighbours holds values that are not finite")
    if not (1 <= state.neighbours <= rows and state.temperature > 0 and state.link in LINKS):
        raise PluginContractError(
            f"a head of neighbours needs 1 to {rows} neighbours, a temperature above 0 and a link of "
            f"{', '.join(LINKS)}; got {state.neighbours}, {state.temperature:g} and {state.link!r}"
        )
