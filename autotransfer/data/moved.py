"""Rows whose files are not where their source has them: copied under a folder, or carried along in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotransfer.data.dataset import Indexable, ItemDataset, costly
from autotransfer.data.modalities import modality
from autotransfer.data.readers.parquet import CarriedFile, LocalFile, cells_in, reopened
from autotransfer.errors import DataError

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
        items = reopened(dataset.items, lambda path: LocalFile(place(path, folder)))
        self.items = _Items(items, dataset.modality, folder)

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


class Carried(ItemDataset):
    """A dataset whose files travel with it: they are read where they lie, and from pieces where they do not.

    Args:
        dataset: the rows as their source has them.
        places: of each file the number of its piece, and its first byte and the one after its last there.
        piece: gives a piece by its number, ``uint8``.
    """

    def __init__(
        self, dataset: ItemDataset, places: Mapping[Path, tuple[int, int, int]], piece: Callable[[int], Any]
    ) -> None:
        vars(self).update(vars(dataset))
        self.original = dataset
        inside = {p: CarriedFile(piece, *where) for p, where in places.items()}
        items = reopened(dataset.items, lambda path: None if path.is_file() else inside.get(path))
        self.items = _Pieces(items, dataset.modality, places, piece)

    def row_name(self, index: int) -> str:
        """Return the row's name at its source."""
        return self.original.row_name(index)

    def path(self, index: int) -> Path | None:
        """Return the file that the row is at its source."""
        return self.original.path(index)


class _Pieces:
    """Items of which those that are files which are not here are their content."""

    def __init__(self, items: Indexable, kind: str, places: Mapping[Path, tuple[int, int, int]], piece: Any) -> None:
        self.items = items
        self.kind = kind
        self.places = places
        self.piece = piece

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        item = self.items[index]
        path = file_of(item, self.kind)
        if path is None or path not in self.places or path.is_file():
            return item
        number, begin, end = self.places[path]
        body = self.piece(number)[begin:end].tobytes()
        return {**item, "bytes": body} if isinstance(item, dict) else body


def packed(paths: Iterable[Path], most: int) -> Iterator[tuple[np.ndarray[Any, Any], dict[Path, tuple[int, int]]]]:
    """Yield pieces of at most so many bytes (a larger file is one alone), and which bytes of each are which file.

    Raises:
        DataError: a file cannot be read.
    """
    bodies, places, held = list[bytes](), dict[Path, tuple[int, int]](), 0
    for path in paths:
        try:
            body = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read any more: {error.strerror}") from error
        if bodies and held + len(body) > most:
            yield np.frombuffer(b"".join(bodies), np.uint8), places
            bodies, places, held = [], {}, 0
        bodies.append(body)
        places[path] = (held, held + len(body))
        held += len(body)
    if bodies:
        yield np.frombuffer(b"".join(bodies), np.uint8), places


def tables_of(dataset: ItemDataset) -> Iterator[Path]:
    """Yield the tables on this machine whose cells are the rows' files."""
    opened = (c.opened for c in cells_in(dataset.items))
    yield from (o.path for o in opened if isinstance(o, LocalFile))


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
        if not isinstance(dataset, ItemDataset):
            continue
        for table in tables_of(dataset):
            if table not in known:
                known.add(table)
                yield table
        if costly(dataset.items):
            continue
        for row in rows:
            path = file_of(dataset.items[int(row)], dataset.modality)
            if path is not None and path not in known:
                known.add(path)
                yield path


def moved(prepared: Prepared, folder: Path) -> Prepared:
    """Return the same rows, their files under a folder."""
    return _with(prepared, lambda dataset: Moved(dataset, folder))


def carried(prepared: Prepared, places: Mapping[Path, tuple[int, int, int]], piece: Callable[[int], Any]) -> Prepared:
    """Return the same rows, their files in pieces beside them; arguments as for :class:`Carried`."""
    return _with(prepared, lambda dataset: Carried(dataset, places, piece))


def _with(prepared: Prepared, made: Callable[[ItemDataset], ItemDataset]) -> Prepared:
    own, others = prepared.dataset, prepared.unlabeled
    if others is not None and isinstance(others.dataset, ItemDataset):
        others = replace(others, dataset=made(others.dataset))
    return replace(prepared, dataset=made(own) if isinstance(own, ItemDataset) else own, unlabeled=others, kept=None)
