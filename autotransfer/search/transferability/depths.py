"""One head on the features of all depths (Head2Toe, Evci et al. 2022, arXiv 2201.03529), in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from autotransfer.search.transferability.calibration import Link, link_of
from autotransfer.search.transferability.ridge import Ridge, ridge
from autotransfer.search.transferability.spectrum import decompose
from autotransfer.strategy import HeadState

if TYPE_CHECKING:
    from autotransfer.protocols import Task

KEEP = (0.1, 0.3, 1.0)
"""Shares of the features to try."""


@dataclass(frozen=True)
class MultiDepth:
    """A head on :func:`concatenated` features."""

    head: HeadState
    """On all of them, [outputs, sum of widths]; 0 for those left out."""
    chosen: Tensor
    """Numbers of the features kept, ``int64``, ascending."""
    score: float
    """The task's objective of honest predictions: leave-one-out where all features are kept; else leave-one-out within
    each half of the rows on features that the other half chose."""
    ridge: Ridge
    """The solution on the features kept, on all rows. Where not all are kept its own leave-one-out is too good:
    the rows left out took part in the choice."""


def concatenated(depths: Sequence[Tensor]) -> Tensor:
    """Return the features of all depths beside each other, each depth's row of unit length; ``float32`` [N, sum D].

    Args:
        depths: pooled features of each depth [N, D_l], any float dtype; rows of zeros stay zeros.

    Raises:
        ValueError: no depth, or depths of different numbers of rows.
    """
    if not depths or len({len(f) for f in depths}) > 1:
        raise ValueError(f"depths have {[len(f) for f in depths]} rows; wanted one or more, of equally many rows")
    return torch.cat([_unit(f.double()).float() for f in depths], 1)


def _unit(f: Tensor) -> Tensor:
    peak = f.abs().amax(1, keepdim=True) if f.shape[1] else f.new_ones(len(f), 1)
    return functional.normalize(f / torch.where(peak > 0, peak, torch.ones_like(peak)), dim=1)


def multi_depth(depths: Sequence[Tensor], targets: Tensor, task: Task, keep: Sequence[float] = KEEP) -> MultiDepth:
    """Return the ridge head on the most relevant features of all depths.

    The relevance of a feature is the length of its weights over the outputs, on standardised features. The share to
    keep is the one whose halves, each fitted on features that the other half of the rows chose, lose least; with a
    single share nothing is compared.

    Args:
        depths: pooled features of each depth [N, D_l], any float dtype.
        targets: encoded by the task, [N] or [N, K].
        task: whose objective is the score.
        keep: shares of the features, each in (0, 1].

    Raises:
        ValueError: as of :func:`concatenated`; fewer than four rows, or shares outside (0, 1].
    """
    if not keep or not all(0 < share <= 1 for share in keep):
        raise ValueError(f"got the shares {tuple(keep)} of features to keep; wanted one or more in (0, 1]")
    if len(targets) < 4:
        raise ValueError(f"there are {len(targets)} rows; wanted four or more, two in each half")
    features = concatenated(depths)
    wanted, link = task.survey_target(targets), link_of(task, targets)
    share, honest = (1.0, None) if set(keep) == {1.0} else _halves(features, wanted, link, keep)
    whole = ridge(decompose(features), wanted, link)
    chosen, fitted = torch.arange(features.shape[1]), whole
    if share < 1:
        chosen = _relevant(whole, features, share)
        fitted = ridge(decompose(features[:, chosen]), wanted, link)
    own = fitted.head()
    weight = own.weight.new_zeros(len(own.bias), features.shape[1])
    weight[:, chosen] = own.weight
    outputs = fitted.logits if share == 1 or honest is None else honest
    return MultiDepth(
        head=HeadState(weight=weight, bias=own.bias),
        chosen=chosen,
        score=task.objective(task.scores(outputs.float(), targets)),
        ridge=fitted,
    )


def _halves(features: Tensor, wanted: Tensor, link: Link, keep: Sequence[float]) -> tuple[float, Tensor]:
    """Return the share of least loss and its honest outputs [N, K]."""
    # Drawn, since rows may come in turns of classes; each class is divided evenly.
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    if link is Link.SOFTMAX:
        order = order[wanted[order].argmax(1).argsort(stable=True)]
    halves = [order[start::2] for start in (0, 1)]
    whole = [ridge(decompose(features[rows]), wanted[rows], link) for rows in halves]
    losses, outputs = {}, {}
    for share in sorted(set(keep)):
        outputs[share], losses[share] = torch.zeros_like(wanted), 0.0
        for rows, other in ((0, 1), (1, 0)):
            own = halves[rows]
            fitted = whole[rows]
            if share < 1:
                chosen = _relevant(whole[other], features[halves[other]], share)
                fitted = ridge(decompose(features[own][:, chosen]), wanted[own], link)
            outputs[share][own] = fitted.logits
            losses[share] += float(fitted.loss_per_row.sum())
    best = min(losses, key=lambda s: (losses[s], -s))
    return best, outputs[best]


def _relevant(fitted: Ridge, features: Tensor, share: float) -> Tensor:
    """Return the numbers of the features with the longest weights, ascending."""
    relevance = fitted.weight.norm(dim=0) * features.double().std(0, correction=0)
    count = max(1, round(share * len(relevance)))
    kept, _ = torch.sort(relevance.topk(count).indices)
    return kept
