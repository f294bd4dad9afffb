"""What recipes cost, rung by rung: the phases of their strategies, priced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotransfer.profiles import Profile
from autotransfer.recipes import COMBINE, ONLY, PCGRAD, spec_id
from autotransfer.schema import Phase, Recipe, TrialRecord
from autotransfer.search.candidates import FAMILY
from autotransfer.search.costs import EPOCHS, Costs
from autotransfer.search.phases import is_family, phases_of
from autotransfer.strategy import overrides

if TYPE_CHECKING:
    from autotransfer.registry import Registry
    from autotransfer.search.board import Trial
    from autotransfer.search.jobs import Context
    from autotransfer.strategy import Strategy

RUNGS = (2, 5, EPOCHS)
"""Epochs at which recipes that move the backbone are compared, counted from the first that moves it."""
LEAST_STEPS = 80
"""Steps before the first comparison: after fewer a fine-tune that will be good stands no better than its own head
(benchmarks/README.md, Strategies)."""


@dataclass
class Prices:
    """Prices the recipes of one search."""

    context: Context
    profile: Profile
    registry: Registry
    costs: Costs
    judged: int = 0
    """Rows without labels that each recipe answers to be compared."""

    def phases(self, recipe: Recipe) -> list[Phase]:
        """Return the phases of a recipe."""
        return phases_of(self.registry, self.context, self.profile, recipe)

    def phases_if_known(self, recipe: Recipe) -> list[Phase] | None:
        """Return the same for a recipe of an earlier run too; None where they cannot be had here."""
        try:
            return self.phases(recipe)
        except Exception:  # backbone or strategy may be gone, or a plugin know these values no longer
            return None

    def moves(self, recipe: Recipe) -> bool:
        """Return whether a recipe trains a part of its backbone."""
        return self.costs.moves(spec_id(recipe), self.phases(recipe))

    def rungs(self, recipe: Recipe) -> tuple[int | None, ...]:
        """Return the epochs at which a recipe is compared; None is the end.

        With few rows the first rung is left out: there its epochs are too few steps to tell recipes apart.
        """
        id, phases = spec_id(recipe), self.phases(recipe)
        if not self.costs.moves(id, phases):
            return (None,)
        alone, total = self.costs.alone(id, phases), sum(p.epochs for p in phases)
        per_epoch = self.profile.train / recipe.training.batch_size
        early = [r for r in RUNGS[:-2] if r * per_epoch >= LEAST_STEPS]
        return (*(alone + r for r in (*early, RUNGS[-2]) if alone + r < total), None)

    def first(self, recipe: Recipe) -> float:
        """Return the predicted cost until a recipe has its first score."""
        phases, rungs = self.phases(recipe), self.rungs(recipe)
        return self._whole(recipe, phases, 0, rungs[0], self.costs.moves(spec_id(recipe), phases))

    def weighed(self, recipe: Recipe) -> float:
        """Return the cost that a recipe's promise is weighed against: that of its first rung.

        Where later phases train more than the first ones, as in gradual unfreezing, it is that rung's share of the
        whole: else they would seem cheap for what they promise.
        """
        begins, alone = self.rungs(recipe)[0], self.costs.alone(spec_id(recipe), self.phases(recipe))
        share = 1.0 if begins is None else (begins - alone) / EPOCHS
        return max(self.first(recipe), self.end(recipe, 0.0) * share)

    def rest(self, trial: Trial) -> float:
        """Return the predicted cost of a trial's next rung."""
        start = trial.rungs[trial.done - 1] if trial.done else 0
        return self._whole(trial.candidate.recipe, trial.phases, start or 0, trial.rungs[trial.done], trial.moves)

    def end(self, recipe: Recipe, start: float) -> float:
        """Return the predicted cost of a recipe from epoch ``start`` to its end."""
        return self._training(recipe, self.phases(recipe), start, None)

    def learn_heads(self, trial: Trial, record: TrialRecord) -> None:
        """Let the cost model know how long heads took that were trained together."""
        rivals, batch_size = trial.candidate.rivals, record.recipe.training.batch_size
        if rivals and record.status in ("done", "stopped"):
            self.costs.learn_heads(trial.backbone, record.epochs, batch_size, 1 + len(rivals), record.seconds)

    def passed(self, trial: Trial) -> None:
        """Note that a trial has run: activations at its cuts are stored from here on."""
        self.costs.passed(trial.backbone, trial.phases, self._strategy(trial.candidate.recipe))

    def _whole(self, recipe: Recipe, phases: Sequence[Phase], start: float, stop: float | None, moves: bool) -> float:
        """Return the cost of a rung; heads need the rest of the survey too."""
        id = spec_id(recipe)
        cost = self._training(recipe, phases, start, stop) + self.judged * self.costs.row(id)
        if moves:
            return cost
        rest = self.costs.remaining(id) + self.costs.adapting(id, self._strategy(recipe))
        return cost + rest + self._heads(recipe, phases)

    def _heads(self, recipe: Recipe, phases: Sequence[Phase]) -> float:
        """Return the cost of the heads that a recipe is trained with; its rivals may not be drawn yet."""
        if not is_family(self._strategy(recipe), phases, len(recipe.stages)):
            return 0.0
        return self.costs.heads(spec_id(recipe), phases[0].epochs, recipe.training.batch_size, FAMILY)

    def backwards(self, recipe: Recipe) -> int:
        """Return the backward passes of one step: of several targets one each, where their gradients are combined."""
        apart = recipe.values.get(COMBINE) == PCGRAD or overrides(self._strategy(recipe), "combine")
        targets = 1 if ONLY in recipe.values else len(self.profile.each)
        return max(1, targets) if apart else 1

    def _training(self, recipe: Recipe, phases: Sequence[Phase], start: float, stop: float | None) -> float:
        strategy, backwards = self._strategy(recipe), self.backwards(recipe)
        return self.costs.training(spec_id(recipe), phases, start, stop, strategy, backwards)

    def _strategy(self, recipe: Recipe) -> Strategy:
        return self.registry.strategy(recipe.strategy)
