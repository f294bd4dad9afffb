"""Every closed-form estimate of how well features suit a task, from one eigendecomposition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from autotransfer.search.transferability.calibration import Link, link_of
from autotransfer.search.transferability.hscore import hscore
from autotransfer.search.transferability.knn import hits, knn
from autotransfer.search.transferability.logme import logme
from autotransfer.search.transferability.ridge import Ridge, ridge
from autotransfer.search.transferability.spectrum import decompose
from autotransfer.tasks.metrics import EVEN
from autotransfer.train.balance import log_priors

if TYPE_CHECKING:
    from autotransfer.protocols import Task


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
    ridge: Ridge


def judge(features: Tensor, targets: Tensor, task: Task, groups: Tensor | None = None) -> Judgement:
    """Return every estimate for features of one backbone.

    Args:
        features: pooled [N, D], any float dtype, N >= 2; standardised here, constant ones do no harm.
        targets: encoded by the task, [N] or [N, K].
        task: whose objective is the score.
        groups: number of each row's group ``int64`` [N]: a row is predicted from other groups alone. None: each row
            is predicted from all others.

    Raises:
        ValueError: fewer than two rows, or targets of another number of rows.
        PluginContractError: features that are not finite.
    """
    if len(targets) != len(features):
        raise ValueError(f"there are {len(features)} rows of features and {len(targets)} targets; wanted as many")
    spectrum = decompose(features)
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
        ridge=head,
    )
