"""Every closed-form estimate of how well features suit a task, from one eigendecomposition."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autotransfer.search.transferability.calibration import Link, link_of
from autotransfer.search.transferability.hscore import hscore
from autotransfer.search.transferability.knn import hits, knn
from autotransfer.search.transferability.logme import logme
from autotransfer.search.transferability.ridge import Ridge, ridge
from autotransfer.search.transferability.spectrum import Spectrum, decompose
from autotransfer.strategy import HeadState
from autotransfer.tasks import Several
from autotransfer.tasks.metrics import EVEN
from autotransfer.train.balance import log_priors
from autotransfer.train.heads import stacked

if TYPE_CHECKING:
    from autotransfer.protocols import Task

LEAST = 3
"""Labels of one target of several, for it to have a say."""


@dataclass(frozen=True)
class Judgement:
    """What the features of one backbone at one depth say about a task; more is better but for losses."""

    score: float
    """The task's objective of the ridge head's calibrated leave-one-out predictions, less the log priors where the
    metric counts classes alike."""
    loss_per_row: Tensor
    """Of the same predictions, ``float64`` [N]: negative log-likelihood in nats, or squared error."""
    logme: float | None
    """None where no target varies."""
    hscore: float
    knn: float
    """Accuracy (classes, labels) or R2 (numbers) of nearest neighbours, each row left out."""
    linear: float
    """The same of the ridge head: far below ``knn``, the features are clustered but not linear."""
    head: HeadState
    """In closed form, on raw features; its outputs are calibrated logits, or numbers."""
    ridge: Ridge | None = None
    """None of several targets: each has its own."""


def judge(features: Tensor, targets: Tensor, task: Task, groups: Tensor | None = None) -> Judgement:
    """Return every estimate for features of one backbone.

    Args:
        features: pooled [N, D], any float dtype, N >= 2; standardised here, constant ones do no harm.
        targets: encoded by the task, [N] or [N, K].
        task: whose objective is the score.
        groups: number of each row's group ``int64`` [N]: a row is predicted from other groups alone. None: each row
            is predicted from all others.

    Of several targets each is judged alone, on the rows that have its label. Scores, evidence and the like are means
    over the targets; a row's loss is the sum over its labels, each divided by the share of the rows that have it.

    Raises:
        ValueError: fewer than two rows, or targets of another number of rows.
        PluginContractError: features that are not finite.
    """
    if len(targets) != len(features):
        raise ValueError(f"there are {len(features)} rows of features and {len(targets)} targets; wanted as many")
    if isinstance(task, Several):
        return _together(features, targets, task, groups)
    return _judged(decompose(features), targets, task, groups)


def _judged(spectrum: Spectrum, targets: Tensor, task: Task, groups: Tensor | None) -> Judgement:
    wanted, link = task.survey_target(targets), link_of(task, targets)
    head = ridge(spectrum, wanted, link, groups=groups)
    logits = head.logits.float()
    if task.metric in EVEN and link is Link.SOFTMAX:  # else every head on very uneven classes is as bad as none
        logits -= log_priors(targets, task.outputs)
    return Judgement(
        score=task.objective(task.scores(logits, targets)),
        loss_per_row=head.loss_per_row,
        logme=logme(spectrum, wanted),
        hscore=hscore(spectrum, wanted, link),
        knn=knn(spectrum, wanted, link, groups=groups),
        linear=hits(head.left_out, wanted, link),
        head=head.head(),
        ridge=head,
    )


def _together(features: Tensor, targets: Tensor, task: Several, groups: Tensor | None) -> Judgement:
    """Return what the features say about several targets; one with fewer than three labels has no say."""
    whole, losses = decompose(features), torch.zeros(len(features), dtype=torch.float64)
    heads, found = list[HeadState](), dict[str, Judgement]()
    for part in task.parts:
        rows, own = part.labelled(targets)
        if len(rows) < LEAST:
            width = part.outputs.stop - part.outputs.start
            heads.append(HeadState(weight=torch.zeros(width, features.shape[1]), bias=torch.zeros(width)))
            continue
        spectrum = whole if len(rows) == len(features) else decompose(features[rows])
        told = _judged(spectrum, own, part.task, None if groups is None else groups[rows])
        losses[rows] += told.loss_per_row * (len(features) / len(rows))
        heads.append(told.head)
        found[part.target] = told
    known = list(found.values())
    score = task.mean_skill({p.target: found[p.target].score if p.target in found else -math.inf for p in task.parts})
    evidence = [f.logme for f in known if f.logme is not None]
    return Judgement(
        score=-math.inf if score is None else score,
        loss_per_row=losses,
        logme=sum(evidence) / len(evidence) if evidence else None,
        hscore=_mean([f.hscore for f in known]),
        knn=_mean([f.knn for f in known]),
        linear=_mean([f.linear for f in known]),
        head=stacked(heads),
    )


def _mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))
