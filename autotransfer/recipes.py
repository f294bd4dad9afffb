"""Values of a recipe that core itself reads, whatever the strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from autotransfer.codec import Scalar
from autotransfer.schema import Phase, Recipe
from autotransfer.spec import sized_id

INPUT_SIZE = "input_size"
"""Pixels of the input's side; absent: what the backbone's card says."""
MEASURED = "measured"
"""Arithmetic of a recipe not yet run: whichever its first worker measures to be faster; its record says which."""
AUGMENT, AUGMENT_FROM = "augment", "augment_from"
"""One of ``schema.AUGMENTATIONS`` (absent: none), and passes over the training rows before it begins (absent: 0)."""

TASK_WEIGHTS, EQUAL, UNCERTAINTY = "task_weights", "equal", "uncertainty"
"""Of several targets: how their losses are weighed where they train a part of the backbone together."""
COMBINE, SUM, PCGRAD = "combine", "sum", "pcgrad"
"""Of several targets: what becomes of their gradients; absent: the sum."""
TOGETHER: Mapping[str, tuple[str, ...]] = {TASK_WEIGHTS: (EQUAL, UNCERTAINTY), COMBINE: (SUM, PCGRAD)}
"""Both, with what each may be; they have a meaning only where several targets train a part of a backbone."""
ONLY = "only_target"
"""Name of the one target of several that a recipe is trained for; absent: all of them."""


def input_size(recipe: Recipe) -> int | None:
    """Return the input size that a recipe names; None: its backbone's card decides."""
    size = recipe.values.get(INPUT_SIZE)
    return size if isinstance(size, int) else None


def spec_id(recipe: Recipe) -> str:
    """Return the id under which a run keeps the recipe's backbone: the same network at two sizes is two there."""
    size = input_size(recipe)
    return recipe.backbone if size is None else sized_id(recipe.backbone, size)


def stream_key(recipe: Recipe) -> str:
    """Return what names the random numbers of a training: the recipe's key, its augmentation left out.

    Two recipes that differ in augmentation alone are one training up to the epoch where it begins, so that one may
    go on from the checkpoint of the other and is still what training it from its own start would give.
    """
    if AUGMENT not in recipe.values and AUGMENT_FROM not in recipe.values:
        return recipe.key
    return replace(recipe, values={n: v for n, v in recipe.values.items() if n not in (AUGMENT, AUGMENT_FROM)}).key


def augmented(phases: Sequence[Phase], values: Mapping[str, Scalar], stages: int) -> list[Phase]:
    """Return the phases as a recipe's values augment them.

    Phases that train no part of the backbone stay as they are (their features are stored), and so does one whose
    strategy has its own augmentation.

    Args:
        phases: the strategy's.
        values: the recipe's.
        stages: of the backbone.
    """
    kind, begin = values.get(AUGMENT, "none"), values.get(AUGMENT_FROM, 0)
    begin = float(begin) if isinstance(begin, (int, float)) else 0.0
    found, at = [], 0.0
    for phase in phases:
        late = max(0.0, begin - at)
        frozen = phase.stages == () or (phase.freeze is not None and phase.freeze >= stages)
        plain = kind == "none" or phase.augment != "none" or frozen or late >= phase.epochs
        found.append(phase if plain else replace(phase, augment=str(kind), augment_from=late))
        at += phase.epochs
    return found
