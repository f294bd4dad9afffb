"""Class folders of files: ``root/cat/1.jpg``, or ``root/train/cat/1.jpg`` beside ``val/`` and ``test/``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from autotransfer.data.dataset import ItemDataset, groups_of
from autotransfer.data.modalities import Modality, modalities
from autotransfer.errors import DataError

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
SPLITS |= {"dev": "validation", "test": "test", "testing": "test"}
"""Names of folders that are splits."""
PREDOMINANT = 4
"""Files of one modality must be so many times those of another beside them to be taken for the data."""


def read(source: Any, options: Mapping[str, Any]) -> ItemDataset | None:
    """Return a folder of class folders, or of plain files where no labels are wanted; None for anything else.

    Raises:
        DataError: the folder holds no items, or items without class folders, or of several modalities; or ``groups``
            does not fit.
    """
    if not isinstance(source, (str, Path)) or not Path(source).is_dir():
        return None
    root = Path(source).absolute()  # workers have another working folder
    files = [p for p in sorted(root.rglob("*")) if _is_file(p) and not _hidden(p, root)]
    kind = kind_of(files, str(source), options.get("modality"))
    if not options.get("labelled", True):
        items = kind.files(root)
        if not items:
            raise DataError(f"the folder {str(source)!r} holds no {kind.name}")
        return ItemDataset(str(source), items, {}, modality=kind.name, root=root)
    if isinstance(options.get("target"), (list, tuple)):
        asked = ", ".join(map(str, options["target"]))
        raise DataError(f"class folders give one target, {asked} were asked; give a table with a column for each")
    parts = [f for f in _folders(root) if _is_part(f, kind)]
    rows: list[tuple[Path, str, str | None]] = []
    for part in parts or [root]:
        split = SPLITS[part.name.lower()] if parts else None
        rows += [(p, c, split) for p, c in kind.classes(part)]
    if not rows:
        raise DataError(_why_empty(root, source, files, kind))
    return ItemDataset(
        str(source),
        [p for p, _, _ in rows],
        {str(options.get("target") or "class"): [c for _, c, _ in rows]},
        modality=kind.name,
        splits=[s for _, _, s in rows] if parts else None,
        root=root,
        notes=_notes(root, parts, files, {p for p, _, _ in rows}, kind),
        groups=groups_of(options.get("groups"), len(rows), str(source)),
    )


UNREAD = frozenset({".heic", ".heif", ".jxl", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".psd"})
"""Suffixes of pictures as cameras and phones write them, which nothing here reads."""


@dataclass(frozen=True)
class _Kind:
    """Files of one modality."""

    name: str
    many: str
    suffixes: Collection[str]

    def holds(self, path: Path, root: Path) -> bool:
        """Return whether a file is one by its name; a link to nowhere is a row that cannot be read, and counted so."""
        return path.suffix.lower() in self.suffixes and not _hidden(path, root) and _is_file(path)

    def files(self, folder: Path) -> list[Path]:
        """Return all of them in and under a folder."""
        return [p for p in sorted(folder.rglob("*")) if self.holds(p, folder)]

    def classes(self, root: Path) -> list[tuple[Path, str]]:
        """Return those in the folders of a folder, each with the folder's name."""
        return [(p, f.name) for f in _folders(root) for p in self.files(f)]


def kind_of(files: Sequence[PurePath], source: str, asked: str | None) -> _Kind:
    """Return what a folder is taken to hold: most of its files, where these are texts only beside nothing else.

    Texts beside images or sounds are what is written about them.

    Raises:
        DataError: there are nearly as many of another modality.
    """
    found: list[tuple[Modality, int]] = []
    for kind in modalities(asked):
        count = sum(p.suffix.lower() in kind.suffixes for p in files)
        found += [(kind, count)] if count else []
    sure = [f for f in found if f[0].by_name] or found or [(modalities(asked)[0], 0)]
    sure.sort(key=lambda f: -f[1])
    if len(sure) > 1 and sure[0][1] < PREDOMINANT * sure[1][1]:
        held = " and ".join(f"{count} {kind.many}" for kind, count in sure)
        raise DataError(f"the folder {source!r} holds {held}; say which are the data with modality=")
    chosen = sure[0][0]
    return _Kind(chosen.name, chosen.many, frozenset(chosen.suffixes))


def _is_part(folder: Path, kind: _Kind) -> bool:
    """Return whether a folder is a split: named like one, with class folders that hold items.

    A folder ``test/`` with items alone beside ``cat/`` would be a class; beside ``train/`` it has no labels.
    """
    if folder.name.lower() not in SPLITS:
        return False
    return bool(kind.classes(folder)) or any(
        kind.classes(f) for f in _folders(folder.parent) if SPLITS.get(f.name.lower()) == "train"
    )


def _notes(root: Path, parts: list[Path], files: list[Path], used: set[Path], kind: _Kind) -> list[str]:
    """Return what was left aside."""
    others = [p for p in files if not kind.holds(p, root)]
    outside = [p for p in files if kind.holds(p, root) and p not in used]
    beside = [f.name for f in _folders(root) if f not in parts] if parts else []
    filled = {root.joinpath(*p.relative_to(root).parts[: 2 if parts else 1]) for p in used}
    empty = [str(f.relative_to(root)) for p in parts or [root] for f in _folders(p) if f not in filled]
    notes = [f"{len(others)} files that are no {kind.many} by their names were left aside: {_endings(others)}"]
    notes = notes if others else []
    notes += [f"folders beside {parts[0].name}/ were left aside: {', '.join(beside)}"] if beside else []
    if outside:
        first = outside[0].relative_to(root)
        notes.append(f"{len(outside)} {kind.many} outside class folders have no label and were left aside: {first} ...")
    notes += [f"class folders without any {kind.name} are no classes: {', '.join(empty)}"] if empty else []
    return notes


def _endings(files: Sequence[Path]) -> str:
    """Return the commonest suffixes with their numbers, and what to do about pictures that nothing here reads."""
    counts = Counter(p.suffix.lower() or "no suffix" for p in files).most_common(4)
    told = ", ".join(f"{count} {suffix}" for suffix, count in counts)
    return told + (" (convert them to .jpg or .png)" if any(s in UNREAD for s, _ in counts) else "")


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _is_file(path: Path) -> bool:
    return path.is_file() or (path.is_symlink() and not path.exists())


def _why_empty(root: Path, source: Any, files: list[Path], kind: _Kind) -> str:
    wanted = f"wanted one folder a class, with its {kind.many} inside: pets/cat/1.jpg, pets/dog/2.jpg"
    if any(kind.holds(p, root) for p in files):
        return f"the folder {str(source)!r} holds {kind.many} but no class folders; {wanted}"
    if not any(root.iterdir()):
        return f"the folder {str(source)!r} is empty; {wanted}"
    held = [p for p in files if not _hidden(p, root)]
    beside = f" (it holds {_endings(held)})" if held else ""
    return f"the folder {str(source)!r} holds no {kind.name} in class folders{beside}; {wanted}"
