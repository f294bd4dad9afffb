"""Values of a recipe that core itself reads, whatever the strategy."""

from __future__ import annotations

from autotransfer.schema import Recipe
from autotransfer.spec import sized_id

INPUT_SIZE = "input_size"
"""Pixels of the input's side; absent: what the backbone's card says."""


def input_size(recipe: Recipe) -> int | None:
    """Return the input size that a recipe names; None: its backbone's card decides."""
    size = recipe.values.get(INPUT_SIZE)
    return size if isinstance(size, int) else None


def spec_id(recipe: Recipe) -> str:
    """Return the id under which a run keeps the recipe's backbone: the same network at two sizes is two there."""
    size = input_size(recipe)
    return recipe.backbone if size is None else sized_id(recipe.backbone, size)
