"""Averages of weights along one training, judged on the validation rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from autotransfer.plugin import FinishContext

SHARES = (0.7, 0.5, 0.3)
"""Of the way from the first weights to the trained ones."""


def interpolate(context: FinishContext) -> None:
    """Leave the module at the best place between its weights before and after training.

    Source: Wortsman et al. 2022, Robust fine-tuning of zero-shot models (arXiv 2109.01903). A place
    counts only where it is better than the end.
    """
    end = _copied(context, context.initial)
    places = {1.0: context.evaluate()}
    for share in SHARES:
        _put(context, {n: context.initial[n].lerp(end[n], share) for n in end})
        places[share] = context.evaluate()
    best = max(places, key=lambda s: (places[s], s))
    _put(context, end if best == 1.0 else {n: context.initial[n].lerp(end[n], best) for n in end})


def soup(context: FinishContext) -> None:
    """Leave the module at the greedy average of its best weights so far.

    Source: Wortsman et al. 2022, Model soups (arXiv 2203.05482), recipe 1, of the snapshots of one training, best
    first: one joins where the average is no worse with it.
    """
    if not context.snapshots:
        return
    *others, last = context.snapshots
    chosen, best = [last], context.evaluate()
    for snapshot in reversed(others):
        _put(context, _mean([*chosen, snapshot]))
        found = context.evaluate()
        if found >= best:
            chosen, best = [*chosen, snapshot], found
    _put(context, _mean(chosen))


def _copied(context: FinishContext, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of the module's floating tensors of these names."""
    state = context.module.state_dict()
    return {n: state[n].detach().clone() for n in names if state[n].is_floating_point()}


@torch.no_grad()
def _put(context: FinishContext, tensors: Mapping[str, Tensor]) -> None:
    state = context.module.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        state[name].copy_(tensor)


def _mean(states: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """Return the mean of each floating tensor; one state alone is itself, to the last bit."""
    if len(states) == 1:
        return states[0]
    floating = [n for n, t in states[0].items() if t.is_floating_point()]
    return {n: torch.stack([s[n].to(states[0][n]) for s in states]).mean(0) for n in floating}
