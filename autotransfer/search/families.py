"""Families of heads: recipes that differ in their head's values alone share one backbone, one pass and one product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from autotransfer.profiles import Profile
from autotransfer.schema import Phase, Recipe, TrialRecord
from autotransfer.search.balancing import shifted
from autotransfer.search.candidates import HEAD_START
from autotransfer.search.criterion import plain
from autotransfer.search.jobs import RungJob
from autotransfer.search.judging import with_loss
from autotransfer.strategy import HeadState
from autotransfer.tasks.judged import deciding, scores_of
from autotransfer.train import checkpoint
from autotransfer.train.fused import FusedHead, HeadSetting, fit_heads
from autotransfer.train.sharing import evened_heads

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from autotransfer.protocols import Task


def train_family(
    job: RungJob,
    phases: Sequence[Phase],
    task: Task,
    profile: Profile,
    features: tuple[Tensor, Tensor],
    targets: tuple[Tensor, Tensor],
    start: HeadState | None,
    folder: Path,
    tick: Callable[[], None],
) -> TrialRecord:
    """Train all heads of a job, keep the best one as its checkpoint and return the record of that one.

    Where the job's deadline comes first, the heads are as good as they are by then.

    Args:
        job: with its rivals.
        phases: the one phase of each head's recipe, those of the rivals after the job's own.
        task: of the data.
        profile: of the data.
        features: pooled output of the frozen backbone on train and validation rows, ``float32`` [N, width].
        targets: of the same rows.
        start: the survey's closed-form head, for recipes with a head start.
        folder: of the checkpoint.
        tick: called before each step.
    """
    recipes = [job.recipe, *job.rivals]
    training = job.recipe.training
    heads = fit_heads(
        features[0],
        targets[0],
        features[1],
        targets[1],
        [_setting(r, p.lr, start, task, targets[0]) for r, p in zip(recipes, phases, strict=True)],
        task,
        epochs=max(1, round(phases[0].epochs)),
        batch_size=training.batch_size,
        warmup=training.warmup,
        seed=job.recipe.seed,
        judge=partial(deciding, task),
        tick=tick,
        deadline=job.deadline,
    )
    at = _leading(recipes, heads, task, features[1], targets, plain(profile).slack)
    best = heads[at]
    checkpoint.save_head(best.state, folder)
    outputs = _outputs(best, features[1])
    record = _record(job, recipes[at], best, phases[0].epochs, scores_of(task, outputs, targets[1]))
    record = shifted(replace(record, checkpoint=folder.name), task, outputs, targets[1], targets[0])
    return with_loss(record, task, outputs, targets[1], targets[0])


def _leading(
    recipes: Sequence[Recipe],
    heads: Sequence[FusedHead],
    task: Task,
    features: Tensor,
    targets: tuple[Tensor, Tensor],
    slack: Callable[[float], float],
) -> int:
    """Return which head is kept, by the rule that decides among trials (``board.Board.leading``).

    The best score of many heads on few rows is above all the luckiest: of 18 heads on 40 rows the least loss among
    those within one standard error of it was .5 points better on other rows (mean of twelve cells;
    benchmarks/families.py).
    """
    order = sorted(range(len(heads)), key=lambda k: (-heads[k].objective, k))
    least = heads[order[0]].objective - slack(heads[order[0]].objective)
    alike = [k for k in order if heads[k].objective >= least]
    if len(alike) == 1 or least == float("-inf"):
        return order[0]
    empty = [TrialRecord(id="", recipe=recipes[k], status="done") for k in alike]
    told = [with_loss(e, task, _outputs(heads[k], features), *targets[::-1]) for e, k in zip(empty, alike, strict=True)]
    losses = {k: t.calibrated_loss for k, t in zip(alike, told, strict=True) if t.calibrated_loss is not None}
    return min(losses, key=lambda k: losses[k]) if order[0] in losses else order[0]


def _outputs(head: FusedHead, features: Tensor) -> Tensor:
    return features @ head.state.weight.T + head.state.bias


def _record(
    job: RungJob, recipe: Recipe, best: FusedHead, epochs: float, scores: dict[str, dict[str, float]]
) -> TrialRecord:
    whole = best.epochs >= max(1, round(epochs))
    return TrialRecord(
        id=job.id,
        recipe=recipe,
        status="done" if whole else "stopped",
        reason="" if whole else "the budget ended",
        rung=job.rung,
        epochs=epochs if whole else best.epochs,
        best_epoch=best.best_epoch,
        scores=scores,
        objective=best.objective,
        curve=best.curve,
        notes=(f"the best of {1 + len(job.rivals)} heads that were trained together",),
    )


def _setting(recipe: Recipe, lr: float, start: HeadState | None, task: Task, targets: Tensor) -> HeadSetting:
    training, warm = recipe.training, recipe.values.get(HEAD_START)
    return HeadSetting(
        lr=lr,
        weight_decay=training.weight_decay,
        dropout=training.dropout,
        label_smoothing=training.label_smoothing,
        balance=training.balance,
        start=evened_heads(start, task, targets, training.balance) if start is not None and warm else None,
    )
