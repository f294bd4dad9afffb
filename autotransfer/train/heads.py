"""Heads: pooling by the kind of a backbone's output, standardising, one linear map."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotransfer.errors import PluginContractError
from autotransfer.protocols import Tasks
from autotransfer.strategy import HeadState, NeighbourState, even_spread
from autotransfer.train.autocast import exact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotransfer.protocols import Rows, Task
    from autotransfer.strategy import Strategy

_RANK = {"vector": 2, "tokens": 3, "map": 4}
_HALF = (torch.bfloat16, torch.float16)
STANDARDISE_ROWS = 512
"""Training rows whose features give a head's fixed statistics."""
NEVER = -30.0
"""Bias of a class without a training row."""


class Head(nn.Module):
    """What every head does first: pool, and standardise with fixed statistics."""

    mean: Tensor
    scale: Tensor

    def __init__(self, output: str, width: int, outputs: int) -> None:
        super().__init__()
        self.output = output
        self.outputs = outputs
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return ``float32`` [N, outputs] from what the backbone gave, under the inputs' mask [N, T]."""
        return self.classify(pool_output(features, self.output, mask))

    def classify(self, pooled: Tensor) -> Tensor:
        """Return ``float32`` [N, outputs] from pooled features [N, width], whatever the backbone ran in."""
        with exact():
            return self.answer((pooled.to(self.mean.dtype) - self.mean) * self.scale)

    def answer(self, scaled: Tensor) -> Tensor:
        """Return ``float32`` [N, outputs] from standardised features [N, width]."""
        raise NotImplementedError

    @property
    def offset(self) -> Tensor:
        """What is added to the outputs, ``float32`` [outputs]; may be changed in place."""
        raise NotImplementedError


class LinearHead(Head):
    """Pool, standardise with fixed statistics, drop out, map linearly.

    The statistics are those of the pretrained features on training rows, so that one learning rate suits
    backbones whose features differ in scale by orders of magnitude.
    """

    def __init__(self, output: str, width: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__(output, width, outputs)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, outputs)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def answer(self, scaled: Tensor) -> Tensor:
        """Return ``float32`` [N, outputs] from standardised features [N, width]."""
        return cast(Tensor, self.linear(self.dropout(scaled)))

    @torch.no_grad()
    def rescale(self, factors: Tensor) -> None:
        """Multiply the outputs by these factors, ``float32`` [outputs]."""
        self.linear.weight.mul_(factors.to(self.linear.weight)[:, None])
        self.linear.bias.mul_(factors.to(self.linear.bias))

    @property
    def offset(self) -> Tensor:
        """The bias of the linear map."""
        return self.linear.bias

    @torch.no_grad()
    def standardise(self, pooled: Tensor) -> None:
        """Take the mean and scale of pooled training features [N, width]."""
        mean, scale = moments(pooled)
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    @torch.no_grad()
    def begin(self, state: HeadState) -> None:
        """Take on a head given on raw pooled features as the start of a training: the statistics stay as they are.

        The outputs are those of the given head; the weights are its weights in units of the standardised features,
        so that one learning rate still suits every backbone.

        Raises:
            PluginContractError: as for :meth:`take`.
        """
        mean, scale = self.mean.clone(), self.scale.clone()
        self.take(state)
        self.linear.weight.div_(scale)
        self.linear.bias.add_(state.weight.to(mean.device) @ mean)
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    @torch.no_grad()
    def take(self, state: HeadState) -> None:
        """Take on a head given in closed form on raw pooled features.

        Raises:
            PluginContractError: its shapes are not those of this head.
        """
        want = tuple(self.linear.weight.shape)
        got = (tuple(state.weight.shape), tuple(state.bias.shape))
        if got != (want, want[:1]):
            raise PluginContractError(f"a closed-form head has weight and bias {got}; wanted {(want, want[:1])}")
        if not (state.weight.isfinite().all() and state.bias.isfinite().all()):
            raise PluginContractError("a closed-form head holds values that are not finite")
        self.mean.zero_()
        self.scale.fill_(1.0)
        self.linear.weight.copy_(state.weight)
        self.linear.bias.copy_(state.bias)


def moments(pooled: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and 1 / spread of pooled features [N, width], ``float64``; constant ones have the median."""
    values = pooled.double()
    spread = values.std(0, correction=0)
    varies = spread > 1e-6 * values.abs().amax(0).clamp_min(1.0)
    usual = spread[varies].median() if bool(varies.any()) else torch.ones_like(spread[:1])
    return values.mean(0), 1.0 / torch.where(varies, even_spread(spread, varies), usual).clamp_min(1e-12)


def pool_output(features: Any, output: str, mask: Tensor | None = None) -> Tensor:
    """Return [N, width] from a backbone's output: a vector as it is, tokens and maps by their mean.

    Args:
        features: what the backbone gave.
        output: ``vector``, ``tokens`` or ``map``.
        mask: [N, T] of padded inputs, 1 where there is something; tokens are averaged under it.

    Raises:
        PluginContractError: the output is no tensor, or not of the rank that its kind has.
    """
    if not isinstance(features, Tensor):
        raise PluginContractError(f"the backbone gave {type(features).__name__}; wanted a tensor of kind {output!r}")
    if features.dim() != _RANK[output]:
        shape = list(features.shape)
        fits = [name for name, rank in _RANK.items() if rank == features.dim()]
        hint = f"; output={fits[0]!r} fits this shape" if fits else ""
        raise PluginContractError(f"the backbone gave shape {shape}, which is no {output} (rank {_RANK[output]}){hint}")
    if output == "tokens":
        return _masked_mean(features, mask)
    return _mean(features, (2, 3)) if output == "map" else features


def pool_activation(activation: Any, mask: Tensor | None = None) -> Tensor | None:
    """Return [N, channels] from what a stage gave, or None where that has no meaning.

    Maps may be channels-first or channels-last: the channel axis is the one that is not one of two equal ones. Tokens
    are averaged under the inputs' mask [N, T]; so are maps of masked inputs, which are [N, C, T', F].
    """
    tensor = activation
    while isinstance(tensor, (tuple, list)) and tensor:
        tensor = tensor[0]
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not 2 <= tensor.dim() <= 4:
        return None
    if tensor.dim() == 2:
        return tensor.clone()  # the next stage may change it in place
    if tensor.dim() == 3:
        return _masked_mean(tensor, mask)
    if mask is not None:  # a spectrogram's: channels, time, frequency
        return _masked_mean(_mean(tensor, (3,)).transpose(1, 2), mask)
    last = tensor.shape[1] == tensor.shape[2] != tensor.shape[3]
    return _mean(tensor, (1, 2) if last else (2, 3))


def _masked_mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean [N, C] of tokens [N, T', C] where a mask [N, T] has something, whatever is padded beside it.

    Where a network makes another number of tokens (frames of a waveform), each stands for the place in the mask that
    it lies over.
    """
    if mask is None:
        return _mean(tokens, (1,))
    if tokens.shape[0] != mask.shape[0]:  # tokens first, rows second: what the mask says of them is not known
        return _mean(tokens, (1,))
    if mask.shape[1] != tokens.shape[1]:
        places = (torch.arange(tokens.shape[1], device=mask.device) * mask.shape[1]) // tokens.shape[1]
        mask = mask[:, places]
    seen = mask.to(tokens.device).bool().unsqueeze(2)
    total = tokens.masked_fill(~seen, 0.0).sum(1, dtype=torch.float32 if tokens.dtype in _HALF else None)
    return total / seen.sum(1).clamp_min(1)


def _mean(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the mean over axes; of half precision in ``float32``, as a rounded mean would lose what differs."""
    return values.mean(axes, dtype=torch.float32 if values.dtype in _HALF else None)


def closed_form(
    strategy: Strategy,
    pooled: Tensor,
    rows: Rows,
    task: Task,
    unlabeled: Callable[[], Tensor | None] = lambda: None,
) -> HeadState | NeighbourState | None:
    """Return a strategy's closed-form head on pooled features [N, width] of rows.

    One that takes ``groups`` gets the rows' groups, one that takes ``unlabeled`` the features of unlabeled rows. Of
    several targets each has its own, on the rows that have its label; None where any has none. A strategy is told
    class numbers, not how many classes there are: those that sort last and have no row are added (:func:`padded`).

    Raises:
        PluginContractError: one of several targets has a head that is not linear.
    """
    given: Any = strategy.head
    takes = inspect.signature(given).parameters
    more = {"unlabeled": unlabeled()} if "unlabeled" in takes else {}
    groups: Tensor | None = getattr(rows, "groups", None)
    if not isinstance(task, Tasks):
        more |= {"groups": groups} if "groups" in takes else {}
        found: HeadState | NeighbourState | None = given(pooled, rows.targets, **more)
        return padded(found, rows.targets, task.outputs)
    heads: list[HeadState] = []
    for part in task.parts:
        own, targets = part.labelled(rows.targets)
        grouped = {"groups": None if groups is None else groups[own]} if "groups" in takes else {}
        state = padded(given(pooled[own], targets, **grouped, **more), targets, part.task.outputs)
        if state is None:
            return None
        if not isinstance(state, HeadState):
            raise PluginContractError(
                f"{strategy.id} gives {type(state).__name__} for {part.target}; wanted a HeadState where there are "
                "several targets: their heads lie side by side in one linear map"
            )
        heads.append(state)
    return stacked(heads)


def padded(
    state: HeadState | NeighbourState | None, targets: Tensor, outputs: int
) -> HeadState | NeighbourState | None:
    """Return a closed-form head with all outputs, where it lacks those of the last classes, which have no row.

    A linear one all but never says such a class; neighbours have no share of it. Any other head stays as it is.

    Args:
        state: what a strategy gave.
        targets: that it was given, encoded.
        outputs: of the task.
    """
    if targets.is_floating_point() or not len(targets):
        return state
    if isinstance(state, HeadState):
        missing = outputs - len(state.bias)
        if 0 < missing < outputs - int(targets.max()):
            weight = functional.pad(state.weight, (0, 0, 0, missing))
            return replace(state, weight=weight, bias=functional.pad(state.bias, (0, missing), value=NEVER))
    elif isinstance(state, NeighbourState):
        missing = outputs - state.values.shape[1]
        if 0 < missing < outputs - int(targets.max()):
            return replace(state, values=functional.pad(state.values, (0, missing)))
    return state


def stacked(heads: Sequence[HeadState]) -> HeadState:
    """Return heads on the same features as one, their outputs in the same order."""
    return HeadState(weight=torch.cat([h.weight for h in heads]), bias=torch.cat([h.bias for h in heads]))
