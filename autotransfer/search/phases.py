"""The phases of a recipe, and what they do to the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from autotransfer.profiles import Profile
from autotransfer.recipes import augmented, spec_id
from autotransfer.registry import Registry
from autotransfer.schema import Phase, Recipe
from autotransfer.search.jobs import Context
from autotransfer.spec import BackboneSpec
from autotransfer.strategy import Strategy, overrides


def is_family(strategy: Strategy, phases: Sequence[Phase], stages: int) -> bool:
    """Return whether recipes of a strategy are heads on one frozen output, told apart by rates and regularisers."""
    doors = ("head", "adapt", "objective", "combine", "finish")
    frozen = len(phases) == 1 and phases[0].freeze is not None and phases[0].freeze >= stages
    plain = frozen and phases[0].sampler == "shuffle" and phases[0].augment == "none" and not phases[0].averaging
    return plain and not strategy.depths and not any(overrides(strategy, door) for door in doors)


def trains(phase: Phase, stages: int) -> bool:
    """Return whether a phase moves any part of a backbone of so many stages."""
    frozen = phase.stages == () or (phase.freeze is not None and phase.freeze >= stages)
    return phase.epochs > 0 and not frozen


def values_of(recipe: Recipe) -> dict[str, Any]:
    """Return the values as phases see them, ``freeze`` among them."""
    return {**recipe.values, "freeze": recipe.freeze} if recipe.freeze is not None else dict(recipe.values)


def recipe_phases(strategy: Strategy, profile: Profile, spec: BackboneSpec, recipe: Recipe) -> list[Phase]:
    """Return the phases of a strategy as a recipe's values have them; ``spec`` is the backbone with its stages."""
    return augmented(strategy.phases(profile, spec, values_of(recipe)), recipe.values, len(spec.stages))


def phases_of(registry: Registry, context: Context, profile: Profile, recipe: Recipe) -> list[Phase]:
    """Return the phases of a recipe on its backbone."""
    spec = replace(context.specs[spec_id(recipe)], stages=recipe.stages)
    return recipe_phases(registry.strategy(recipe.strategy), profile, spec, recipe)
