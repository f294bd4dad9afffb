"""One pass over all rows: what cannot be read, what is there twice, and the measurements of the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from autotransfer.codec import Scalar
from autotransfer.data.dataset import ItemDataset, Lazy
from autotransfer.data.modalities import Look, Modality, modality
from autotransfer.errors import DataError
from autotransfer.profiles import DataIssue
from autotransfer.protocols import Dataset

AT_ONCE = 4096
"""Rows that the threads are given at once: each takes a kilobyte until it was read."""


@dataclass
class Checked:
    """What the pass found."""

    usable: list[int]
    """Rows that can be read and have their labels."""
    hashes: dict[int, str]
    """Content hash of each usable row."""
    facts: dict[str, Scalar] = field(default_factory=dict)
    """What its modality measured of the usable rows."""
    measures: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros((0, 0)))
    """The measurements of each row ``float64`` [rows of the dataset, M]; NaN where it is not usable."""
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
    kind = modality(dataset.modality)
    tally = kind.tally()
    broken: list[tuple[int, str]] = list(known.items())
    with ThreadPoolExecutor(threads if _files(dataset) else 1) as pool:
        looks = (pool.map(partial(_look, dataset, kind), rows) for rows in _slices(labelled))
        for i, found in zip(labelled, chain.from_iterable(looks), strict=True):
            if isinstance(found, str):
                broken.append((i, found))
                continue
            hashes[i] = found.digest
            tally.add(i, found.measure)
    issues = [_missing(dataset, missing)] if missing else []
    issues += [_unreadable(dataset, broken)] if broken else []
    if not hashes:
        raise DataError(_nothing(dataset, missing, broken))
    issues += tally.issues(dataset.row_name)
    return Checked(list(hashes), hashes, tally.facts(), _spread(tally.numbers(), list(hashes), len(dataset)), issues)


def _slices(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    return (rows[begin : begin + AT_ONCE] for begin in range(0, len(rows), AT_ONCE))


def _spread(numbers: np.ndarray[Any, Any], rows: list[int], count: int) -> np.ndarray[Any, Any]:
    """Return measurements of some rows [n, M] as those of all rows [count, M]."""
    spread = np.full((count, numbers.shape[1]), np.nan)
    spread[rows] = numbers
    return spread


def _files(dataset: Dataset) -> bool:
    """Return whether rows come from files or memory: other sources need not stand two threads."""
    parts = getattr(dataset, "parts", [dataset])
    return all(isinstance(p, ItemDataset) and not isinstance(p.items, Lazy) for p in parts)


def _look(dataset: Dataset, kind: Modality, index: int) -> Look | str:
    """Return hash and measurements of a row, or why it cannot be read."""
    try:
        if isinstance(dataset, ItemDataset):
            return kind.look(dataset.item(index), dataset.row_name(index))
        measure = kind.measure(dataset.load(index))
        return Look(dataset.content_hash(index), measure)
    except DataError as error:
        return str(error)


def duplicates(
    dataset: Dataset,
    checked: Checked,
    labels: Sequence[Any],
    splits: Sequence[str | None] | None,
    *,
    several: bool = False,
) -> tuple[list[int], list[DataIssue]]:
    """Return the rows to leave out of training, and what to say of equal rows.

    A training row that equals a validation or test row is left out: a score on rows seen in training is none. Where
    rows have several labels each, copies differ only in labels that they both have.
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
    conflicting = [i for g in same if _differ([labels[j] for j in g], several) for i in g]
    if conflicting:
        text = f"{len(conflicting)} copies have different labels; they were kept: mend the labels"
        issues.append(_issue("conflicting_labels", len(conflicting), text, dataset, conflicting))
    if splits is not None:
        drop = _leaks(same, splits)
    if drop:
        text = f"{len(drop)} rows of train or validation also stand in validation or test and were left out"
        issues.append(_issue("duplicates_across_splits", len(drop), text, dataset, drop))
    return drop, issues


def _differ(labels: Sequence[Any], several: bool) -> bool:
    if not several:
        return len({repr(label) for label in labels}) > 1
    columns = zip(*labels, strict=True)
    return any(len({repr(label) for label in column if label is not None}) > 1 for column in columns)


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
