"""Rows of different length: taken together with their like where the order is free, and stored without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from autotransfer.protocols import Rows

WINDOW = 4
"""Batches whose rows are sorted by length together: a longer one delays the first results, and the watchdog."""
Array = np.ndarray[Any, Any]


def lengths_of(rows: Rows) -> Array | None:
    """Return the length of each row's input ``int64`` [N]; None where all are alike."""
    given = getattr(rows, "lengths", None)
    return given() if given is not None else None


def windows(rows: Rows, start: int, stop: int, size: int) -> Iterator[list[list[int]]]:
    """Yield the rows from ``start`` to ``stop`` in windows of consecutive rows, each as batches of row numbers.

    Where rows differ in length, those of a window are sorted by it before they are cut into batches.
    """
    lengths = lengths_of(rows)
    step = size if lengths is None else size * WINDOW
    for at in range(start, stop, step):
        numbers = np.arange(at, min(at + step, stop))
        if lengths is not None:
            numbers = numbers[np.argsort(lengths[numbers], kind="stable")]
        yield [numbers[i : i + size].tolist() for i in range(0, len(numbers), size)]


def in_order(batches: Sequence[Sequence[int]], results: Sequence[Tensor]) -> Tensor:
    """Return the results of a window's batches in the order of the rows."""
    joined = torch.cat(list(results))
    numbers = np.concatenate([np.asarray(b) for b in batches])
    return joined if (np.diff(numbers) > 0).all() else joined[torch.from_numpy(np.argsort(numbers))]


def ends_of(lengths: Array) -> Array:
    """Return where each row ends when all stand one after the other without padding, ``int64`` [N]."""
    return np.maximum(1, lengths).cumsum()


def pack(stored: Array, ends: Array, numbers: Sequence[int], values: Array) -> None:
    """Write padded rows [B, T, ...] to their places in [sum of lengths, ...]."""
    for number, row in zip(numbers, values, strict=True):
        begin = int(ends[number - 1]) if number else 0
        stored[begin : ends[number]] = row[: ends[number] - begin]


def unpack(stored: Array, ends: Array, numbers: Array) -> Array:
    """Return rows [B, T, ...] from where they stand without padding, padded with zeros to the longest of them."""
    begins = np.where(numbers > 0, ends[numbers - 1], 0)
    counts = ends[numbers] - begins
    found = np.zeros((len(numbers), int(counts.max(initial=1)), *stored.shape[1:]), dtype=stored.dtype)
    for at, (begin, count) in enumerate(zip(begins.tolist(), counts.tolist(), strict=True)):
        found[at, :count] = stored[begin : begin + count]
    return found
