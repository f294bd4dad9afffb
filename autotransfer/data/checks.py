"""One pass over all rows: what cannot be read, what is there twice, how large the images are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autotransfer.data.dataset import ImageDataset, Lazy, hash_of
from autotransfer.data.image import as_image, file_bytes, look
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
    known = dict(getattr(dataset, "unreadable", {}))
    labelled = [i for i in range(len(dataset)) if labels[i] is not None and i not in known]
    missing = [i for i in range(len(dataset)) if labels[i] is None and i not in known]
    hashes: dict[int, str] = {}
    sizes: list[tuple[int, int]] = []
    channels: Counter[int] = Counter()
    broken: list[tuple[int, str]] = list(known.items())
    with ThreadPoolExecutor(threads if _files(dataset) else 1) as pool:
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


def _files(dataset: Dataset) -> bool:
    """Return whether rows come from files or memory: other sources need not stand two threads."""
    parts = getattr(dataset, "parts", [dataset])
    return all(isinstance(p, ImageDataset) and not isinstance(p.items, Lazy) for p in parts)


def _look(dataset: Dataset, index: int) -> tuple[str, tuple[int, int], int] | str:
    """Return content hash, size and planes of a row, or why it cannot be read."""
    try:
        if not isinstance(dataset, ImageDataset):
            image = as_image(dataset.load(index)) if dataset.modality == "image" else dataset.load(index)
            size, planes = (image.size, len(image.getbands())) if dataset.modality == "image" else ((0, 0), 0)
            return dataset.content_hash(index), size, planes
        item = dataset.item(index)
        body = file_bytes(item)
        if body is not None:
            width, height, planes = look(body, DRAFT, dataset.row_name(index))
            return hash_of(body), (width, height), planes
        image = as_image(item)
        return hash_of(item if isinstance(item, np.ndarray) else image), image.size, len(image.getbands())
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
    issues, drop = list[DataIssue](), list[int]()
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
        drop = _leaks(same, splits)
    if drop:
        text = f"{len(drop)} rows of train or validation also stand in validation or test and were left out"
        issues.append(_issue("duplicates_across_splits", len(drop), text, dataset, drop))
    return drop, issues


def split_groups(dataset: Dataset, usable: Sequence[int]) -> tuple[list[int], list[DataIssue]]:
    """Return the rows to leave out because given splits tear their group apart, and what to say of them."""
    groups: Sequence[Any] | None = getattr(dataset, "groups", None)
    if groups is None or dataset.splits is None:
        return [], []
    members: dict[Any, list[int]] = {}
    for i in usable:
        if groups[i] is not None:
            members.setdefault(groups[i], []).append(i)
    drop = _leaks(list(members.values()), dataset.splits)
    text = f"{len(drop)} rows of train or validation have their group in validation or test and were left out"
    return drop, [_issue("groups_across_splits", len(drop), text, dataset, drop)] if drop else []


def _leaks(together: Sequence[Sequence[int]], splits: Sequence[str | None]) -> list[int]:
    """Return rows to leave out so that no score is taken on what was learned or chosen by."""
    held, drop = {"validation", "test"}, list[int]()
    for rows in together:
        found = {splits[i] for i in rows}
        lower = found - held if not found >= held else found - {"test"}
        drop += [i for i in rows if found & held and splits[i] in lower]
    return drop


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
    if broken:
        names = ", ".join(dataset.row_name(i) for i, _ in broken[:5]) + (", ..." if len(broken) > 5 else "")
        parts.append(f"{len(broken)} cannot be read ({names}), the first: {broken[0][1]}")
    return f"{dataset.name}: none of its {len(dataset)} rows is usable: {'; '.join(parts) or 'it is empty'}"
