"""Train, validation and test rows: stratified, seeded, copies and groups kept whole, in one fixed order."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotransfer.errors import DataError
from autotransfer.profiles import DataIssue

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.2
LARGE = 0.25
"""A group with more than this share of the rows to hold out is held out only where smaller ones do not suffice."""
_PARTS = ("train", "validation", "test")
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
    classes: Sequence[Collection[Hashable]] | None = None,
) -> Split:
    """Return a split: 20 % test, 20 % of the rest validation, where the source gives none.

    Args:
        rows: usable row numbers.
        strata: of each row, what every part should hold its share of (a class, a quantile).
        units: of each row, its content hash or group: rows of one unit stay together.
        given: ``train``, ``validation``, ``test`` or None by row; a part that is given is used as it is.
        seed: of the draw.
        classes: the classes or labels of each row; a part that lacks some is told of. None: there are none.

    Raises:
        DataError: there are too few rows to hold any out, or parts of other names.
    """
    unknown = sorted({str(g) for g in given or () if g not in (*_PARTS, None)})
    if unknown:
        raise DataError(f"rows are marked {', '.join(unknown)}; wanted {', '.join(_PARTS)} or None")
    rng = np.random.default_rng(seed)
    parts: dict[str, list[int]] = {name: [] for name in _PARTS}
    for place in range(len(rows)):
        parts[(given[place] if given else None) or "train"].append(place)
    if not parts["train"]:
        raise DataError(f"none of the {len(rows)} usable rows is for training; give rows to train on too")
    for name, share in (("test", TEST_SHARE), ("validation", VALIDATION_SHARE)):
        if not parts[name]:
            held = _draw(parts["train"], strata, units, share, rng)
            parts[name] = held
            taken = set(held)
            parts["train"] = [p for p in parts["train"] if p not in taken]
    for name in ("validation", "test", "train"):
        if not parts[name]:
            raise DataError(
                f"{len(rows)} usable rows are too few to hold any out for {name}: every class needs several rows, in "
                "several groups where rows are grouped (five or more, for each of train, validation and test to have "
                "some)"
            )
    issues = [] if classes is None else _unseen(parts, classes)
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


def united(*names: Sequence[Hashable | None]) -> list[Hashable]:
    """Return for each row the number of its unit: rows that share any name, directly or through others, are one.

    Args:
        names: what rows may share (a content hash, a group), one sequence each; None is shared with nobody.
    """
    parent = list(range(len(names[0])))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for given in names:
        first: dict[Hashable, int] = {}
        for i, name in enumerate(given):
            if name is not None:
                parent[root(i)] = root(first.setdefault(name, i))
    return [root(i) for i in range(len(parent))]


def _draw(
    places: Sequence[int], strata: Sequence[Hashable], units: Sequence[Hashable], share: float, rng: np.random.Generator
) -> list[int]:
    """Return places to hold out: in each stratum whole units until its share is reached, one unit staying behind.

    Units that are large for the share come last: a score on one large group tells of that group alone. Where every
    stratum is too small for a share of its own, units are drawn from all rows alike.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for p in places:
        members[units[p]].append(p)
    left = Counter(strata[p] for p in places)
    groups = list(members.values())
    drawn = [groups[i] for i in rng.permutation(len(groups))]
    drawn.sort(key=lambda group: len(group) > max(1.0, LARGE * share * len(places)))
    held = _by_stratum(drawn, strata, left, {c: share * n for c, n in left.items()})
    if held or not places:
        return held
    wanted = max(1, round(share * len(places)))
    for group in sorted(drawn, key=len):
        parts = Counter(strata[p] for p in group)
        if len(held) < wanted and all(left[c] > n for c, n in parts.items()):
            held += group
            left -= parts
    return held


def _by_stratum(
    drawn: Sequence[list[int]], strata: Sequence[Hashable], left: Counter[Hashable], want: dict[Hashable, float]
) -> list[int]:
    """Return the units that bring every stratum nearer to what it wants; ``left`` and ``want`` count down."""
    held: list[int] = []
    for group in drawn:
        parts = Counter(strata[p] for p in group)
        if all(want[c] >= n / 2 and left[c] > n for c, n in parts.items()):
            held += group
            for c, n in parts.items():
                want[c] -= n
                left[c] -= n
    return held


def _unseen(parts: dict[str, list[int]], classes: Sequence[Collection[Hashable]]) -> list[DataIssue]:
    """Return what to say of classes that a part does not hold."""
    there = {name: {c for p in places for c in classes[p]} for name, places in parts.items()}
    every = set().union(*there.values())
    issues = []
    for name in _PARTS:
        lacking = sorted(str(c) for c in every - there[name])
        if lacking:
            what = "cannot be learned" if name == "train" else f"have no say in the {name} score"
            shown = ", ".join(lacking[:10]) + (" ..." if len(lacking) > 10 else "")
            why = "have no rows" if name == "train" else "are too small, or not given, to have rows"
            text = f"{len(lacking)} classes {why} in {name} and {what}: {shown}"
            issues.append(DataIssue(what=f"classes_without_{name}", count=len(lacking), text=text, rows=tuple(lacking)))
    return issues
