"""Image backbones of timm: curated cards, and any other model of timm as ``timm/NAME``."""

from __future__ import annotations

from collections.abc import Mapping

from autotransfer.plugin import BackboneSpec, Scalar, hookimpl, mend_torchvision
from autotransfer_timm.cards import CARDS


@hookimpl
def autotransfer_backbones() -> list[BackboneSpec]:
    """Return the curated cards."""
    return list(CARDS)


@hookimpl
def autotransfer_find_backbone(id: str, options: Mapping[str, Scalar]) -> BackboneSpec | None:
    """Return the spec of any model that timm knows; ``options`` go to ``timm.create_model``."""
    namespace, _, name = id.partition("/")
    if namespace != "timm" or not name:
        return None
    mend_torchvision()
    from autotransfer_timm.find import find

    return find(name, options)
