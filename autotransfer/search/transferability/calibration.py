"""One temperature for a matrix of predictions, fitted for many matrices at once."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

import torch
from torch import Tensor
from torch.nn import functional

from autotransfer.protocols import Task

_LEAST, _MOST = 1e-2, 1e4
"""Bounds of the sharpness."""
_START = 8.0
_STEPS = 40
_CLOSE = 1e-4
"""A step in ln(sharpness) that ends the search; what is left of it is some 1e-8, for Newton's steps square."""
_ENTRIES = 4_000_000
"""Predictions copied at once (32 MB)."""


class Link(Enum):
    """What turns a head's outputs into what a task predicts."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    IDENTITY = "identity"

    @property
    def middle(self) -> float:
        """The prediction of a 0-1 target whose logit is 0; a softmax does not care."""
        return 0.5 if self is Link.SIGMOID else 0.0


def link_of(task: Task, targets: Tensor) -> Link:
    """Return the link of a task from its classes and its encoded targets, [N] or [N, K]."""
    if not task.classes:
        return Link.IDENTITY
    return Link.SOFTMAX if targets.ndim == 1 else Link.SIGMOID


def negative_log_likelihood(predicted: Tensor, sharpness: Tensor, targets: Tensor, link: Link) -> Tensor:
    """Return the loss of each row at each matrix's own sharpness, ``float64`` [L, N]; the squared error for numbers.

    Args:
        predicted: ``float64`` [L, N, K].
        sharpness: as :func:`fit_sharpness` gives it, [L].
        targets: the fitted matrix ``float64`` [N, K]; for a sigmoid and for numbers a row's loss is its mean over K.
        link: of the task.
    """
    factor = sharpness[:, None, None]
    return torch.cat([_losses((part - link.middle) * factor, own, link) for part, own in _parts(predicted, targets)], 1)


def _losses(logits: Tensor, targets: Tensor, link: Link) -> Tensor:
    if link is Link.SOFTMAX:
        return logits.logsumexp(-1) - (logits * targets).sum(-1)
    if link is Link.SIGMOID:
        return (functional.softplus(logits) - logits * targets).mean(-1)
    return (logits - targets).square().mean(-1)


def fit_sharpness(
    predicted: Tensor, targets: Tensor, link: Link, start: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Return 1 / temperature of each matrix, ``float64`` [L]: the factor with the least negative log-likelihood.

    Temperature scaling (Guo et al. 2017) on targets drawn in by 1 / (N + 2), as Platt (1999) does, so that N rows
    that are all right do not ask for an infinite factor. The loss is convex in the factor: Newton steps on its
    logarithm within a bracket that shrinks, bisection where a step leaves it.

    Args:
        predicted: ``float64`` [L, N, K].
        targets: one-hot or 0-1 rows ``float64`` [N, K]; ignored for numbers, whose factor is 1.
        link: of the task.
        start: factors to begin at, [1] or [L].
        weights: of the rows, of mean 1, ``float64`` [N]; None: all count alike.
    """
    count, rows, columns = predicted.shape
    if link is Link.IDENTITY or (columns < 2 and link is Link.SOFTMAX):
        return predicted.new_ones(count)
    drawn = 1.0 / (rows + 2)
    # What does not depend on the factor: the targets' part of the derivative, and the shifts that keep exp in range.
    each = predicted.new_ones(rows) if weights is None else weights
    right = torch.cat([_wanted(part, own, drawn, link) for part, own in _parts(predicted, targets)], 1)
    wanted = right @ each / rows
    peaks = predicted.amax(-1, keepdim=True) if link is Link.SOFTMAX else targets.new_full((1, rows, 1), link.middle)
    low, high = (predicted.new_full((count,), bound).log() for bound in (_LEAST, _MOST))
    at = (predicted.new_full((count,), _START) if start is None else start.expand(count)).log()
    for _ in range(_STEPS):
        factor = at.exp()
        gradient, curvature, begin = -wanted, predicted.new_zeros(count), 0
        for part, peak in _parts(predicted, peaks, 1):
            own = each[begin : begin + part.shape[1]] / rows
            first, second = _derivatives(part, peak, factor, link)
            gradient, curvature, begin = gradient + first @ own, curvature + second @ own, begin + part.shape[1]
        low, high = torch.where(gradient < 0, at, low), torch.where(gradient < 0, high, at)
        # In the logarithm b of the factor: g_b = f g, h_b = f^2 h + f g; f alone cancels in the ratio.
        bend = factor * curvature + gradient
        step = at - gradient / torch.where(bend > 0, bend, torch.ones_like(bend))
        inside = (bend > 0) & (step > low) & (step < high)
        new = torch.where(inside, step, (low + high) / 2)
        if bool(((new - at).abs() < _CLOSE).all()):
            return new.exp()
        at = new
    return at.exp()


def _parts(predicted: Tensor, beside: Tensor, axis: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield runs of rows [L, n, K] with what lies beside them (rows along ``axis``), so that copies stay small."""
    count, _, columns = predicted.shape
    rows = max(1, _ENTRIES // max(1, count * columns))
    yield from zip(predicted.split(rows, 1), beside.split(rows, axis), strict=True)


def _wanted(predicted: Tensor, targets: Tensor, drawn: float, link: Link) -> Tensor:
    """Return what the drawn-in targets of each row expect of its predictions, [L, n]."""
    columns = predicted.shape[-1]
    if link is Link.SIGMOID:
        return ((predicted - link.middle) * (targets * (1 - 2 * drawn) + drawn)).sum(2) / columns
    right = (predicted * targets).sum(-1)
    return (1 - drawn) * right + drawn * (predicted.sum(-1) - right) / (columns - 1)


def _derivatives(predicted: Tensor, peak: Tensor, factor: Tensor, link: Link) -> tuple[Tensor, Tensor]:
    """Return the first (but for the targets' part) and second derivative of each row's loss in the factor, [L, n]."""
    if link is Link.SIGMOID:
        shifted = predicted - peak
        chance = torch.sigmoid(shifted * factor[:, None, None])
        columns = predicted.shape[-1]
        first, second = chance * shifted, chance * (1 - chance) * shifted.square()
        return first.sum(2) / columns, second.sum(2) / columns
    weight = (predicted - peak).mul_(factor[:, None, None]).exp_()
    total = weight.sum(-1)
    weight = weight.mul_(predicted)
    mean = weight.sum(-1) / total
    square = weight.mul_(predicted).sum(-1) / total
    return mean, square - mean.square()
