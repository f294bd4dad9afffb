"""Many linear heads on the same frozen features, trained together: one matrix product serves all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from autotransfer.errors import ConfigError, PluginContractError
from autotransfer.protocols import Tasks
from autotransfer.schema import CurvePoint
from autotransfer.strategy import HeadState
from autotransfer.train.balance import class_weights, log_priors
from autotransfer.train.evaluate import nothing
from autotransfer.train.heads import STANDARDISE_ROWS, moments
from autotransfer.train.sampling import batches, epoch_order, steps_per_epoch, stream
from autotransfer.train.schedule import Segment, rate

if TYPE_CHECKING:
    from autotransfer.protocols import Task

Gradient = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From outputs [n, K, C], targets and smoothing [K]: the mean losses [K], and their gradients [n, K, C]."""
Weighed = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""The same with weights, of rows [n, K, 1] or of labels [n, K, C]; None: all alike."""
_BETAS, _TINY = (0.9, 0.999), 1e-8


@dataclass(frozen=True, kw_only=True)
class HeadSetting:
    """How one head is trained.

    Raises:
        ConfigError: a value is out of its range.
    """

    lr: float
    weight_decay: float = 0.01
    """Of the weights, not of the biases."""
    dropout: float = 0.0
    """Heads with the same rate share the masks; higher rates drop what lower ones drop, and more."""
    label_smoothing: float = 0.0
    balance: str = "none"
    """``none``, ``logits`` or ``weights``: see :mod:`autotransfer.train.balance`."""
    start: HeadState | None = None
    """On raw pooled features; None: zeros."""

    def __post_init__(self) -> None:
        shares = 0 <= self.dropout < 1 and 0 <= self.label_smoothing < 1
        if not (0 < self.lr < math.inf and 0 <= self.weight_decay < math.inf and shares):
            raise ConfigError(
                f"a head needs lr > 0, weight_decay >= 0, dropout and label_smoothing in [0, 1); got lr={self.lr}, "
                f"weight_decay={self.weight_decay}, dropout={self.dropout}, label_smoothing={self.label_smoothing}"
            )
        if self.balance not in ("none", "logits", "weights"):
            raise ConfigError(f"the balance of heads that share their batches is none, logits or weights: {self}")


@dataclass(frozen=True, kw_only=True)
class FusedHead:
    """One trained head, as it was at its best epoch."""

    state: HeadState
    """On raw pooled features, on the CPU."""
    objective: float
    """On the validation rows; minus infinity where its outputs were never finite."""
    best_epoch: float
    """0: the start, where one was given and nothing was better."""
    curve: tuple[CurvePoint, ...]
    """After each epoch, without those at which its outputs were not finite."""
    epochs: float
    """Passes over the training rows that were made: fewer than were asked for where the deadline came first."""


def fit_heads(
    train: Tensor,
    targets: Tensor,
    validation: Tensor,
    validation_targets: Tensor,
    settings: Sequence[HeadSetting],
    task: Task,
    *,
    epochs: int,
    batch_size: int,
    warmup: float = 0.1,
    seed: int = 0,
    tick: Callable[[], None] = nothing,
    deadline: float = math.inf,
    judge: Callable[[Tensor, Tensor], float] | None = None,
) -> list[FusedHead]:
    """Train K linear heads with AdamW on one order of batches, each as it would be trained alone.

    Source: Wang et al. 2021, HFTA (arXiv 2102.02344), horizontal fusion; AdamW as in Loshchilov and Hutter 2019,
    algorithm 2. Features are standardised as a :class:`LinearHead` does it, and the schedule is that of
    :func:`autotransfer.train.schedule.rate` over one segment; gradients are not clipped.

    Args:
        train: pooled features [N, D].
        targets: encoded by the task, [N] or [N, C].
        validation: pooled features [M, D].
        validation_targets: as ``targets``.
        settings: one a head.
        task: gives loss and objective.
        epochs: passes over the training rows.
        batch_size: rows in a step.
        warmup: share of the steps over which the rates rise.
        seed: of the order of rows and of dropout.
        tick: called before each step.
        deadline: ``time.time()`` after which no further step is made; what there is then is scored once more.
        judge: objective of outputs [M, C] and targets; None: by all the task's scores, which takes longer than
            ``tasks.metrics.deciding``.

    Returns:
        One head a setting, in their order.

    Raises:
        PluginContractError: a start has other shapes than the head, or holds values that are not finite.
    """
    if not settings:
        return []
    stack = _Stack(train, targets, settings, task, judge or (lambda o, t: task.objective(task.scores(o, t))))
    features, held = stack.scaled(train), stack.scaled(validation)
    stack.evaluate(held, validation_targets, 0, 0.0, only_given=True)
    steps = steps_per_epoch(len(train), batch_size)
    whole = Segment(0, 0, epochs * steps)
    draws = torch.Generator(train.device).manual_seed(stream(seed, "heads", "dropout"))
    for epoch in range(epochs):
        order, begun = epoch_order(targets, "shuffle", stream(seed, "heads", "order", epoch)), stack.steps
        losses = torch.zeros(len(settings), device=train.device)
        for rows in batches(order, batch_size):
            tick()
            chosen = torch.from_numpy(rows).to(train.device)
            losses += stack.step(features[chosen], targets[chosen], rate(stack.steps, whole, warmup), draws)
            if time.time() > deadline:
                break
        stack.evaluate(held, validation_targets, stack.steps / steps, losses / (stack.steps - begun))
        if time.time() > deadline:
            break
    return stack.heads(stack.steps / steps)


class _Stack:
    """K heads as one matrix [K * C, D + 1]: a row an output, the bias in the last column."""

    def __init__(
        self,
        train: Tensor,
        targets: Tensor,
        settings: Sequence[HeadSetting],
        task: Task,
        judge: Callable[[Tensor, Tensor], float],
    ) -> None:
        # Heads with the same dropout lie side by side, so that they share a product.
        self.places = sorted(range(len(settings)), key=lambda k: settings[k].dropout)
        self.settings = [settings[k] for k in self.places]
        self.task = task
        self.judge = judge
        self.mean, self.scale = moments(train[:STANDARDISE_ROWS])
        heads, width = len(settings), train.shape[1]
        self.values = torch.cat([self._start(s) for s in self.settings]).to(train.device, torch.float32)
        self.first, self.second, self.change, self.slope = (torch.zeros_like(self.values) for _ in range(4))
        self.lr = self._rows([s.lr for s in self.settings])
        self.decay = self._rows([s.lr * s.weight_decay for s in self.settings])
        self.smoothing = torch.tensor([s.label_smoothing for s in self.settings], device=train.device)
        kinds = [s.balance for s in self.settings]
        self.offset, self.gradient = _balanced(task, targets.to(train.device), kinds)
        self.groups = [(r, list(g)) for r, g in groupby(range(heads), key=lambda k: self.settings[k].dropout)]
        self.steps = 0
        self.best = [(0.0, float("-inf"), self.values[self._of(k)].clone()) for k in range(heads)]
        self.curves: list[list[CurvePoint]] = [[] for _ in range(heads)]
        self.width = width

    def scaled(self, pooled: Tensor) -> Tensor:
        """Return standardised features with a one for the bias, ``float32`` [N, D + 1]."""
        standard = (pooled.float() - self.mean.float()) * self.scale.float()
        return functional.pad(standard, (0, 1), value=1.0)

    def step(self, features: Tensor, targets: Tensor, share: float, draws: torch.Generator) -> Tensor:
        """Make one step of AdamW at this share of the full rates; return the losses before it, [K]."""
        inputs = list(self._dropped(features, draws))
        parts = [x @ self.values[self._span(heads)].T for x, heads in inputs]
        outputs = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        shape = (len(features), len(self.settings), self.task.outputs)
        logits = outputs.view(shape) if self.offset is None else outputs.view(shape) + self.offset
        losses, slopes = self.gradient(logits, targets, self.smoothing)
        flat = slopes.reshape(len(features), -1)
        for x, heads in inputs:
            torch.mm(flat[:, self._span(heads)].T, x, out=self.slope[self._span(heads)])
        self._move(share)
        return losses

    def evaluate(
        self, held: Tensor, targets: Tensor, epoch: float, losses: Tensor | float, only_given: bool = False
    ) -> None:
        """Score every head (or those with a given start) and keep what is the best so far."""
        chosen = [k for k, s in enumerate(self.settings) if s.start is not None or not only_given]
        if not chosen:
            return
        outputs = (held @ self.values.T).view(len(held), len(self.settings), -1).cpu()
        means = losses.tolist() if isinstance(losses, Tensor) else [losses] * len(self.settings)
        for k in chosen:
            own = outputs[:, k]
            if not own.isfinite().all():
                continue
            objective = self.judge(own, targets)
            self.curves[k].append(CurvePoint(epoch=float(epoch), train_loss=means[k], objective=objective))
            if objective > self.best[k][1]:
                self.best[k] = (float(epoch), objective, self.values[self._of(k)].clone())

    def heads(self, epochs: float) -> list[FusedHead]:
        """Return the heads at their best after this many epochs, in the order in which their settings were given."""
        found: dict[int, FusedHead] = {}
        for place, (epoch, objective, values), curve in zip(self.places, self.best, self.curves, strict=True):
            weight = values[:, :-1].double() * self.scale
            bias = values[:, -1].double() - weight @ self.mean
            state = HeadState(weight=weight.float().cpu(), bias=bias.float().cpu())
            found[place] = FusedHead(
                state=state, objective=objective, best_epoch=epoch, curve=tuple(curve), epochs=epochs
            )
        return [found[place] for place in range(len(found))]

    def _start(self, setting: HeadSetting) -> Tensor:
        """Return the first values of a head on standardised features, ``float64`` [C, D + 1]."""
        wanted = (self.task.outputs, len(self.mean))
        if setting.start is None:
            return self.mean.new_zeros(wanted[0], wanted[1] + 1)
        weight, bias = (t.to(self.mean) for t in (setting.start.weight, setting.start.bias))
        if weight.shape != wanted or bias.shape != wanted[:1]:
            got = (tuple(weight.shape), tuple(bias.shape))
            raise PluginContractError(f"the start of a head has weight and bias {got}; wanted {(wanted, wanted[:1])}")
        if not (weight.isfinite().all() and bias.isfinite().all()):
            raise PluginContractError("the start of a head holds values that are not finite")
        return torch.cat([weight / self.scale, (bias + weight @ self.mean)[:, None]], 1)

    def _rows(self, values: Sequence[float]) -> Tensor:
        """Return a value a head as a column, one entry an output: [K * C, 1]."""
        column = torch.tensor(values, dtype=torch.float32, device=self.values.device)
        return column.repeat_interleave(self.task.outputs)[:, None]

    def _of(self, head: int) -> slice:
        return slice(head * self.task.outputs, (head + 1) * self.task.outputs)

    def _span(self, heads: Sequence[int]) -> slice:
        return slice(heads[0] * self.task.outputs, (heads[-1] + 1) * self.task.outputs)

    def _dropped(self, features: Tensor, draws: torch.Generator) -> Sequence[tuple[Tensor, Sequence[int]]]:
        """Return for each rate of dropout the features, and the heads that see them."""
        if self.groups[-1][0] == 0.0:
            return [(features, self.groups[0][1])]
        chance = torch.rand(len(features), self.width, generator=draws, device=features.device)
        found = []
        for dropout, heads in self.groups:
            mask = functional.pad((chance >= dropout).float() / (1.0 - dropout), (0, 1), value=1.0)
            found.append((features * mask if dropout else features, heads))
        return found

    def _move(self, share: float) -> None:
        """AdamW: decay apart from the gradient, both moments with their bias taken out."""
        self.steps += 1
        early, late = (1.0 - beta**self.steps for beta in _BETAS)
        self.values[:, :-1].mul_(1.0 - share * self.decay)
        self.first.lerp_(self.slope, 1.0 - _BETAS[0])
        self.second.mul_(_BETAS[1]).addcmul_(self.slope, self.slope, value=1.0 - _BETAS[1])
        torch.sqrt(self.second, out=self.change).div_(math.sqrt(late)).add_(_TINY)
        torch.div(self.first, self.change, out=self.change)
        self.values.addcmul_(self.change, self.lr, value=-share / early)


def _softmax(outputs: Tensor, targets: Tensor, smoothing: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cross-entropy of class numbers [n]; smoothing gives every class its share."""
    count, heads, classes = outputs.shape
    logs = outputs.transpose(1, 2).contiguous().log_softmax(1)  # several times faster than over a short last dimension
    own = targets[:, None, None].expand(-1, 1, heads)
    losses = -((1.0 - smoothing) * logs.gather(1, own)[:, 0] + smoothing * logs.mean(1))
    slopes = logs.exp_().sub_(smoothing / classes)
    slopes.scatter_add_(1, own, (smoothing - 1.0).expand(count, 1, -1))
    if weights is not None:
        losses, slopes = losses * weights[:, :, 0], slopes.mul_(weights.transpose(1, 2))
    return losses.mean(0), slopes.div_(count).transpose(1, 2)


def _sigmoid(outputs: Tensor, targets: Tensor, smoothing: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of 0 and 1 [n, C]; smoothing draws targets towards one half."""
    soft = targets[:, None] * (1.0 - smoothing)[:, None] + 0.5 * smoothing[:, None]
    losses = functional.binary_cross_entropy_with_logits(outputs, soft, weights, reduction="none").mean((0, 2))
    slopes = outputs.sigmoid() - soft if weights is None else (outputs.sigmoid() - soft) * weights
    return losses, slopes / (outputs.shape[0] * outputs.shape[2])


def _squares(outputs: Tensor, targets: Tensor, smoothing: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Squared error of numbers [n, C]; smoothing and weights have no meaning."""
    apart = outputs - targets[:, None]
    return apart.square().mean((0, 2)), apart * (2.0 / (outputs.shape[0] * outputs.shape[2]))


def _of_loss(task: Task) -> Weighed:
    """Return the gradient of a task whose loss is not known here: head by head, but still one matrix product."""

    def gradient(outputs: Tensor, targets: Tensor, smoothing: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        leaf = outputs.detach().requires_grad_()
        own = None if weights is None else weights if targets.is_floating_point() else weights[:, :, 0]
        with torch.enable_grad():
            parts = [
                task.loss(leaf[:, k], targets, s, **({} if own is None else {"weights": own[:, k]}))
                for k, s in enumerate(smoothing.tolist())
            ]
            losses = torch.stack(parts)
            (slopes,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), slopes

    return gradient


def _balanced(task: Task, targets: Tensor, kinds: Sequence[str]) -> tuple[Tensor | None, Gradient]:
    """Return what is added to the outputs of heads with these balances [K, C] or None, and the gradient of the loss.

    Args:
        task: one, or several: then the gradient is that of their summed losses, each on the rows that have its label.
        targets: of the training rows, encoded.
        kinds: the balance of each head.
    """
    if not isinstance(task, Tasks):
        return _offset(targets, task.outputs, kinds), _gradient(task, targets, kinds)
    offset, known = targets.new_zeros(len(kinds), task.outputs), []
    for part in task.parts:
        _, own = part.labelled(targets)
        its = kinds if part.evened else ["none"] * len(kinds)
        added = _offset(own, part.task.outputs, its)
        if added is not None:
            offset[:, part.outputs] = added
        known.append((part, _gradient(part.task, own, its)))

    def gradient(outputs: Tensor, targets: Tensor, smoothing: Tensor) -> tuple[Tensor, Tensor]:
        losses, slopes = torch.zeros_like(smoothing), torch.zeros_like(outputs)
        for part, its in known:
            rows, wanted = part.labelled(targets)
            if len(rows):
                loss, slope = its(outputs[rows][:, :, part.outputs], wanted, smoothing)
                losses += loss
                slopes[rows, :, part.outputs] = slope
        return losses, slopes

    return offset if offset.any() else None, gradient


def _offset(targets: Tensor, outputs: int, kinds: Sequence[str]) -> Tensor | None:
    """Return what is added to the outputs of each head, [K, C]; None where no balance asks for it."""
    if "logits" not in kinds:
        return None
    own = log_priors(targets, outputs)
    return torch.stack([own * float(kind == "logits") for kind in kinds])


def _gradient(task: Task, targets: Tensor, kinds: Sequence[str]) -> Gradient:
    """Return the gradient of one task's loss, weighted by class for the heads that ask for it."""
    known = _GRADIENTS.get(task.name) or _of_loss(task)
    table = None
    if "weights" in kinds:
        own = class_weights(targets, task.outputs)
        table = torch.stack([own if kind == "weights" else torch.ones_like(own) for kind in kinds])

    def gradient(outputs: Tensor, targets: Tensor, smoothing: Tensor) -> tuple[Tensor, Tensor]:
        return known(outputs, targets, smoothing, None if table is None else _row_weights(table, targets))

    return gradient


def _row_weights(table: Tensor, targets: Tensor) -> Tensor:
    """Return a batch's weights [n, K, 1] by those of classes [K, C], or [n, K, C] by those of labels [K, 2, C]."""
    if targets.is_floating_point():
        return torch.where(targets[:, None] > 0.5, table[:, 1], table[:, 0])
    return table[:, targets].T[:, :, None]


_GRADIENTS: dict[str, Weighed] = {
    "binary": _softmax,
    "multiclass": _softmax,
    "multilabel": _sigmoid,
    "regression": _squares,
}
"""Batched over heads, by the name of a task; equal to its own loss (tests/train/test_fused.py)."""
