"""One temperature for a model's logits, so that its answers are right as often as its probabilities say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from autotransfer.protocols import Task, Tasks
from autotransfer.recipes import spec_id
from autotransfer.search.transferability.calibration import Link, fit_sharpness, link_of, negative_log_likelihood
from autotransfer.search.trial import Worker
from autotransfer.train.evaluate import arithmetic, device_of, predict
from autotransfer.train.heads import LinearHead

if TYPE_CHECKING:
    from autotransfer.registry import Registry
    from autotransfer.schema import TrialRecord
    from autotransfer.search.jobs import Context
    from autotransfer.train.network import TransferNetwork

FOLDS = 5
FEWEST = 4 * FOLDS
"""Validation rows below which nothing is fitted to them."""
DRAWS, SURE = 200, 0.9
"""Bootstrap resamples of the rows, and the share of them in which the loss has to fall."""


@dataclass(frozen=True)
class Calibration:
    """What logits are multiplied by, and what it is worth."""

    factor: float
    """1 / temperature."""
    before: float
    """Mean negative log-likelihood of the rows without it."""
    after: float
    """With it, each fifth of the rows by the factor of the other four."""


def best_factor(task: Task, outputs: Tensor, targets: Tensor) -> Calibration | None:
    """Return the temperature of a task's logits (Guo et al. 2017); None where it is not shown to help.

    It is kept only where, fitted on four fifths of the rows, it lowers the loss of the last one, each of them in
    turn, and does so in nine of ten bootstrap resamples of the rows. No answer changes, only how sure it is.

    Args:
        task: whose outputs these are.
        outputs: on rows that were not trained on, ``float32`` [N, K].
        targets: of the same rows, encoded.
    """
    link = link_of(task, targets)
    if link is Link.IDENTITY or len(targets) < FEWEST:
        return None
    logits, wanted = outputs.double()[None].cpu() + link.middle, task.survey_target(targets).cpu()
    kept = torch.arange(len(targets)) % FOLDS
    before = negative_log_likelihood(logits, torch.ones(1), wanted, link)[0]
    after = before.clone()
    for fold in range(FOLDS):
        own, rest = kept == fold, kept != fold
        factor = fit_sharpness(logits[:, rest], wanted[rest], link, torch.ones(1, dtype=torch.float64))
        after[own] = negative_log_likelihood(logits[:, own], factor, wanted[own], link)[0]
    gains, rng = (before - after).numpy(), np.random.default_rng(0)
    draws = (gains[rng.integers(0, len(gains), len(gains))].mean() > 0 for _ in range(DRAWS))
    if gains.mean() <= 0 or sum(draws) < SURE * DRAWS:
        return None
    factor = fit_sharpness(logits, wanted, link, torch.ones(1, dtype=torch.float64))
    return Calibration(float(factor), float(before.mean()), float(after.mean()))


def calibrate(context: Context, registry: Registry, record: TrialRecord, network: TransferNetwork) -> list[str]:
    """Multiply the logits of a trial's network as its validation rows say, in place; return what was done in words.

    A balanced model stays as it is: its probabilities are meant for classes of equal size, which these rows do not
    have. So does a head of neighbours, whose answers are shares.
    """
    head, recipe = network.head, record.recipe
    if not isinstance(head, LinearHead) or recipe.training.balance != "none" or record.shift:
        return []
    worker = Worker(context, registry)
    rows = worker.rows(context.specs[spec_id(recipe)], "validation")
    with arithmetic(recipe.threads, recipe.dtype, device_of(network)):
        outputs = predict(network, rows)
    factors, notes = torch.ones(worker.task.outputs), list[str]()
    for name, place, task, own, targets in _each(worker.task, outputs, rows.targets):
        found = best_factor(task, own, targets)
        if found is not None:
            factors[place] = found.factor
            notes.append(name + _told(found))
    if notes:
        head.rescale(factors)
    return notes


def _each(task: Task, outputs: Tensor, targets: Tensor) -> list[tuple[str, slice, Task, Tensor, Tensor]]:
    """Return name, place, task, outputs and targets of each of several targets, on the rows that have its label."""
    if not isinstance(task, Tasks):
        return [("", slice(None), task, outputs, targets)]
    found = []
    for part in task.parts:
        rows, own = part.labelled(targets)
        found.append((f"{part.target}: ", part.outputs, part.task, outputs[rows][:, part.outputs], own))
    return found


def _told(found: Calibration) -> str:
    way = "softened" if found.factor < 1 else "sharpened"
    return (
        f"its probabilities are {way} (logits times {found.factor:.3g}): log loss {found.before:.4f} on the validation "
        f"rows without, {found.after:.4f} with it, each fifth of them as the others say"
    )
