"""Columns of a table that look like groups: rows of one value are not independent, and a random split tears them apart.

A speaker, a patient, a kit or a source stands in many rows. Where some of these rows are trained on, the others are
easier than rows of a new speaker would be, and the held-out score promises too much. Whether a column is such a group
is for the user to say; it is told here where there is evidence: its name, labels that hardly ever differ within a
value, or measurements (loudness, length, size) that are alike within a value, by permutation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotransfer.profiles import DataIssue

NAMES = re.compile(
    r"(^|[_\W])(speaker|subject|patient|person|participant|user|author|writer|customer|client|reviewer|animal|"
    r"kit|source|site|hospital|scanner|camera|device|session|batch|plate|slide|recording|video|album|artist|"
    r"document|doc|group|family|household|drawing)s?([_\W]|id|name|$)",
    re.IGNORECASE,
)
"""Words that name groups; as a part of a column's name."""
PURE = 0.9
"""Share of rows with the label of most others of their value, from which on the value all but decides the label."""
ALIKE = 0.2
"""Share of a measurement's variance (adjusted for the number of values) that a column explains."""
PERMUTATIONS = 199
"""Of which none may reach what is observed: p < 0.005, and less after several measurements."""
LEAST, SHARE = 20, 0.5
"""Rows, and distinct values a row at most, for which anything is said."""
Array = np.ndarray[Any, Any]


def suspects(
    columns: Mapping[str, Sequence[Any]],
    labels: Sequence[Any],
    measures: Array,
    train: Array,
    test: Array,
    seed: int = 0,
) -> list[DataIssue]:
    """Return what to say of columns that look like groups.

    Args:
        columns: columns that were not used, one value a row of the dataset.
        labels: one a row; None where a row is not used.
        measures: measurements ``float64`` [rows of the dataset, M], NaN where a row is not used; M may be 0.
        train: numbers of the training rows.
        test: numbers of the held-out rows.
        seed: of the permutations.
    """
    used = np.asarray([i for i, label in enumerate(labels) if label is not None], dtype=np.int64)
    rng = np.random.default_rng(seed)
    found = []
    for name, values in columns.items():
        codes = _codes([values[i] for i in used])
        if codes is None:
            continue
        why = _reasons(name, codes, [labels[i] for i in used], measures[used], rng)
        shared = _shared(values, train, test)
        if why and shared > 0:
            count = int(codes.max()) + 1
            text = (
                f"the column {name!r} ({count} values) looks like a group: {', '.join(why)}; {shared:.0%} of the "
                f"held-out rows share theirs with training rows, so the score may be too good for rows of a new one. "
                f"Say groups={name!r} to keep each value's rows together"
            )
            found.append(DataIssue(what="group_like_column", count=count, text=text, rows=(name,)))
    return found


def _codes(values: Sequence[Any]) -> Array | None:
    """Return values as numbers from 0; None where they are no repeated names."""
    there = [v for v in values if not _missing(v)]
    if len(there) < LEAST or len(there) < 0.9 * len(values):
        return None
    if any(isinstance(v, (float, np.floating)) and not float(v).is_integer() for v in there):
        return None  # measurements are no names
    if any(isinstance(v, (list, dict, set, np.ndarray)) for v in there):
        return None
    order = {v: i for i, v in enumerate(dict.fromkeys(there))}
    if not 2 < len(order) <= SHARE * len(there):
        return None
    return np.asarray([order.get(v, -1) if not _missing(v) else -1 for v in values], dtype=np.int64)


def _missing(value: Any) -> bool:
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def _reasons(name: str, codes: Array, labels: Sequence[Any], measures: Array, rng: np.random.Generator) -> list[str]:
    held = codes >= 0
    codes, measures = codes[held], measures[held]
    kinds = {text: i for i, text in enumerate(dict.fromkeys(map(repr, labels)))}
    own = np.asarray([kinds[repr(label)] for label in labels], dtype=np.int64)[held]
    why = ["by its name"] if NAMES.search(name) else []
    classes = len(kinds) if len(kinds) <= SHARE * len(labels) else 0  # of numbers nearly each differs
    if classes and int(codes.max()) + 1 >= 2 * classes and _pure(codes, own, rng):
        why.append("labels hardly differ within a value")
    if _alike(codes, own if classes else np.zeros_like(own), measures, rng):
        why.append("rows of one value measure alike")
    return why


def _pure(codes: Array, labels: Array, rng: np.random.Generator) -> bool:
    seen = _purity(codes, labels)
    return seen >= PURE and all(_purity(codes, rng.permutation(labels)) < seen for _ in range(PERMUTATIONS))


def _purity(codes: Array, labels: Array) -> float:
    """Return the share of rows whose label most other rows of their value have; rows alone do not count."""
    table = np.zeros((codes.max() + 1, labels.max() + 1), dtype=np.int64)
    np.add.at(table, (codes, labels), 1)
    others = table[codes]
    others[np.arange(len(codes)), labels] -= 1
    several = others.sum(1) > 0
    return float((others.argmax(1) == labels)[several].mean()) if several.any() else 0.0


def _alike(codes: Array, labels: Array, measures: Array, rng: np.random.Generator) -> bool:
    """Return whether a column explains a measurement within classes: ranks, by permutation within classes."""
    whole = np.isfinite(measures).all(1) if measures.shape[1] else np.zeros(len(codes), dtype=bool)
    if whole.sum() < LEAST:
        return False
    codes, labels = np.unique(codes[whole], return_inverse=True)[1], labels[whole]
    ranks = measures[whole].argsort(0).argsort(0).astype(np.float64)
    ranks = _tied(measures[whole], ranks)
    ranks -= _means(ranks, labels)[labels]
    seen = _explained(codes, ranks)
    if not (seen >= ALIKE).any():
        return False
    worst = np.zeros(len(seen))
    for _ in range(PERMUTATIONS):
        worst = np.maximum(worst, _explained(codes, ranks[_within(labels, rng)]))
    return bool(((seen >= ALIKE) & (seen > worst.max())).any())


def _tied(values: Array, ranks: Array) -> Array:
    """Return ranks with equal values having the mean of theirs."""
    for column in range(values.shape[1]):
        _, inverse, counts = np.unique(values[:, column], return_inverse=True, return_counts=True)
        ranks[:, column] = (np.bincount(inverse, ranks[:, column]) / counts)[inverse]
    return ranks


def _means(values: Array, codes: Array) -> Array:
    sums = np.zeros((codes.max() + 1, values.shape[1]))
    np.add.at(sums, codes, values)
    means: Array = sums / np.maximum(1, np.bincount(codes))[:, None]
    return means


def _explained(codes: Array, values: Array) -> Array:
    """Return the adjusted share of each column's variance that the codes explain, [M]; 0 where nothing varies."""
    rows, groups = len(codes), int(codes.max()) + 1
    total = np.square(values - values.mean(0)).sum(0)
    inside = np.square(values - _means(values, codes)[codes]).sum(0)
    share = 1.0 - (inside / np.maximum(total, 1e-12)) * (rows - 1) / max(1, rows - groups)
    found: Array = np.where(total > 1e-9, share, 0.0)
    return found


def _within(labels: Array, rng: np.random.Generator) -> Array:
    """Return a permutation of the rows that leaves each in its class."""
    order = np.arange(len(labels))
    for rows in np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1]):
        order[rows] = rng.permutation(rows)
    return order


def _shared(values: Sequence[Any], train: Array, test: Array) -> float:
    """Return the share of the held-out rows whose value a training row has too."""
    known = Counter(values[i] for i in train.tolist() if not _missing(values[i]))
    there = [i for i in test.tolist() if not _missing(values[i])]
    return sum(values[i] in known for i in there) / max(1, len(test))
