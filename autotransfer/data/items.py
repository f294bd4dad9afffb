"""Rows to predict: one item or many, kept in order, a bad one reported for itself alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autotransfer.data.dataset import ImageDataset
from autotransfer.data.image import SUFFIXES
from autotransfer.data.readers import read
from autotransfer.data.readers.arrays import images
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
                yield good, stack(items, self.spec)


def as_items(x: Any, modality: str, spec: Input, registry: Any = None) -> Items:
    """Return what a caller wants predicted.

    Args:
        x: a path, a folder, a table, an array (one image or many), a PIL image, or a list of such.
        modality: of the model.
        spec: the backbone's input.
        registry: plugins that may read the source.

    Raises:
        DataError: it is none of these.
    """
    if isinstance(x, (str, Path)) and _is_image_path(Path(x)):
        return Items(ImageDataset(str(x), [Path(x)], {}), spec, single=True)
    one = hasattr(x, "getbands") or (isinstance(x, np.ndarray) and _is_one(x)) or isinstance(x, (bytes, bytearray))
    if one:
        return Items(ImageDataset("item", [x], {}), spec, single=True)
    if isinstance(x, Sequence) and not isinstance(x, str) and not len(x):
        return Items(ImageDataset("nothing", [], {}), spec)
    if isinstance(x, np.ndarray) and not len(x):
        return Items(ImageDataset("nothing", [], {}), spec)
    if isinstance(x, (list, tuple)):
        return Items(ImageDataset("items", _scaled([Path(i) if isinstance(i, str) else i for i in x]), {}), spec)
    if hasattr(x, "detach") and x.ndim == 3 and x.shape[0] in (3, 4):
        raise DataError(
            f"a tensor of shape {list(x.shape)} may be one image [C, H, W] or {x.shape[0]} grey ones; "
            "give x[None] for one, x[:, None] for several"
        )
    return Items(read(x, registry, modality=modality, labelled=False), spec)


def _is_image_path(path: Path) -> bool:
    """Return whether a path is to be read as one image; one that is missing, and named like an image, says so then.

    Raises:
        DataError: there is nothing, and its name is not that of an image.
    """
    if path.exists():
        return path.is_file() and path.suffix.lower() not in _TABLES
    if path.suffix.lower() in SUFFIXES:
        return True
    raise DataError(f"{str(path)!r} does not exist; wanted an image, a folder of images, or a table of their paths")


_TABLES = frozenset({".csv", ".tsv", ".parquet", ".pq", ".jsonl", ".ndjson"})


def _scaled(items: list[Any]) -> Any:
    """Return arrays in one common scale where all are arrays, as in training; a faulty one leaves each its own."""
    if all(isinstance(i, np.ndarray) for i in items):
        try:
            return images(items)
        except DataError:
            return items  # the row at fault says so itself when it is read
    return items


def _is_one(x: np.ndarray[Any, Any]) -> bool:
    return x.dtype != object and (x.ndim == 2 or (x.ndim == 3 and x.shape[2] in (1, 3, 4) and x.shape[0] > 4))
