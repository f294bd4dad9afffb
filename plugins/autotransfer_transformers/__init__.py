"""Backbones of Hugging Face transformers: curated cards, and any id or folder as ``transformers/NAME_OR_PATH``."""

from __future__ import annotations

from collections.abc import Mapping

from autotransfer.plugin import BackboneSpec, Scalar, hookimpl, mend_torchvision
from autotransfer_transformers.audio_cards import AUDIO_CARDS
from autotransfer_transformers.text_cards import TEXT_CARDS


@hookimpl
def autotransfer_backbones() -> list[BackboneSpec]:
    """Return the curated cards."""
    return [*TEXT_CARDS, *AUDIO_CARDS]


@hookimpl
def autotransfer_find_backbone(id: str, options: Mapping[str, Scalar], offline: bool) -> BackboneSpec | None:
    """Return the spec of any model of the hub, or of a folder that ``save_pretrained`` wrote.

    ``options`` may hold ``pooling`` and ``max_length``, and the ``config`` that a saved model kept.
    """
    namespace, _, name = id.partition("/")
    if namespace != "transformers" or not name:
        return None
    mend_torchvision()
    from autotransfer_transformers.find import find

    return find(name, options, offline=offline)
