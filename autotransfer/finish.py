"""After the search: the winner's network, its last training where asked, and the held-out score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from autotransfer.calibration import calibrate
from autotransfer.protocols import FittedState
from autotransfer.recipes import spec_id
from autotransfer.registry import Registry
from autotransfer.report.judged import HeldOut
from autotransfer.schema import Evaluation, Recipe, TrialRecord
from autotransfer.search.candidates import HEAD_START
from autotransfer.search.fitted import fitted_state
from autotransfer.search.jobs import Context
from autotransfer.search.survey import LAST_ROWS
from autotransfer.search.transferability import judge
from autotransfer.search.trial import Worker, build_network
from autotransfer.spec import BackboneSpec
from autotransfer.strategy import HeadState, overrides
from autotransfer.tasks.judged import evaluation
from autotransfer.train import checkpoint
from autotransfer.train.autocast import exact
from autotransfer.train.evaluate import arithmetic, device_of, predict
from autotransfer.train.heads import LinearHead
from autotransfer.train.neighbours import with_tensors
from autotransfer.train.sharing import evened_heads

if TYPE_CHECKING:
    from autotransfer.protocols import Task
    from autotransfer.search.policy import Search
    from autotransfer.train.loop import Trainer
    from autotransfer.train.network import TransferNetwork

TRAINED_AGAIN = (
    "trained again on training and validation rows together, to the epoch that was best; what needs validation rows "
    "(calibration, a way back towards the pretrained weights, a soup) was left out, though its trial's score may have "
    "had it"
)


def winning_network(
    context: Context, registry: Registry, record: TrialRecord, *, refit: bool = False
) -> tuple[TransferNetwork, FittedState | None]:
    """Return a trial's network with its best weights and shifted logits, and the state of a fitted backbone.

    Args:
        context: of the search.
        registry: that knows the backbone and the strategy.
        record: of the trial.
        refit: train the recipe again on training and validation rows together, to the epoch that was best, from
            such a start as the trial had.
    """
    worker, recipe = Worker(context, registry), record.recipe
    spec = context.specs[spec_id(recipe)]
    with arithmetic(recipe.threads, recipe.dtype, worker.device):
        state = None
        if refit and not spec.fitted:
            return _shifted(_trained_again(worker, record, spec), record).eval(), state
        backbone = worker.backbone(spec)
        if spec.fitted:
            state = fitted_state(context, spec, backbone, None)
        strategy = registry.strategy(recipe.strategy)
        train = worker.rows(spec, "train")
        network, _ = build_network(backbone, spec, strategy, recipe, worker.task, train)
        tensors = checkpoint.best_tensors(context.path(record.checkpoint))
        network.head = with_tensors(network.head, tensors)
        network.load_state_dict({**network.state_dict(), **tensors})
        return _shifted(network, record).eval(), state


def _trained_again(worker: Worker, record: TrialRecord, spec: BackboneSpec) -> TransferNetwork:
    """Return a trial's recipe trained on training and validation rows together, to the epoch that was best.

    That epoch was counted from the trial's own start, over all of its phases: 0 is the start itself.
    """
    prepared, recipe = worker.context.prepared, record.recipe
    both = worker.prepared(np.concatenate([prepared.train, prepared.validation]), spec)
    trainer = worker.trainer(recipe, None, rows=(both, None))
    head, strategy = trainer.job.network.head, trainer.job.strategy
    own = trainer.job.network.adapted or strategy.depths or overrides(strategy, "head")
    if recipe.values.get(HEAD_START) and not own and isinstance(head, LinearHead):
        head.begin(_head_start(trainer, worker.task))
    trainer.run(record.best_epoch)
    if trainer.average:  # nothing was evaluated, so that its weights are still the last step's
        trainer.load(trainer.average)
    trainer.finish()
    return trainer.job.network


def _head_start(trainer: Trainer, task: Task) -> HeadState:
    """Return the closed-form head of the survey, of as many rows at most, spread over all that are trained on."""
    rows = trainer.job.train
    some = torch.linspace(0, len(rows) - 1, min(len(rows), LAST_ROWS), dtype=torch.float64).round().long()
    groups: torch.Tensor | None = getattr(rows, "groups", None)
    with exact():
        targets = rows.targets[some]
        found = judge(trainer.pooled()[0][some], targets, task, None if groups is None else groups[some])
    return evened_heads(found.head, task, rows.targets, trainer.job.training.balance)


def _shifted(network: TransferNetwork, record: TrialRecord) -> TransferNetwork:
    """Return a network with the shift of its trial's logits in its head's bias: a plain network like any other."""
    if record.shift:
        with torch.no_grad():
            network.head.offset.add_(torch.tensor(record.shift).to(network.head.offset))
    return network


def answered(
    context: Context, registry: Registry, spec: BackboneSpec, network: TransferNetwork, recipe: Recipe
) -> HeldOut:
    """Return the held-out rows with a network's answers on them."""
    prepared, rows = context.prepared, Worker(context, registry).rows(spec, "test")
    with arithmetic(recipe.threads, recipe.dtype, device_of(network)):
        outputs = predict(network, rows)
    return HeldOut(prepared.task, prepared.dataset, prepared.test, outputs, rows.targets)


def scored(held: HeldOut, seed: int) -> Evaluation:
    """Return the scores of answers on held-out rows, with 95 % intervals of the deciding metrics."""
    return evaluation(held.task, held.outputs, held.targets, seed)


def evaluated(
    context: Context, registry: Registry, spec: BackboneSpec, network: TransferNetwork, recipe: Recipe
) -> Evaluation:
    """Return the scores of a network on the held-out rows."""
    return scored(answered(context, registry, spec, network, recipe), context.seed)


def baseline_evaluation(
    search: Search, registry: Registry, leader: TrialRecord, of_leader: Evaluation
) -> Evaluation | None:
    """Return the held-out scores of the best baseline on validation; None where no baseline was run."""
    fixed = [
        r
        for r in search.records.values()
        if r.objective is not None and not search.context.specs[spec_id(r.recipe)].transfer
    ]
    if not fixed:
        return None
    best = max(fixed, key=lambda r: (r.objective, r.id))
    if best.id == leader.id:
        return of_leader
    network, _ = winning_network(search.context, registry, best)
    calibrate(search.context, registry, best, network)
    return evaluated(search.context, registry, search.context.specs[spec_id(best.recipe)], network, best.recipe)
