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
from autotransfer.search.fitted import fitted_state
from autotransfer.search.jobs import Context
from autotransfer.search.trial import Worker, build_network
from autotransfer.spec import BackboneSpec
from autotransfer.tasks.judged import evaluation
from autotransfer.train import checkpoint
from autotransfer.train.evaluate import arithmetic, device_of, predict
from autotransfer.train.neighbours import with_tensors

if TYPE_CHECKING:
    from autotransfer.search.policy import Search
    from autotransfer.train.network import TransferNetwork


def winning_network(
    context: Context, registry: Registry, record: TrialRecord, *, refit: bool = False
) -> tuple[TransferNetwork, FittedState | None]:
    """Return a trial's network with its best weights and shifted logits, and the state of a fitted backbone.

    Args:
        context: of the search.
        registry: that knows the backbone and the strategy.
        record: of the trial.
        refit: train the recipe again on training and validation rows together, to the epoch that was best.
    """
    worker, recipe = Worker(context, registry), record.recipe
    spec = context.specs[spec_id(recipe)]
    with arithmetic(recipe.threads, recipe.dtype, worker.device):
        state = None
        if refit and not spec.fitted:
            prepared = context.prepared
            both = np.concatenate([prepared.train, prepared.validation])
            trainer = worker.trainer(recipe, None, rows=(worker.prepared(both, spec), None))
            trainer.run(round(record.best_epoch) or None)
            trainer.finish()
            return _shifted(trainer.job.network, record).eval(), state
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
