"""Which columns of a source hold its items, and of which modality these are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotransfer.data.modalities import Modality, modalities
from autotransfer.errors import DataError, suggestion

SAMPLED = 200
"""Rows that are looked at to tell what a column holds."""


@dataclass(frozen=True)
class Found:
    """The columns of a source's items."""

    kind: Modality
    columns: tuple[str, ...]


def named(target: Any, columns: Collection[str]) -> list[str]:
    """Return the target columns that a caller names: one, several, or a text of several with commas between them."""
    if target is None:
        return []
    if not isinstance(target, str):
        return [str(name) for name in target]
    parts = [part.strip() for part in target.split(",")]
    several = target not in columns and len(parts) > 1 and any(part in columns for part in parts)
    return parts if several else [target]


def lost(names: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return what to say of named columns that there are not."""
    return [f"there is no column {n!r}{suggestion(n, columns)}" for n in names if n not in columns]


def by_target(rows: Sequence[Any], names: Sequence[str]) -> dict[str, list[Any]]:
    """Return the labels of several targets by name, from one mapping or one sequence of labels a row.

    Args:
        rows: labels by target, or in the order of the targets; None: the row has none.
        names: of the targets.

    Raises:
        DataError: a row holds something else.
    """
    found: dict[str, list[Any]] = {name: [] for name in names}
    for at, row in enumerate(rows):
        listed = row.tolist() if hasattr(row, "tolist") else row
        if isinstance(listed, Mapping):
            own = [listed.get(name) for name in names]
        elif listed is None:
            own = [None] * len(names)
        elif isinstance(listed, (list, tuple)) and len(listed) == len(names):
            own = list(listed)
        else:
            raise DataError(
                f"the labels of row {at} are {row!r:.60}; wanted one for each of {', '.join(names)}, in this order or "
                "by name"
            )
        for name, label in zip(names, own, strict=True):
            found[name].append(label)
    return found


def find_columns(
    names: Sequence[str],
    sample: Callable[[str], Sequence[Any]],
    options: Mapping[str, Any],
    skip: Collection[str],
) -> Found:
    """Return the columns that together hold the items of a source.

    Args:
        names: of all columns.
        sample: gives some values of a column, missing ones left out.
        options: those of the reader; ``columns`` are taken where the source has them all.
        skip: columns that are something else: the target, the split, groups.

    Raises:
        DataError: none holds any, or several may; the text says how to choose.
    """
    asked = options.get("modality")
    kinds = modalities(asked)
    before = tuple(options.get("columns") or ())
    there = [c for c in before if c in names]
    if before and len(there) == len(before) and asked is not None:
        return Found(kinds[0], before)
    if there:
        lost = ", ".join(c for c in before if c not in names)
        raise DataError(f"the items were taken from the columns {', '.join(before)} before, and {lost} is not here")
    samples: dict[str, Sequence[Any]] = {c: sample(c) for c in names if c not in skip}
    wrong: list[str] = []
    found: list[Found] = []
    for kind in kinds:
        try:
            columns = kind.columns(samples, asked is not None)
        except DataError as error:
            wrong.append(str(error))
            continue
        found += [Found(kind, tuple(columns))] if columns else []
    sure = [f for f in found if f.kind.by_name] or found
    if len(sure) > 1:
        shown = " and ".join(f"{f.kind.many} ({', '.join(f.columns)})" for f in sure)
        raise DataError(f"columns hold {shown}; say which with modality=")
    if wrong or not sure:
        raise DataError("; ".join(wrong) or _nothing(kinds))
    return sure[0]


def _nothing(kinds: Sequence[Modality]) -> str:
    if len(kinds) == 1:
        return f"no column holds {kinds[0].many}; where one does, call it {next(iter(kinds[0].names))!r}"
    held = " or ".join(k.many for k in kinds)
    return f"no column clearly holds {held}; say modality=..., and call the column by it, as in {kinds[0].name!r}"
