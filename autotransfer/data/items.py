"""Rows to predict: one item or many, kept in order, a bad one reported for itself alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import IOBase
from typing import Any

import numpy as np

from autotransfer.data.dataset import ItemDataset
from autotransfer.data.modalities import modality as modality_of
from autotransfer.data.readers import read
from autotransfer.data.readers.remote import is_url, local
from autotransfer.data.rows import stack
from autotransfer.errors import DataError
from autotransfer.spec import Input


@dataclass
class Items:
    """What to predict, with the names a user knows the rows by."""

    dataset: Any
    spec: Input
    single: bool = False
    """One item was given, not a list of one."""
    tools: Any = None
    """What the modality's ``tools`` gave for the backbone."""
    failed: dict[int, str] = field(default_factory=dict)
    """Why a row could not be read, by its number; filled while batches are made."""

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def names(self) -> list[str]:
        """Names of all rows, in order."""
        return [self.dataset.row_name(i) for i in range(len(self))]

    def batches(self, size: int = 32, on_error: str = "raise") -> Iterator[tuple[list[int], Any]]:
        """Yield row numbers and their inputs; a bad row raises, or with ``report`` is left out and noted.

        Raises:
            DataError: rows that cannot be read, all of a batch at once.
        """
        for at in range(0, len(self), size):
            good, items, bad = [], [], {}
            for i in range(at, min(at + size, len(self))):
                try:
                    items.append(self.dataset.load(i))
                    good.append(i)
                except DataError as error:
                    bad[i] = str(error)
            if bad and on_error == "raise":
                lines = "; ".join(f"{self.dataset.row_name(i)}: {text}" for i, text in bad.items())
                raise DataError(f"{len(bad)} rows cannot be read: {lines}")
            self.failed |= bad
            if good:
                yield good, stack(items, self.spec, tools=self.tools)


def as_items(
    x: Any, modality: str, spec: Input, registry: Any = None, *, tools: Any = None, columns: Sequence[str] = ()
) -> Items:
    """Return what a caller wants predicted.

    Args:
        x: one item of the model's modality, a list or array of such, a path, a folder, or a table.
        modality: of the model.
        spec: the backbone's input.
        registry: plugins that may read the source.
        tools: what the modality's ``tools`` gave for the backbone.
        columns: that the model's training rows were taken from, where these had columns.

    Raises:
        DataError: it is none of these.
    """
    kind = modality_of(modality)
    x = local(x)
    if isinstance(x, IOBase) or (isinstance(x, np.ndarray) and not x.ndim):
        given = "an open file" if isinstance(x, IOBase) else f"the single value {x.item()!r:.40}"
        raise DataError(f"{given} cannot be predicted; wanted {kind.many}, one of them (bytes, too), or where they are")
    item = None if is_url(x) else kind.one(x)
    if item is not None:
        name = str(item) if kind.path_of(item) is not None else "item"
        return Items(ItemDataset(name, [item], {}, modality=modality), spec, single=True, tools=tools)
    if isinstance(x, (Sequence, np.ndarray)) and not isinstance(x, str) and not len(x):
        return Items(ItemDataset("nothing", [], {}, modality=modality), spec, tools=tools)
    if isinstance(x, (list, tuple)):
        return Items(ItemDataset("items", kind.many_of(x), {}, modality=modality), spec, tools=tools)
    found = read(x, registry, modality=modality, labelled=False, columns=tuple(columns))
    return Items(found, spec, tools=tools)
