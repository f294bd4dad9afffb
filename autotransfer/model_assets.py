"""Assets of a model: files beside the weights (a tokenizer's), copied into the model's folder and checked with it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from autotransfer.errors import ModelError
from autotransfer.spec import BackboneSpec

ASSET_KINDS = frozenset({".json", ".txt", ".model", ".safetensors", ".spm", ".vocab", ".merges", ".bpe"})
"""Suffixes of assets: text, JSON, safetensors and SentencePiece's tables; never what may hold code."""
ASSETS = "assets"
"""Folder of the backbone's assets: text, JSON and safetensors files, such as a tokenizer's."""


def assets_of(spec: BackboneSpec, where: Path | None) -> dict[str, Path]:
    """Return the files that a card names as assets, by their names in the model folder.

    Raises:
        ModelError: none of them is there, or one is neither text, JSON nor safetensors.
    """
    if not spec.assets:
        return {}
    names = sorted({p for pattern in spec.assets for p in (where.glob(pattern) if where is not None else ())})
    found = {p.relative_to(where).as_posix(): p for p in names if p.is_file()} if where is not None else {}
    if not found:
        raise ModelError(
            f"{spec.id} needs {', '.join(spec.assets)} from {where}, and none is there; fetch its weights again, or "
            "copy the model folder again as a whole"
        )
    odd = [n for n in found if Path(n).suffix.lower() not in ASSET_KINDS]
    if odd:
        raise ModelError(f"{spec.id} names assets that are neither text, JSON nor safetensors: {', '.join(odd)}")
    return found


def is_asset(name: str) -> bool:
    """Return whether a file of a model folder, by its path there, is an asset."""
    parts = PurePosixPath(name).parts
    return parts[0] == ASSETS and len(parts) > 1 and ".." not in parts


def copy_assets(assets: Mapping[str, Path], folder: Path) -> list[str]:
    """Copy assets into a model folder, and return their paths there."""
    for name, file in assets.items():
        place = folder / ASSETS / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
    return [f"{ASSETS}/{name}" for name in assets]
