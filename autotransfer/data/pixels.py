"""Pixels of a dataset's rows, decoded and resized once for every backbone, trial and run that wants them so."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL

from autotransfer.data.image import as_image, normalised, window
from autotransfer.errors import DataError, StoreFullError
from autotransfer.store import Store

if TYPE_CHECKING:
    from torch import Tensor

    from autotransfer.protocols import Dataset
    from autotransfer.spec import ImageInput

log = logging.getLogger(__name__)
VERSION = 1
"""Of what is kept; raised whenever :func:`autotransfer.data.image.window` gives other pixels."""
BLOCK = 64
"""Rows that are decoded and kept together: whoever asks for one of them pays for so many."""
OPEN = 256
"""Blocks that stay mapped in a process; each holds a file open, and what is held cannot be evicted."""
SHARE = 0.5
"""Of the store's size at most this is taken by the pixels of one transform."""
Array = np.ndarray[Any, Any]


class Pixels:
    """What :func:`autotransfer.data.image.window` gives without augmentation, kept in a store by blocks of rows.

    Blocks are consecutive rows of a split, so that a survey that reads its first rows decodes little more than
    those. A block is named after the content of its rows and the transform (size, channels, interpolation, crop),
    not after the dataset: other backbones and later runs with the same split find it again. Mean and standard
    deviation are no part of it. Where the store cannot keep them, rows are decoded as if there were none.

    Args:
        dataset: the rows.
        contents: their content hashes, ``S24`` by row.
        splits: row numbers ``int64`` of each split, in the order that they are read in.
        store: where blocks are kept.
    """

    def __init__(self, dataset: Dataset, contents: Array, splits: Sequence[Array], store: Store) -> None:
        self.dataset = dataset
        self.contents = contents
        self.store = store
        self.blocks = [split[at : at + BLOCK] for split in splits for at in range(0, len(split), BLOCK)]
        self.block = np.full(len(contents), -1, dtype=np.int64)
        self.slot = np.zeros(len(contents), dtype=np.int64)
        for number, rows in enumerate(self.blocks):
            self.block[rows], self.slot[rows] = number, np.arange(len(rows))
        self.off = ""
        """Why nothing more is kept; empty: it is."""
        self._open: OrderedDict[tuple[Any, ...], Array] = OrderedDict()
        self._made: set[str] = set()
        self._refused: set[str] = set()

    def lengths(self, rows: Array, spec: ImageInput, tools: Any) -> None:
        """Return None: all images have one size."""

    def told(self, spec: ImageInput, tools: Any) -> str:
        """Return nothing: all images have one size."""
        return ""

    def batch(self, rows: Array, spec: ImageInput, tools: Any = None) -> Tensor | None:
        """Return ``float32`` [B, channels, size, size] of these rows, in this order; None where they are not kept.

        Args:
            rows: row numbers ``int64`` [B] of the dataset.
            spec: the backbone's input.
            tools: nothing.
        """
        if self.off or not len(rows) or not self._fits(spec) or (self.block[rows] < 0).any():
            return None
        made = np.empty((len(rows), spec.size, spec.size, spec.channels), dtype=np.uint8)
        for number in np.unique(self.block[rows]):
            kept = self._pixels(int(number), spec)
            if kept is None:
                return None
            here = self.block[rows] == number
            made[here] = kept[self.slot[rows[here]]]
        return normalised(made, spec)

    def _fits(self, spec: ImageInput) -> bool:
        count = sum(len(rows) for rows in self.blocks)
        return count * spec.size * spec.size * spec.channels <= SHARE * self.store.most_bytes

    def _pixels(self, number: int, spec: ImageInput) -> Array | None:
        """Return a block: from the open ones, from the store, or made now."""
        named = (number, spec.size, spec.channels, spec.interpolation, spec.crop)
        if named in self._open:
            self._open.move_to_end(named)
            return self._open[named]
        rows = self.blocks[number]
        key = Store.key("pixels", VERSION, PIL.__version__, [c.decode() for c in self.contents[rows]], *named[1:])
        kept = self.store.get(key)
        if kept is None and key not in self._refused and self._make(key, rows, spec):
            kept = self.store.get(key)
        if kept is None:
            return None
        self._open[named] = kept["pixels"]
        while len(self._open) > OPEN:
            self._open.popitem(last=False)
        return self._open[named]

    def _make(self, key: str, rows: Array, spec: ImageInput) -> bool:
        """Decode a block into the store; False where that cannot be."""
        if key in self._made:  # evicted: a store that is too small would have each block decoded for each of its rows
            return self._stop("the store evicts pixels that are still in use; allow it more")
        try:
            with self.store.put(key, {"pixels": ((len(rows), spec.size, spec.size, spec.channels), np.uint8)}) as to:
                for slot, row in enumerate(rows.tolist()):
                    to["pixels"][slot] = window(as_image(self.dataset.load(row)), spec)
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
