"""Train, validation and test rows: stratified, seeded, copies and groups kept whole, in one fixed order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotransfer.errors import DataError
from autotransfer.schema import DataIssue

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.2
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Split:
    """Row numbers ``int64`` of each part; train rows stand in stratified order."""

    train: Array
    validation: Array
    test: Array
    issues: tuple[DataIssue, ...] = ()


def split_rows(
    rows: Sequence[int],
    strata: Sequence[Hashable],
    units: Sequence[Hashable],
    given: Sequence[str | None] | None,
    seed: int,
) -> Split:
    """Return a split: 20 % test, 20 % of the rest validation, where the source gives none.

    Args:
        rows: usable row numbers.
        strata: of each row, what every part should hold its share of (a class, a quantile).
        units: of each row, its content hash or group: rows of one unit stay together.
        given: ``train``, ``validation``, ``test`` or None by row; a part that is given is used as it is.
        seed: of the draw.

    Raises:
        DataError: there are too few rows to hold any out.
    """
    rng = np.random.default_rng(seed)
    parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for place in range(len(rows)):
        parts[(given[place] if given else None) or "train"].append(place)
    issues: list[DataIssue] = []
    for name, share in (("test", TEST_SHARE), ("validation", VALIDATION_SHARE)):
        if not parts[name]:
            held = _draw(parts["train"], strata, units, share, rng)
            parts[name] = held
            taken = set(held)
            parts["train"] = [p for p in parts["train"] if p not in taken]
    for name in ("validation", "test", "train"):
        if not parts[name]:
            raise DataError(
                f"{len(rows)} usable rows are too few to hold any out for {name}: every class needs several rows "
                "(five or more, for train, validation and test to have one each)"
            )
    issues += _unseen(parts, strata)
    ordered = {n: np.asarray([rows[p] for p in stratified_order(v, strata, rng)], np.int64) for n, v in parts.items()}
    return Split(ordered["train"], ordered["validation"], ordered["test"], tuple(issues))


def stratified_order(places: Sequence[int], strata: Sequence[Hashable], rng: np.random.Generator) -> list[int]:
    """Return the places so ordered that every beginning holds each stratum in about its share of the whole."""
    by: dict[Hashable, list[int]] = defaultdict(list)
    for p in places:
        by[strata[p]].append(p)
    keyed = []
    for group in by.values():
        shuffled = rng.permutation(len(group))
        offset = rng.random()
        keyed += [((rank + offset) / len(group), group[j]) for rank, j in enumerate(shuffled)]
    return [p for _, p in sorted(keyed)]


def _draw(
    places: Sequence[int], strata: Sequence[Hashable], units: Sequence[Hashable], share: float, rng: np.random.Generator
) -> list[int]:
    """Return places to hold out: in each stratum whole units until its share is reached, one unit staying behind."""
    members: dict[Hashable, list[int]] = defaultdict(list)
    for p in places:
        members[units[p]].append(p)
    want: dict[Hashable, float] = defaultdict(float)
    counts: dict[Hashable, int] = defaultdict(int)
    for p in places:
        want[strata[p]] += share
        counts[strata[p]] += 1
    held: list[int] = []
    left = dict(counts)
    for u in [list(members)[i] for i in rng.permutation(len(members))]:
        group = members[u]
        classes = {strata[p] for p in group}
        short = all(want[c] >= 0.5 for c in classes)
        leaves = all(left[c] > sum(strata[p] == c for p in group) for c in classes)
        if short and leaves:
            held += group
            for p in group:
                want[strata[p]] -= 1
                left[strata[p]] -= 1
    return held


def _unseen(parts: dict[str, list[int]], strata: Sequence[Hashable]) -> list[DataIssue]:
    """Return what to say of classes that a part does not hold."""
    every = {strata[p] for part in parts.values() for p in part}
    issues = []
    for name in ("train", "validation", "test"):
        lacking = sorted(str(c) for c in every - {strata[p] for p in parts[name]})
        if lacking:
            what = "cannot be learned" if name == "train" else f"have no say in the {name} score"
            shown = ", ".join(lacking[:10]) + (" ..." if len(lacking) > 10 else "")
            text = f"{len(lacking)} classes are too small to have rows in {name} and {what}: {shown}"
            issues.append(DataIssue(what=f"classes_without_{name}", count=len(lacking), text=text, rows=tuple(lacking)))
    return issues
