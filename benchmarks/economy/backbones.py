"""The packs at small inputs, as a plugin file: eight cards by default, any ``backbones/NAME-PIXELS`` by name.

    autotransfer fit data --plugin benchmarks/economy/backbones.py --backbones 'backbones/*'

Real pretrained networks at 96 to 128 pixels, so that a search of dozens of fine-tunes ends within an hour on a core.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotransfer.plugin import BackboneSpec, ImageInput, PluginError, hookimpl
from autotransfer_packs.cards import CARDS

NAMES = {
    "lite0": "packs/efficientnet-lite0",
    "lite1": "packs/efficientnet-lite1",
    "mobilenetv2": "packs/mobilenetv2",
    "nsfw": "packs/open-nsfw",
    "dinov2": "packs/dinov2-small-focus",
}
POOL = (
    "lite0-96",
    "lite0-128",
    "lite1-128",
    "mobilenetv2-96",
    "mobilenetv2-128",
    "nsfw-128",
    "dinov2-98",
    "dinov2-126",
)
"""What a search chooses from by default: every pack, three of them at two sizes."""
_PACKS = {card.id: card for card in CARDS}
_PATCH, _POSITIONS = 14, 16 * 16
"""Of DINOv2 at its card's 224 pixels: its table of positions shrinks with the input."""


@hookimpl
def autotransfer_backbones() -> list[BackboneSpec]:
    """Return the eight cards of the default pool."""
    return [card(name) for name in POOL]


@hookimpl
def autotransfer_find_backbone(id: str) -> BackboneSpec | None:
    """Return the card of a pack at any size, such as ``backbones/lite0-64``; None for another id."""
    name = id.partition("/")[2]
    found = re.fullmatch(r"([a-z0-9]+)-(\d+)", name)
    return card(name) if found and found[1] in NAMES else None


def card(name: str) -> BackboneSpec:
    """Return the card of ``NAME-PIXELS``.

    Raises:
        PluginError: the network cannot take this size.
    """
    short, _, pixels = name.rpartition("-")
    size, whole = int(pixels), _PACKS[NAMES[short]]
    if size < 32 or (short == "dinov2" and size % _PATCH):
        raise PluginError(f"{name}: wanted 32 pixels or more, and multiples of {_PATCH} for dinov2")
    assert isinstance(whole.input, ImageInput)
    params = whole.params
    if short == "dinov2" and params is not None and whole.width is not None:
        params -= (_POSITIONS - (size // _PATCH) ** 2) * whole.width
    return replace(
        whole,
        id=f"backbones/{name}",
        factory="backbones:build",
        options={"pack": short, "size": size},
        summary=f"{whole.id} at {size} pixels",
        input=replace(whole.input, size=size),
        params=params,
        macs=round((whole.macs or 0) * (size / 224) ** 2),
    )


def static(ids: Sequence[str]) -> str:
    """Return the backbone that one would take without looking at the data: most parameters, then most work."""
    cards = [card(id.partition("/")[2]) for id in ids]
    return max(cards, key=lambda c: (c.params or 0, c.macs or 0)).id


def build(weights: Path | None, pack: str, size: int) -> Any:
    """Return a pack's network for this input size."""
    from autotransfer_packs import build as packs

    function = getattr(packs, _PACKS[NAMES[pack]].factory.rpartition(":")[2])
    return function(weights, size=size) if pack == "dinov2" else function(weights)
