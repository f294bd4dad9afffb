"""A strategy's last touch on what was trained: kept where the validation objective does not fall, else undone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from autotransfer.errors import TrialFailedError
from autotransfer.protocols import FinishContext

if TYPE_CHECKING:
    from autotransfer.train.loop import Trainer


class _TimeIsUp(TrialFailedError):
    """The budget ended during the last touch."""


def touch(trainer: Trainer, before: float) -> float:
    """Let the strategy change the network in place, and return the validation objective from here on.

    Stored activations are used on as long as no tensor before their cut is another one, and what is as it was at first
    is not evaluated again.

    Args:
        trainer: at its best weights.
        before: their validation objective.
    """
    job, network = trainer.job, trainer.job.network
    kept = {n: t.detach().clone() for n, t in network.state_dict().items()}

    def changed() -> set[str]:
        return {n for n, t in network.state_dict().items() if not torch.equal(t, kept[n])}

    def evaluate() -> float:
        names = changed()
        if not names:
            return before
        if time.time() > job.deadline:
            raise _TimeIsUp("the budget ended before it was done")
        trainer.outdate(names)
        return trainer.objective()

    initial = {n: t.detach().clone() for n, t in trainer.initial.items()}
    snapshots = [{**initial, **snapshot} for snapshot in trainer.snapshots]  # some tensors were first trained later
    context = FinishContext(module=network, initial=initial, snapshots=snapshots, evaluate=evaluate)
    pristine = trainer.pristine
    try:
        job.strategy.finish(context)
        after = evaluate()
        why = f"{after:.4f} against {before:.4f} before it"
    except _TimeIsUp as error:
        after, why = float("-inf"), str(error)
    if not after >= before:
        trainer.load(kept)
        trainer.pristine = pristine
        trainer.notes.append(f"the strategy's last touch was undone: {why}")
        return before
    if after > before:
        trainer.notes.append(f"the strategy's last touch raised the objective from {before:.4f} to {after:.4f}")
    trainer.touched |= changed()
    return after
