"""One pass over all rows: what cannot be read, what is there twice, how large the images are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autotransfer.data.image import as_image, open_image
from autotransfer.errors import DataError
from autotransfer.protocols import Dataset
from autotransfer.schema import DataIssue

DRAFT = 64
"""A JPEG is decoded at no less than this many pixels here: damage shows all the same."""


@dataclass
class Checked:
    """What the pass found."""

    usable: list[int]
    """Rows that can be read and have their labels."""
    hashes: dict[int, str]
    """Content hash of each usable row."""
    sizes: np.ndarray[Any, Any]
    """Width and height of the usable rows, ``int64`` [N, 2]; empty where rows are no images."""
    channels: Counter[int] = field(default_factory=Counter)
    issues: list[DataIssue] = field(default_factory=list)


def check(dataset: Dataset, labels: Sequence[Any], threads: int = 2) -> Checked:
    """Read every row once, a few at a time, and say what is wrong with it.

    Args:
        dataset: the rows.
        labels: raw target values; None where a label is missing.
        threads: rows read side by side.

    Raises:
        DataError: no row is usable.
    """
    labelled = [i for i in range(len(dataset)) if labels[i] is not None]
    missing = [i for i in range(len(dataset)) if labels[i] is None]
    hashes: dict[int, str] = {}
    sizes: list[tuple[int, int]] = []
    channels: Counter[int] = Counter()
    broken: list[tuple[int, str]] = []
    with ThreadPoolExecutor(threads) as pool:
        for i, found in zip(labelled, pool.map(lambda i: _look(dataset, i), labelled), strict=True):
            if isinstance(found, str):
                broken.append((i, found))
                continue
            hashes[i], size, planes = found
            sizes.append(size)
            channels[planes] += 1
    issues = [_missing(dataset, missing)] if missing else []
    issues += [_unreadable(dataset, broken)] if broken else []
    if not hashes:
        raise DataError(_nothing(dataset, missing, broken))
    return Checked(list(hashes), hashes, np.asarray(sizes, dtype=np.int64).reshape(-1, 2), channels, issues)


def _look(dataset: Dataset, index: int) -> tuple[str, tuple[int, int], int] | str:
    """Return content hash, size and planes of a row, or why it cannot be read."""
    try:
        item = getattr(dataset, "items", {index: None})[index]
        if isinstance(item, Path):
            image = open_image(item, draft=DRAFT)
            return dataset.content_hash(index), image.size, len(image.getbands())
        if dataset.modality == "image":
            image = as_image(item if item is not None else dataset.load(index))
            return dataset.content_hash(index), image.size, len(image.getbands())
        dataset.load(index)
        return dataset.content_hash(index), (0, 0), 0
    except DataError as error:
        return str(error)


def duplicates(
    dataset: Dataset, checked: Checked, labels: Sequence[Any], splits: Sequence[str | None] | None
) -> tuple[list[int], list[DataIssue]]:
    """Return the rows to leave out of training, and what to say of equal rows.

    A training row that equals a validation or test row is left out: a score on rows seen in training is none.
    """
    groups: dict[str, list[int]] = {}
    for i, digest in checked.hashes.items():
        groups.setdefault(digest, []).append(i)
    same = [rows for rows in groups.values() if len(rows) > 1]
    issues, drop = [], list[int]()
    if same:
        rows = [i for group in same for i in group]
        extra = len(rows) - len(same)
        text = f"{extra} rows are exact copies of others; copies stay on one side of every split"
        issues.append(_issue("duplicates", extra, text, dataset, rows))
    conflicting = [i for g in same if len({repr(labels[j]) for j in g}) > 1 for i in g]
    if conflicting:
        text = f"{len(conflicting)} copies have different labels; they were kept: mend the labels"
        issues.append(_issue("conflicting_labels", len(conflicting), text, dataset, conflicting))
    if splits is not None:
        held = {"validation", "test"}
        drop = [i for g in same for i in g if splits[i] not in held and any(splits[j] in held for j in g)]
        both = [g for g in same if {"validation", "test"} <= {splits[i] for i in g}]
        drop += [i for g in both for i in g if splits[i] == "validation"]
    if drop:
        text = f"{len(drop)} rows of train or validation also stand in validation or test and were left out"
        issues.append(_issue("duplicates_across_splits", len(drop), text, dataset, drop))
    return drop, issues


def _issue(what: str, count: int, text: str, dataset: Dataset, rows: Sequence[int]) -> DataIssue:
    return DataIssue(what=what, count=count, text=text, rows=tuple(dataset.row_name(i) for i in rows))


def _missing(dataset: Dataset, rows: list[int]) -> DataIssue:
    text = f"{len(rows)} rows have no label and were left out"
    return _issue("missing_labels", len(rows), text, dataset, rows)


def _unreadable(dataset: Dataset, broken: list[tuple[int, str]]) -> DataIssue:
    text = f"{len(broken)} rows cannot be read and were left out, the first: {broken[0][1]}"
    return _issue("unreadable", len(broken), text, dataset, [i for i, _ in broken])


def _nothing(dataset: Dataset, missing: list[int], broken: list[tuple[int, str]]) -> str:
    parts = [f"{len(missing)} have no label"] if missing else []
    parts += [f"{len(broken)} cannot be read, the first: {broken[0][1]}"] if broken else []
    return f"{dataset.name}: none of its {len(dataset)} rows is usable: {'; '.join(parts) or 'it is empty'}"
