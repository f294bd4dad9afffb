"""After the search: the winner's network, its last training where asked, and the held-out score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from autotransfer.protocols import FittedState
from autotransfer.recipes import spec_id
from autotransfer.registry import Registry
from autotransfer.schema import Evaluation, Recipe, TrialRecord
from autotransfer.search.jobs import Context
from autotransfer.search.trial import Worker, build_network, fitted_state
from autotransfer.spec import BackboneSpec
from autotransfer.tasks.judged import evaluation
from autotransfer.train import checkpoint
from autotransfer.train.evaluate import arithmetic, device_of, predict

if TYPE_CHECKING:
    from autotransfer.search.policy import Search
    from autotransfer.train.network import TransferNetwork


def winning_network(
    context: Context, registry: Registry, record: TrialRecord, *, refit: bool = False
) -> tuple[TransferNetwork, FittedState | None]:
    """Return a trial's network with its best weights, and the state of a fitted backbone.

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
            return trainer.job.network.eval(), state
        backbone = worker.backbone(spec)
        if spec.fitted:
            state = fitted_state(context, spec, backbone, None)
        strategy = registry.strategy(recipe.strategy)
        train = worker.rows(spec, "train")
        network, _ = build_network(backbone, spec, strategy, recipe, worker.task, train)
        tensors = checkpoint.best_tensors(context.path(record.checkpoint))
        network.load_state_dict({**network.state_dict(), **tensors})
        return network.eval(), state


def evaluated(
    context: Context, registry: Registry, spec: BackboneSpec, network: TransferNetwork, recipe: Recipe
) -> Evaluation:
    """Return the scores of a network on the held-out rows, with a 95 % interval of the deciding metric."""
    task, rows = context.prepared.task, Worker(context, registry).rows(spec, "test")
    with arithmetic(recipe.threads, recipe.dtype, device_of(network)):
        outputs = predict(network, rows)
    return evaluation(task, outputs, rows.targets, context.seed)


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
    return evaluated(search.context, registry, search.context.specs[spec_id(best.recipe)], network, best.recipe)
