"""Cards of timm models that are not in the curated list."""

from __future__ import annotations

from collections.abc import Mapping

import timm

from autotransfer.plugin import BackboneSpec, ImageInput, Scalar, WeightsError, WeightSource

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
_LICENCES = {"apache-2.0": "Apache-2.0", "bsd-3-clause": "BSD-3-Clause", "mit": "MIT", "cc-by-nc-4.0": "CC-BY-NC-4.0"}


def find(name: str, options: Mapping[str, Scalar]) -> BackboneSpec | None:
    """Return the card of ``architecture`` or ``architecture.tag`` with timm's own settings, or None if unknown.

    Stages, width and size are left to be measured.

    Args:
        name: a name as ``timm.list_models`` gives it.
        options: passed to ``timm.create_model``; ``img_size`` also sets the size of the input.

    Raises:
        WeightsError: timm knows the model and no weights of it on the hub.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        return None
    known = timm.list_pretrained(architecture)
    settings = timm.get_pretrained_cfg(name) if known and (not tag or name in known) else None
    if settings is None or not settings.hf_hub_id:
        choice = f"; with weights there are: {', '.join(known)}" if known else ""
        raise WeightsError(f"timm has no pretrained weights of {name}{choice}")
    full = f"{architecture}.{settings.tag}" if settings.tag else architecture
    size = options.get("img_size", settings.input_size[-1])
    if not isinstance(size, int):
        raise WeightsError(f"img_size of {name} is {size!r}; wanted a whole number of pixels")
    return BackboneSpec(
        id=f"timm/{name}",
        factory="autotransfer_timm.build:build",
        options={"name": full, **options},
        size_option="img_size" if settings.fixed_input_size else None,
        summary=f"{full}, as timm describes it",
        input=ImageInput(
            size=size,
            channels=settings.input_size[0],
            mean=tuple(settings.mean),
            std=tuple(settings.std),
            interpolation=settings.interpolation if settings.interpolation in _INTERPOLATIONS else "bicubic",
            crop=settings.crop_pct,
        ),
        weights=WeightSource(where="hub", name=str(settings.hf_hub_id), member=settings.hf_hub_filename),
        licence=_LICENCES.get(str(settings.license), str(settings.license or "unknown")),
        pretrained_on=settings.tag or "",
    )
