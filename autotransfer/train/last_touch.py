"""A strategy's last touch on what was trained: kept where the validation objective does not fall, else undone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from autotransfer.errors import TrialFailedError
from autotransfer.strategy import FinishContext, Strategy, overrides

if TYPE_CHECKING:
    from autotransfer.train.loop import Trainer


class _TimeIsUp(TrialFailedError):
    """The budget ended during the last touch."""


def stays(strategy: Strategy) -> bool:
    """Return whether a last touch is kept whatever labelled rows say: they are from where it does not aim."""
    return strategy.unlabeled


def takes_snapshots(strategy: Strategy) -> bool:
    """Return whether a last touch chooses among the best weights so far."""
    return overrides(strategy, "finish") and strategy.snapshots > 0


def remember(trainer: Trainer) -> None:
    """Keep the best weights, which were just found, for the last touch: as many as the strategy asks for."""
    if takes_snapshots(trainer.job.strategy):
        trainer.snapshots = [*trainer.snapshots, trainer.best_state][-trainer.job.strategy.snapshots :]


def _context(trainer: Trainer, evaluate: Callable[[], float]) -> FinishContext:
    initial = {n: t.detach().clone() for n, t in trainer.initial.items()}
    return FinishContext(
        module=trainer.job.network,
        initial=initial,
        snapshots=[{**initial, **s} for s in trainer.snapshots],  # some tensors were first trained later
        evaluate=evaluate,
        unlabeled=trainer.job.unlabeled,
    )


def touch(trainer: Trainer, before: float | None) -> float | None:
    """Let the strategy change the network in place, and return the validation objective from here on.

    Stored activations are used on as long as no tensor before their cut is another one, and what is as it was at first
    is not evaluated again.

    Args:
        trainer: at its best weights.
        before: their validation objective; None: there are no validation rows, and the touch is one that stays.
    """
    job, network = trainer.job, trainer.job.network
    kept = {n: t.detach().clone() for n, t in network.state_dict().items()}

    def changed() -> set[str]:
        return {n for n, t in network.state_dict().items() if not torch.equal(t, kept[n])}

    def evaluate() -> float:
        names = changed()
        if before is None:
            return float("nan")
        if not names:
            return before
        if time.time() > job.deadline:
            raise _TimeIsUp("the budget ended before it was done")
        trainer.outdate(names)
        return trainer.objective()

    pristine = trainer.pristine
    try:
        job.strategy.finish(_context(trainer, evaluate))
        after = evaluate()
        why = "" if before is None else f"{after:.4f} against {before:.4f} before it"
    except _TimeIsUp as error:
        after, why = float("-inf"), str(error)
    if before is None or (stays(job.strategy) and after > float("-inf")):
        trainer.outdate(changed())
        trainer.touched |= changed()
        return None if before is None else after
    if not after >= before:
        trainer.load(kept)
        trainer.pristine = pristine
        trainer.notes.append(f"the strategy's last touch was undone: {why}")
        return before
    if after > before:
        trainer.notes.append(f"the strategy's last touch raised the objective from {before:.4f} to {after:.4f}")
    trainer.touched |= changed()
    return after
