"""Rows of different length: taken together with their like where the order is free, cut, and stored without padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from autotransfer.protocols import MASK

if TYPE_CHECKING:
    from autotransfer.protocols import Rows

WINDOW = 4
"""Batches whose rows are sorted by length together: a longer one delays the first results, and the watchdog."""
STEP = 2560
"""Places of a mask; sixteen frames of 10 ms at 16 kHz. Shorter inputs, such as tokens, are left as they are."""
Array = np.ndarray[Any, Any]


def lengths_of(rows: Rows, numbers: Sequence[int] | None = None) -> Array | None:
    """Return the length of each row's input, or of these rows', ``int64`` [N]; None where all are alike.

    Without numbers they are what batches are padded to: None where all batches are of one length.
    """
    given = getattr(rows, "lengths", None)
    return given(numbers) if given is not None else None


def trimmed(inputs: Any) -> Any:
    """Return inputs without the places at the end that are padded in every row.

    For passes whose result does not depend on padding. Waveforms are cut at multiples of :data:`STEP`, so that frames
    fall as they do in the whole window.
    """
    mask = inputs.get(MASK) if isinstance(inputs, Mapping) else None
    if mask is None or mask.shape[1] <= STEP:
        return inputs
    longest = int(mask.long().sum(1).max())
    width = min(mask.shape[1], -(-max(1, longest) // STEP) * STEP)
    padded = {n for n, v in inputs.items() if isinstance(v, Tensor) and v.shape[:2] == mask.shape}
    return {n: v[:, :width] if n in padded else v for n, v in inputs.items()}


def windows(rows: Rows, start: int, stop: int, size: int) -> Iterator[list[list[int]]]:
    """Yield the rows from ``start`` to ``stop`` in windows of consecutive rows, each as batches of row numbers.

    Where rows differ in length, those of a window are sorted by it before they are cut into batches.
    """
    alike = start >= stop or lengths_of(rows, [start]) is None
    step = size if alike else size * WINDOW
    for at in range(start, stop, step):
        numbers = np.arange(at, min(at + step, stop))
        lengths = None if alike else lengths_of(rows, numbers.tolist())
        if lengths is not None:
            numbers = numbers[np.argsort(lengths, kind="stable")]
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
