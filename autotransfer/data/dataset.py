"""Labelled images whose rows are decoded only when asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from autotransfer.data.image import as_image, raw_bytes
from autotransfer.errors import DataError


class Indexable(Protocol):
    """What rows are taken from."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class ImageDataset:
    """Rows of images; implements :class:`autotransfer.protocols.Dataset`.

    Args:
        name: how the source calls itself.
        items: anything indexable whose items :func:`autotransfer.data.image.as_image` takes.
        targets: raw values by target name, one a row; None where a label is missing.
        splits: ``train``, ``validation``, ``test`` or None by row, where the source gives them.
        root: folder that row names are relative to.
        notes: what the reader wants the user to know.
        groups: a value a row; rows of one group stay in one split.
    """

    modality = "image"

    def __init__(
        self,
        name: str,
        items: Indexable,
        targets: Mapping[str, Sequence[Any]],
        *,
        splits: Sequence[str | None] | None = None,
        root: Path | None = None,
        notes: Sequence[str] = (),
        groups: Sequence[Any] | None = None,
    ) -> None:
        self.name = name
        self.items = items
        self.targets = targets
        self.splits = splits
        self.root = root
        self.notes = list(notes)
        self.groups = groups

    def __len__(self) -> int:
        return len(self.items)

    def load(self, index: int) -> np.ndarray[Any, Any]:
        """Return the row as ``uint8`` [H, W, 3], or [H, W] where it is grey.

        Raises:
            DataError: the row cannot be read.
        """
        return np.asarray(as_image(self.items[index]))

    def row_name(self, index: int) -> str:
        """Return the row's path relative to the source, or its number."""
        item = self.items[index]
        if isinstance(item, dict):
            item = item.get("path")
        if isinstance(item, (str, Path)):
            path = Path(item)
            inside = self.root is not None and path.is_relative_to(self.root)
            return str(path.relative_to(self.root)) if inside and self.root is not None else str(path)
        return f"row {index}"

    def content_hash(self, index: int) -> str:
        """Return a hash of the row's content, the same for equal rows.

        Raises:
            DataError: the row cannot be read.
        """
        return hashlib.sha256(raw_bytes(self.items[index])).hexdigest()[:24]


class Lazy:
    """One field of an indexable source, fetched when asked for; picklable where the source is."""

    def __init__(self, source: Any, field: Any, count: int | None = None) -> None:
        self.source = source
        self.field = field
        self.count = len(source) if count is None else count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.count:
            raise IndexError(index)
        row = self.source[int(index)]
        return row[self.field]


def joined(parts: Sequence[ImageDataset], splits: Sequence[str | None]) -> ImageDataset:
    """Return datasets one after the other, the rows of each in the named split; None keeps a part's own splits.

    Raises:
        DataError: their targets have different names.
    """
    first = parts[0]
    for part in parts[1:]:
        if set(part.targets) != set(first.targets):
            raise DataError(f"{part.name} has the targets {list(part.targets)}; {first.name} has {list(first.targets)}")
    marks: list[str | None] = []
    for part, split in zip(parts, splits, strict=True):
        own = list(part.splits) if part.splits is not None else [None] * len(part)
        marks += own if split is None else [split] * len(part)
    return ImageDataset(
        first.name,
        Chained([p.items for p in parts]),
        {n: [v for p in parts for v in p.targets[n]] for n in first.targets},
        splits=marks,
        root=first.root,
        notes=[n for p in parts for n in p.notes],
        groups=None if first.groups is None else [g for p in parts for g in (p.groups or [None] * len(p))],
    )


class Chained:
    """Sequences one after the other, without copying them."""

    def __init__(self, parts: Sequence[Indexable]) -> None:
        self.parts = list(parts)

    def __len__(self) -> int:
        return sum(len(p) for p in self.parts)

    def __getitem__(self, index: int) -> Any:
        for part in self.parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)
