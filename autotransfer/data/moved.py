"""Rows whose files were copied to another machine, where each lies under a folder at its whole path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotransfer.data.dataset import Indexable, ItemDataset, costly
from autotransfer.data.modalities import modality

if TYPE_CHECKING:
    from autotransfer.data.prepare import Prepared


class Moved(ItemDataset):
    """A dataset whose files lie under another folder; names of rows are those that its user knows.

    Args:
        dataset: the rows as their source has them.
        folder: that holds the copies.
    """

    def __init__(self, dataset: ItemDataset, folder: Path) -> None:
        vars(self).update(vars(dataset))
        self.original = dataset
        self.items = _Items(dataset.items, dataset.modality, folder)

    def row_name(self, index: int) -> str:
        """Return the row's name at its source."""
        return self.original.row_name(index)


class _Items:
    """Items of which those that are files are found under another folder."""

    def __init__(self, items: Indexable, kind: str, folder: Path) -> None:
        self.items = items
        self.kind = kind
        self.folder = folder

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        item = self.items[index]
        path = file_of(item, self.kind)
        if path is None:
            return item
        there = place(path, self.folder)
        return {**item, "path": str(there)} if isinstance(item, dict) else there


def file_of(item: Any, kind: str) -> Path | None:
    """Return the file that an item of a modality is read from; None where it holds its content itself."""
    if isinstance(item, dict) and (item.get("bytes") or item.get("array") is not None):
        return None
    return modality(kind).path_of(item)


def place(path: Path, folder: Path) -> Path:
    """Return where a file lies under the folder of the copies."""
    return folder / path.absolute().relative_to(path.absolute().anchor)


def parts_of(prepared: Prepared) -> list[tuple[Any, np.ndarray[Any, Any]]]:
    """Return each dataset with the numbers of the rows that a search reads, in order."""
    parts = [(prepared.dataset, np.sort(np.concatenate([prepared.train, prepared.validation, prepared.test])))]
    if prepared.unlabeled is not None:
        parts.append((prepared.unlabeled.dataset, np.sort(prepared.unlabeled.indices)))
    return parts


def files(prepared: Prepared) -> Iterator[Path]:
    """Yield the files of the rows that a search reads, each once; rows of other readers' datasets are not known."""
    known: set[Path] = set()
    for dataset, rows in parts_of(prepared):
        if not isinstance(dataset, ItemDataset) or costly(dataset.items):
            continue
        for row in rows:
            path = file_of(dataset.items[int(row)], dataset.modality)
            if path is not None and path not in known:
                known.add(path)
                yield path


def moved(prepared: Prepared, folder: Path) -> Prepared:
    """Return the same rows, their files under a folder."""
    others = prepared.unlabeled
    if others is not None and isinstance(others.dataset, ItemDataset):
        others = replace(others, dataset=Moved(others.dataset, folder))
    own = prepared.dataset
    return replace(
        prepared, dataset=Moved(own, folder) if isinstance(own, ItemDataset) else own, unlabeled=others, kept=None
    )
