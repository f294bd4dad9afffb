"""Class folders: ``root/cat/1.jpg``, or ``root/train/cat/1.jpg`` beside ``val/`` and ``test/``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotransfer.data.dataset import ImageDataset, groups_of
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
_SOUNDS = frozenset({".wav", ".flac", ".mp3", ".ogg", ".m4a", ".opus"})


def read(source: Any, options: Mapping[str, Any]) -> ImageDataset | None:
    """Return a folder of class folders, or of plain images where no labels are wanted; None for anything else.

    Raises:
        DataError: the folder holds no image, or images without class folders; or ``groups`` does not fit.
    """
    if not isinstance(source, (str, Path)) or not Path(source).is_dir():
        return None
    root = Path(source).absolute()  # workers have another working folder
    if not options.get("labelled", True):
        items = _images(root)
        if not items:
            raise DataError(f"the folder {str(source)!r} holds no image")
        return ImageDataset(str(source), items, {}, root=root)
    files = [p for p in sorted(root.rglob("*")) if _is_file(p) and not _hidden(p, root)]
    parts = [f for f in _folders(root) if _is_part(f)]
    rows: list[tuple[Path, str, str | None]] = []
    for part in parts or [root]:
        split = _SPLITS[part.name.lower()] if parts else None
        rows += [(p, c, split) for p, c in _classes(part)]
    if not rows:
        raise DataError(_why_empty(root, source, files))
    return ImageDataset(
        str(source),
        [p for p, _, _ in rows],
        {str(options.get("target") or "class"): [c for _, c, _ in rows]},
        splits=[s for _, _, s in rows] if parts else None,
        root=root,
        notes=_notes(root, parts, files, {p for p, _, _ in rows}),
        groups=groups_of(options.get("groups"), len(rows), str(source)),
    )


def _is_part(folder: Path) -> bool:
    """Return whether a folder is a split: named like one, with class folders that hold images.

    A folder ``test/`` with images alone beside ``cat/`` would be a class; beside ``train/`` it has no labels.
    """
    if folder.name.lower() not in _SPLITS:
        return False
    return bool(_classes(folder)) or any(
        _classes(f) for f in _folders(folder.parent) if _SPLITS.get(f.name.lower()) == "train"
    )


def _notes(root: Path, parts: list[Path], files: list[Path], used: set[Path]) -> list[str]:
    """Return what was left aside."""
    no_images = sum(not _is_image(p, root) for p in files)
    outside = [p for p in files if _is_image(p, root) and p not in used]
    beside = [f.name for f in _folders(root) if f not in parts] if parts else []
    filled = {root.joinpath(*p.relative_to(root).parts[: 2 if parts else 1]) for p in used}
    empty = [str(f.relative_to(root)) for p in parts or [root] for f in _folders(p) if f not in filled]
    notes = [f"{no_images} files that are no images by their names were left aside"] if no_images else []
    notes += [f"folders beside {parts[0].name}/ were left aside: {', '.join(beside)}"] if beside else []
    if outside:
        first = outside[0].relative_to(root)
        notes.append(f"{len(outside)} images outside class folders have no label and were left aside: {first} ...")
    notes += [f"class folders without any image are no classes: {', '.join(empty)}"] if empty else []
    return notes


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _classes(root: Path) -> list[tuple[Path, str]]:
    return [(p, f.name) for f in _folders(root) for p in _images(f)]


def _images(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.rglob("*")) if _is_image(p, folder)]


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _is_image(path: Path, root: Path) -> bool:
    # A link to nowhere is a row that cannot be read, and counted as such.
    return path.suffix.lower() in SUFFIXES and not _hidden(path, root) and _is_file(path)


def _is_file(path: Path) -> bool:
    return path.is_file() or (path.is_symlink() and not path.exists())


def _why_empty(root: Path, source: Any, files: list[Path]) -> str:
    wanted = "wanted one folder a class, with its images inside: pets/cat/1.jpg, pets/dog/2.jpg"
    if any(_is_image(p, root) for p in files):
        return f"the folder {str(source)!r} holds images but no class folders; {wanted}"
    if not any(root.iterdir()):
        return f"the folder {str(source)!r} is empty; {wanted}"
    sounds = sum(p.suffix.lower() in _SOUNDS for p in files)
    later = f" and {sounds} sounds, and audio is not supported yet" if sounds else ""
    return f"the folder {str(source)!r} holds no image in class folders{later}; {wanted}"
