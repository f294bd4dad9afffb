"""One recipe to train, with everything it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from autotransfer.recipes import stream_key
from autotransfer.strategy import HeadState, Strategy
from autotransfer.train.evaluate import nothing
from autotransfer.train.network import TransferNetwork
from autotransfer.train.sharing import losses_of
from autotransfer.train.stages import Stages

if TYPE_CHECKING:
    from autotransfer.protocols import Rows, Task
    from autotransfer.schema import Phase, Recipe, Training
    from autotransfer.train.balance import Loss
    from autotransfer.train.prefixes import Prefixes


@dataclass
class Job:
    """One recipe to train, with everything it needs."""

    network: TransferNetwork
    stages: Stages
    task: Task
    strategy: Strategy
    phases: Sequence[Phase]
    recipe: Recipe
    train: Rows
    validation: Rows | None
    """None: nothing is evaluated and the last weights count (refit)."""
    pooled: tuple[Tensor, Tensor] | None = None
    """What the head sees of train and validation rows before the backbone is trained, where it is stored."""
    start: HeadState | None = None
    """The survey's closed-form head on the pretrained backbone's raw pooled output: a head start; None: cold."""
    prefixes: Prefixes | None = None
    """Where activations at cuts are kept; None: the whole network is run."""
    unlabeled: Rows | None = None
    """Rows without labels, where some were given."""
    pooled_unlabeled: Tensor | None = None
    """What the head sees of (the first of) them before the backbone is trained, where it is stored."""
    tick: Callable[[], None] = nothing
    deadline: float = float("inf")
    """``time.time()`` seconds; looked at after every batch."""

    @cached_property
    def stream(self) -> str:
        """Names its random numbers, beside the recipe's seed."""
        return stream_key(self.recipe)

    @cached_property
    def losses(self) -> tuple[Loss, ...]:
        """What is trained on beside a strategy's own term, of several targets one for each."""
        return losses_of(self.task, self.training, self.train.targets)

    @property
    def training(self) -> Training:
        """The loop's settings."""
        return self.recipe.training
