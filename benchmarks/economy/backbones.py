"""The packs at small inputs, as a plugin file: a pool for each modality, any ``backbones/NAME-SIZE`` by name.

    autotransfer fit data --plugin benchmarks/economy/backbones.py --backbones 'backbones/*'

Real pretrained networks at 96 to 128 pixels, 16 to 64 tokens, 1 to 3 seconds, so that a search of dozens of fine-tunes
ends within an hour on a core.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotransfer.plugin import AudioInput, BackboneSpec, ImageInput, PluginError, TextInput, hookimpl
from autotransfer_packs.cards import CARDS
from autotransfer_packs.text_cards import TEXT_CARDS

NAMES = {
    "lite0": "packs/efficientnet-lite0",
    "lite1": "packs/efficientnet-lite1",
    "mobilenetv2": "packs/mobilenetv2",
    "nsfw": "packs/open-nsfw",
    "dinov2": "packs/dinov2-small-focus",
    "minilm": "packs/minilm-l6",
    "wordllama": "packs/wordllama",
    "whisper": "packs/whisper-tiny-en",
    "dvector": "packs/d-vector",
    "speech": "packs/speech-embedding",
}
POOLS = {
    "image": (
        *("lite0-96", "lite0-128", "lite1-128", "mobilenetv2-96", "mobilenetv2-128"),
        *("nsfw-128", "dinov2-98", "dinov2-126"),
    ),
    "text": ("minilm-16", "minilm-32", "minilm-64", "wordllama-64"),
    "audio": ("dvector-1", "dvector-3", "speech-1", "speech-3", "whisper-1", "whisper-3"),
}
"""What a search chooses from by default, by modality: every pack, most of them at two sizes."""
_PACKS = {card.id: card for card in (*CARDS, *TEXT_CARDS)}
_PATCH, _POSITIONS = 14, 16 * 16
"""Of DINOv2 at its card's 224 pixels: its table of positions shrinks with the input."""


@hookimpl
def autotransfer_backbones() -> list[BackboneSpec]:
    """Return the cards of the default pools."""
    return [card(name) for names in POOLS.values() for name in names]


@hookimpl
def autotransfer_find_backbone(id: str) -> BackboneSpec | None:
    """Return the card of a pack at any size, such as ``backbones/lite0-64``; None for another id."""
    name = id.partition("/")[2]
    found = re.fullmatch(r"([a-z0-9]+)-(\d+)", name)
    return card(name) if found and found[1] in NAMES else None


def card(name: str) -> BackboneSpec:
    """Return the card of ``NAME-SIZE``: pixels of a picture, tokens of a text, seconds of a recording.

    Raises:
        PluginError: the network cannot take this size.
    """
    short, _, written = name.rpartition("-")
    size, whole = int(written), _PACKS[NAMES[short]]
    own = replace(whole, id=f"backbones/{name}", factory="backbones:build", options={"pack": short, "size": size})
    if isinstance(whole.input, TextInput):
        input = replace(whole.input, max_length=size, tokenizer=f"backbones:{short}_tokenizer")
        share = size / whole.input.max_length
        return replace(own, summary=f"{whole.id} on {size} tokens", input=input, macs=round((whole.macs or 0) * share))
    if isinstance(whole.input, AudioInput):
        share = size / whole.input.window
        audio = replace(whole.input, window=float(size))
        return replace(own, summary=f"{whole.id} on {size} s", input=audio, macs=round((whole.macs or 0) * share))
    return _picture_card(own, short, size)


def _picture_card(whole: BackboneSpec, short: str, size: int) -> BackboneSpec:
    if size < 32 or (short == "dinov2" and size % _PATCH):
        raise PluginError(f"{whole.id}: wanted 32 pixels or more, and multiples of {_PATCH} for dinov2")
    assert isinstance(whole.input, ImageInput)
    params = whole.params
    if short == "dinov2" and params is not None and whole.width is not None:
        params -= (_POSITIONS - (size // _PATCH) ** 2) * whole.width
    return replace(
        whole,
        summary=f"{NAMES[short]} at {size} pixels",
        input=replace(whole.input, size=size),
        params=params,
        macs=round((whole.macs or 0) * (size / 224) ** 2),
    )


def minilm_tokenizer(folder: Path | None, *, max_length: int) -> Any:
    """Return the tokenizer of the pack."""
    from autotransfer_packs import text

    return text.minilm_tokenizer(folder, max_length=max_length)


def wordllama_tokenizer(folder: Path | None, *, max_length: int) -> Any:
    """Return the tokenizer of the pack."""
    from autotransfer_packs import text

    return text.wordllama_tokenizer(folder, max_length=max_length)


def static(ids: Sequence[str]) -> str:
    """Return the backbone that one would take without looking at the data: most parameters, then most work."""
    cards = [card(id.partition("/")[2]) for id in ids]
    return max(cards, key=lambda c: (c.params or 0, c.macs or 0)).id


def build(weights: Path | None, pack: str, size: int) -> Any:
    """Return a pack's network for this input size."""
    module, _, name = _PACKS[NAMES[pack]].factory.rpartition(":")
    function = getattr(importlib.import_module(module), name)
    return function(weights, size=size) if pack == "dinov2" else function(weights)
