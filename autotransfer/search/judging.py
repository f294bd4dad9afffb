"""How a trial's record comes by what it is compared by, where that is not plainly the validation rows; worker side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autotransfer.protocols import Tasks
from autotransfer.schema import TrialRecord
from autotransfer.search.criterion import INFORMATION, NAME, SCORES, WEIGHTED, copies, information
from autotransfer.search.gap import validation_odds
from autotransfer.search.jobs import Context, RungJob
from autotransfer.search.transferability.calibration import Link, fit_sharpness, link_of, negative_log_likelihood
from autotransfer.search.transferability.domains import importance
from autotransfer.tasks.metrics import EVEN
from autotransfer.train.balance import class_weights, log_priors, row_weights
from autotransfer.train.evaluate import predict

if TYPE_CHECKING:
    from autotransfer.protocols import Rows, Task
    from autotransfer.train.network import TransferNetwork


def weighted(
    context: Context, job: RungJob, record: TrialRecord, task: Task, outputs: Tensor, targets: Tensor
) -> TrialRecord:
    """Return a record whose objective is that of weighted validation rows, where the job's criterion says so.

    Args:
        context: of the search.
        job: that the record is of.
        record: of a rung.
        task: of the data.
        outputs: of its best weights on the validation rows, ``float32`` [N, K].
        targets: of the same rows.
    """
    if job.criterion != WEIGHTED or job.rows is not None or record.objective is None:
        return record
    rows = copies(importance(validation_odds(context, job.judge)))
    return replace(record, objective=task.objective(task.scores(outputs[rows], targets[rows])))


def with_loss(record: TrialRecord, task: Task, outputs: Tensor, targets: Tensor, training: Tensor) -> TrialRecord:
    """Return a record with the loss of its answers once they are as sure as they should be.

    One temperature is fitted to the rows (Guo et al. 2017): how sure a training made its network, which can be put
    right afterwards and is, does not count. Where the metric counts classes alike so does the loss: rows are weighted
    by their class, and answers of a training that did not make classes count alike lose the logarithm of each class's
    share (Menon et al. 2021). No loss is told where a recipe's answers are meant for other classes than the metric's.

    Args:
        record: of a rung.
        task: of the data.
        outputs: of its best weights on the validation rows, ``float32`` [N, K].
        targets: of the same rows.
        training: targets of the training rows.
    """
    if isinstance(task, Tasks) or not len(targets):
        return record
    link, evened = link_of(task, targets), record.recipe.training.balance != "none"
    even = link is Link.SOFTMAX and task.metric in EVEN
    if link is Link.IDENTITY or (evened and not even):
        return record
    each = row_weights(class_weights(targets, task.outputs), targets).double().cpu() if even else None
    usual = log_priors(training, task.outputs).cpu() if even and not evened else torch.zeros(())
    logits, wanted = (outputs.cpu() - usual).double()[None] + link.middle, task.survey_target(targets).cpu()
    factor = fit_sharpness(logits, wanted, link, torch.ones(1, dtype=torch.float64), each)
    losses = negative_log_likelihood(logits, factor, wanted, link)[0]
    return replace(record, calibrated_loss=float((losses if each is None else losses * each).mean()))


def informed(
    job: RungJob, network: TransferNetwork, rows: Rows | None, task: Task, tick: Callable[[], None]
) -> dict[str, dict[str, float]]:
    """Return what a network's answers tell of unlabeled rows, as scores; empty where that is not the criterion."""
    if job.criterion != INFORMATION or rows is None:
        return {}
    chances = torch.from_numpy(task.probabilities(predict(network, rows, tick)))
    return {SCORES: {NAME: information(chances)}}
