"""Class folders: ``root/cat/1.jpg``, or ``root/train/cat/1.jpg`` beside ``val/`` and ``test/``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotransfer.data.dataset import ImageDataset
from autotransfer.data.image import SUFFIXES
from autotransfer.errors import DataError

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
_SPLITS |= {"dev": "validation", "test": "test", "testing": "test"}


def read(source: Any, options: Mapping[str, Any]) -> ImageDataset | None:
    """Return a folder of class folders, or of plain images where no labels are wanted; None for anything else.

    Raises:
        DataError: the folder holds no image, or images without class folders.
    """
    if not isinstance(source, (str, Path)) or not Path(source).is_dir():
        return None
    root = Path(source)
    if not options.get("labelled", True):
        items = sorted(p for p in root.rglob("*") if _is_image(p, root))
        if not items:
            raise DataError(f"the folder {str(source)!r} holds no image")
        return ImageDataset(str(source), items, {}, root=root)
    folders = _folders(root)
    parts = [f for f in folders if f.name.lower() in _SPLITS]
    if parts and any(_SPLITS[f.name.lower()] == "train" for f in parts):
        rows = [(p, c, _SPLITS[f.name.lower()]) for f in parts for p, c in _classes(f)]
        beside = [f.name for f in folders if f not in parts]
    else:
        rows = [(p, c, "") for p, c in _classes(root)]
        beside = []
    if not rows:
        raise DataError(_why_empty(root, source))
    ignored = sum(1 for p in root.rglob("*") if p.is_file() and not _is_image(p, root) and not _hidden(p, root))
    notes = [f"{ignored} files that are no images by their names were left aside"] if ignored else []
    notes += [f"folders beside train/ were left aside: {', '.join(beside)}"] if beside else []
    return ImageDataset(
        str(source),
        [p for p, _, _ in rows],
        {str(options.get("target") or "class"): [c for _, c, _ in rows]},
        splits=[s for _, _, s in rows] if parts and rows[0][2] else None,
        root=root,
        notes=notes,
    )


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _classes(root: Path) -> list[tuple[Path, str]]:
    return [(p, f.name) for f in _folders(root) for p in sorted(f.rglob("*")) if _is_image(p, f)]


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _is_image(path: Path, root: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not _hidden(path, root) and path.is_file()


def _why_empty(root: Path, source: Any) -> str:
    wanted = "wanted one folder a class, with its images inside: pets/cat/1.jpg, pets/dog/2.jpg"
    if any(_is_image(p, root) for p in root.iterdir()):
        return f"the folder {str(source)!r} holds images but no class folders; {wanted}"
    if not any(root.iterdir()):
        return f"the folder {str(source)!r} is empty; {wanted}"
    return f"the folder {str(source)!r} holds no image in class folders; {wanted}"
