"""Phases as a timeline of optimizer steps, cut at the rungs of the search, and the optimizer that takes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from autotransfer.schema import Phase, Training


@dataclass(frozen=True)
class Segment:
    """Steps ``start`` to ``stop`` (not included) of a training, all in one phase and one rung."""

    phase: int
    start: int
    stop: int


def segments(phases: Sequence[Phase], steps: int, start: int, stop: int | None) -> list[Segment]:
    """Return the stretches of the phases that lie between two steps of the whole training.

    Args:
        phases: the strategy's.
        steps: optimizer steps in an epoch.
        start: first step to run.
        stop: step to stop before; None: the end of the last phase.
    """
    found, begin = [], 0
    for number, phase in enumerate(phases):
        end = begin + max(1, round(phase.epochs * steps)) if phase.epochs > 0 else begin
        low, high = max(begin, start), end if stop is None else min(end, stop)
        if low < high:
            found.append(Segment(number, low, high))
        begin = end
    return found


def total_steps(phases: Sequence[Phase], steps: int) -> int:
    """Return the optimizer steps of all phases."""
    return sum(s.stop - s.start for s in segments(phases, steps, 0, None))


def augmentation(phases: Sequence[Phase], steps: int, number: int, step: int) -> str:
    """Return how rows are augmented at a step of the phase of this number: ``none`` before its ``augment_from``.

    Args:
        phases: the strategy's.
        steps: optimizer steps in an epoch.
        number: of the phase; negative: none has begun.
        step: of the whole training.
    """
    if number < 0 or phases[number].augment == "none":
        return "none"
    begin = total_steps(phases[:number], steps) + round(phases[number].augment_from * steps)
    return phases[number].augment if step >= begin else "none"


def rate(step: int, segment: Segment, warmup: float) -> float:
    """Return the share of its full learning rate that a step gets.

    Linear warm-up over the first ``warmup`` of the segment, then half a cosine to 0 (Loshchilov and Hutter
    2017, SGDR, eq. 5, with a restart at each rung so that every rung ends annealed and can be compared).
    """
    length, at = segment.stop - segment.start, step - segment.start
    rise = int(warmup * length)
    if at < rise:
        return (at + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (at - rise) / max(1, length - rise)))


def make_optimizer(rows: list[dict[str, Any]], training: Training) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov and Hutter 2019) or SGD with Nesterov momentum 0.9 over these groups."""
    if training.optimizer == "sgd":
        return torch.optim.SGD(rows, momentum=0.9, nesterov=True)
    # One pass over each tensor in place of ten: a third of a small batch's step on a CPU is the optimizer's.
    return torch.optim.AdamW(rows, fused=True)
