"""Rows without labels through a surveyed backbone, worker side: pooled once, kept, compared with training rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from autotransfer.errors import TrialFailedError
from autotransfer.gap import POOLED_ROWS, Gap
from autotransfer.schema import SurveyRecord
from autotransfer.search import recall
from autotransfer.search.jobs import Context, slug
from autotransfer.search.survey import closed_form_head, compact, head_features, load_features, write_atomically
from autotransfer.search.transferability.domains import FEWEST, effective, importance, mmd, shares, two_sample
from autotransfer.train.autocast import mixed
from autotransfer.train.evaluate import device_of, features, probe_of
from autotransfer.train.stages import find_stages

if TYPE_CHECKING:
    from pathlib import Path

    from autotransfer.protocols import Rows, Task
    from autotransfer.spec import BackboneSpec

POOLED, ODDS = "unlabeled", "odds"
"""Tensors of a file: pooled output of unlabeled rows, and log-odds of validation rows to be like them."""


def unlabeled_file(context: Context, id: str) -> Path:
    """Return where a search keeps what a backbone gives on unlabeled rows."""
    return context.path(f"unlabeled-{slug(id)}.safetensors")


def unlabeled_features(context: Context, id: str) -> Tensor | None:
    """Return the pooled output of a backbone on the first unlabeled rows, ``float32`` [N, width]; None: not pooled."""
    file = unlabeled_file(context, id)
    return load_features(file)[POOLED].float() if file.exists() else None


def validation_odds(context: Context, id: str) -> Tensor:
    """Return the log-odds ``float64`` [N] that validation rows are like the unlabeled ones, by a surveyed backbone."""
    return load_features(unlabeled_file(context, id))[ODDS]


def pool_unlabeled(
    context: Context,
    spec: BackboneSpec,
    record: SurveyRecord,
    rows: Rows,
    backbone: Callable[[], nn.Module],
    tick: Callable[[], None],
) -> Tensor:
    """Return the pooled output of unlabeled rows, ``float32`` [N, width]: from an earlier run, or by a frozen pass.

    Args:
        context: of the search.
        spec: of the backbone.
        record: its survey, whose arithmetic the pass has.
        rows: without labels.
        backbone: builds it, where a pass is needed.
        tick: called before each batch.
    """
    stop = min(len(rows), POOLED_ROWS)
    known = recall.find_unlabeled(context, spec, record.dtype)
    if known is not None and len(known) == stop:
        return known.float()
    module = backbone()
    stages = find_stages(module, probe_of(rows, module), declared=record.stages, output=spec.output)
    with mixed(record.dtype, device_of(module)):
        passes = features(module, stages, rows, spec.output, start=0, stop=stop, tick=tick)
        found = compact(torch.cat([pools[-1] for pools in passes]))
    recall.keep_unlabeled(context, spec, record.dtype, found)
    return found.float()


def measure(context: Context, record: SurveyRecord, pooled: Tensor, targets: Tensor, task: Task) -> Gap:
    """Return the gap in the features of a surveyed backbone, and keep features and odds for the trials.

    Args:
        context: of the search.
        record: of a survey that has read all training and validation rows.
        pooled: of unlabeled rows, ``float32`` [N, width].
        targets: encoded, of the training rows.
        task: of the data.

    Raises:
        TrialFailedError: the survey is not whole, or there are too few rows.
    """
    file = context.path(record.features)
    found = head_features(file)
    if found is None:
        raise TrialFailedError("its survey has not read all rows, so the unlabeled rows are compared with nothing")
    train, validation = found
    if min(len(pooled), len(train)) < FEWEST:
        raise TrialFailedError(f"{len(pooled)} unlabeled rows are too few to be compared; wanted {FEWEST} or more")
    groups = context.prepared.train_groups()
    test = two_sample(train, pooled, seed=context.seed, groups=groups)
    odds = test.logits(validation)
    write_atomically({POOLED: compact(pooled), ODDS: odds}, unlabeled_file(context, record.backbone))
    discrepancy, by_chance = mmd(train, pooled, seed=context.seed)
    return Gap(
        backbone=record.backbone,
        rows=len(pooled),
        accuracy=test.accuracy,
        low=test.low,
        high=test.high,
        auc=test.auc,
        p_value=test.p_value,
        mmd=discrepancy,
        mmd_p_value=by_chance,
        effective=effective(importance(odds)),
        validation=len(odds),
        alike=test.share(validation),
        shares=_shares(file, pooled, targets, task),
    )


def _shares(file: Path, pooled: Tensor, targets: Tensor, task: Task) -> dict[str, float]:
    """Return the estimated shares of the classes among unlabeled rows; empty where rows have no one class."""
    head = closed_form_head(file)
    if head is None or not task.classes or targets.ndim != 1:
        return {}
    outputs = pooled @ head.weight.T + head.bias
    counts = targets.bincount(minlength=len(task.classes)) + 0.5  # of a class without training rows too
    found = shares(torch.softmax(outputs.double(), 1), counts)
    return dict(zip(task.classes, found.tolist(), strict=True))
