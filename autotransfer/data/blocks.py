"""Decoded rows, made once for every backbone, trial and run that wants them so, and kept in a store by blocks."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from autotransfer.errors import DataError, StoreFullError
from autotransfer.store import Store

if TYPE_CHECKING:
    from autotransfer.protocols import Dataset, Inputs

log = logging.getLogger(__name__)
BLOCK = 64
"""Rows that are decoded and kept together: whoever asks for one of them pays for so many."""
OPEN = 256
"""Blocks that stay mapped in a process; each holds a file open, and what is held cannot be evicted."""
SHARE = 0.5
"""Of the store's size at most this is taken by the rows of one transform."""
Array = np.ndarray[Any, Any]


class Transform(Protocol):
    """What is made of a decoded row before it is kept: the same for all backbones whose inputs say so."""

    name: str
    lengths: str
    """Name of the array of lengths, where rows differ in length; empty: they do not."""

    def key(self, spec: Any) -> tuple[Any, ...]:
        """Return all that the result depends on, beside the row."""
        ...

    def shapes(self, count: int, spec: Any) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Return shape and type of the arrays that so many rows are kept in, by name."""
        ...

    def put(self, to: dict[str, Array], slot: int, decoded: Any, spec: Any) -> None:
        """Write a decoded row into one row of such arrays."""
        ...

    def inputs(self, rows: dict[str, Array], spec: Any) -> Inputs:
        """Return rows of such arrays as a backbone's inputs."""
        ...


class Blocks:
    """What a transform makes of rows, kept in a store by blocks of rows; implements ``modalities.Kept``.

    Blocks are consecutive rows of a split, so that a survey that reads its first rows decodes little more than
    those. A block is named after the content of its rows and the transform's key, not after the dataset: other
    backbones and later runs with the same split find it again. Where the store cannot keep them, rows are decoded as
    if there were none.

    Args:
        dataset: the rows.
        contents: their content hashes, ``S24`` by row.
        splits: row numbers ``int64`` of each split, in the order that they are read in.
        store: where blocks are kept.
        transform: what is made of each row.
    """

    def __init__(
        self, dataset: Dataset, contents: Array, splits: Sequence[Array], store: Store, transform: Transform
    ) -> None:
        self.tight = False
        self.dataset = dataset
        self.contents = contents
        self.store = store
        self.transform = transform
        self.blocks = [split[at : at + BLOCK] for split in splits for at in range(0, len(split), BLOCK)]
        self.block = np.full(len(contents), -1, dtype=np.int64)
        self.slot = np.zeros(len(contents), dtype=np.int64)
        for number, rows in enumerate(self.blocks):
            self.block[rows], self.slot[rows] = number, np.arange(len(rows))
        self.off = ""
        """Why nothing more is kept; empty: it is."""
        self._open: OrderedDict[tuple[Any, ...], dict[str, Array]] = OrderedDict()
        self._made: set[str] = set()
        self._refused: set[str] = set()

    def lengths(self, rows: Array, spec: Any, tools: Any) -> Array | None:
        """Return how long these rows are, ``int64`` [N]; None where all have one size, or they are not kept."""
        found = self._gathered(rows, spec, (self.transform.lengths,)) if self.transform.lengths else None
        return None if found is None else found[self.transform.lengths]

    def told(self, spec: Any, tools: Any) -> str:
        """Return nothing: what is kept is told of by the profile."""
        return ""

    def batch(self, rows: Array, spec: Any, tools: Any = None) -> Inputs | None:
        """Return the inputs of these rows, in this order; None where they are not kept.

        Args:
            rows: row numbers ``int64`` [B] of the dataset.
            spec: the backbone's input.
            tools: nothing.
        """
        found = self._gathered(rows, spec)
        return None if found is None else self.transform.inputs(found, spec)

    def _gathered(self, rows: Array, spec: Any, names: Sequence[str] = ()) -> dict[str, Array] | None:
        """Return the arrays of these rows, or those of these names; None where they are not kept."""
        if self.off or not len(rows) or not self._fits(spec) or (self.block[rows] < 0).any():
            return None
        shapes = {n: v for n, v in self.transform.shapes(len(rows), spec).items() if not names or n in names}
        made: dict[str, Array] = {n: np.empty(shape, dtype=kind) for n, (shape, kind) in shapes.items()}
        for number in np.unique(self.block[rows]):
            kept = self._block(int(number), spec)
            if kept is None:
                return None
            here = self.block[rows] == number
            for name, values in made.items():
                values[here] = kept[name][self.slot[rows[here]]]
        return made

    def _fits(self, spec: Any) -> bool:
        count = sum(len(rows) for rows in self.blocks)
        sizes = self.transform.shapes(count, spec).values()
        size = sum(int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize for shape, kind in sizes)
        return bool(size <= SHARE * self.store.most_bytes)

    def _block(self, number: int, spec: Any) -> dict[str, Array] | None:
        """Return a block: from the open ones, from the store, or made now."""
        named = (number, *self.transform.key(spec))
        if named in self._open:
            self._open.move_to_end(named)
            return self._open[named]
        rows = self.blocks[number]
        key = Store.key(self.transform.name, *named[1:], [c.decode() for c in self.contents[rows]])
        kept = self.store.get(key)
        if kept is None and key not in self._refused and self._make(key, rows, spec):
            kept = self.store.get(key)
        if kept is None:
            return None
        self._open[named] = dict(kept)
        while len(self._open) > OPEN:
            self._open.popitem(last=False)
        return self._open[named]

    def _make(self, key: str, rows: Array, spec: Any) -> bool:
        """Decode a block into the store; False where that cannot be."""
        if key in self._made:  # evicted: a store that is too small would have each block decoded for each of its rows
            return self._stop("the store evicts rows that are still in use; allow it more")
        try:
            with self.store.put(key, self.transform.shapes(len(rows), spec)) as to:
                for slot, row in enumerate(rows.tolist()):
                    self.transform.put(to, slot, self.dataset.load(row), spec)
                    self._unchanged(row)
        except StoreFullError as error:
            return self._stop(str(error))
        except DataError as error:  # maybe of a row that was not asked for: whoever asks for it hears of it
            log.info("a block of rows is not kept: %s", error)
            self._refused.add(key)
            return False
        self._made.add(key)
        return True

    def _unchanged(self, row: int) -> None:
        if self.dataset.content_hash(row).encode() != self.contents[row]:
            name = self.dataset.row_name(row)
            raise DataError(f"{name} is not what it was when the data were checked; let rows be while a run reads them")

    def _stop(self, reason: str) -> bool:
        self.off = reason
        self._open.clear()
        log.warning("rows are decoded again each time that they are read: %s", reason)
        return False
