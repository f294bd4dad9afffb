"""Labelled rows of any modality, decoded only when asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from autotransfer.data.modalities import Modality, modality
from autotransfer.errors import DataError, suggestion
from autotransfer.tasks import plain


class Indexable(Protocol):
    """What rows are taken from."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class ItemDataset:
    """Rows of items; implements :class:`autotransfer.protocols.Dataset`.

    Args:
        name: how the source calls itself.
        items: anything indexable whose items the modality loads.
        targets: raw values by target name, one a row; None, NaN, NA and empty texts are missing labels.
        modality: what the items are.
        splits: ``train``, ``validation``, ``test`` or None by row, where the source gives them.
        root: folder that row names are relative to.
        notes: what the reader wants the user to know.
        groups: a value a row; rows of one group stay in one split.
        unreadable: why a row cannot be read, by number, where the reader met it already.
        columns: that the items were taken from, where the source has columns.
        others: the source's columns that are used for nothing, by name: one of them may be a group.
    """

    def __init__(
        self,
        name: str,
        items: Indexable,
        targets: Mapping[str, Sequence[Any]],
        *,
        modality: str = "image",
        splits: Sequence[str | None] | None = None,
        root: Path | None = None,
        notes: Sequence[str] = (),
        groups: Sequence[Any] | None = None,
        unreadable: Mapping[int, str] | None = None,
        columns: Sequence[str] = (),
        others: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        self.name = name
        self.items = items
        self.targets: Mapping[str, Sequence[Any]] = {n: clean_labels(v) for n, v in targets.items()}
        self.modality = modality
        self.splits = splits
        self.root = root
        self.notes = list(notes)
        self.groups = groups
        self.unreadable = dict(unreadable or {})
        self.columns = tuple(columns)
        self.others = dict(others or {})

    @property
    def kind(self) -> Modality:
        """What its items are, and how they are read."""
        return modality(self.modality)

    def __len__(self) -> int:
        return len(self.items)

    def item(self, index: int) -> Any:
        """Return the row as its source holds it: a path, an image, an array ...

        Raises:
            DataError: the source raised an error.
        """
        try:
            return self.items[index]
        except DataError:
            raise
        except Exception as error:  # a foreign dataset may raise anything
            raise DataError(f"its source raised {type(error).__name__}: {error}") from error

    def load(self, index: int) -> Any:
        """Return the decoded row, as its modality has it.

        Raises:
            DataError: the row cannot be read.
        """
        return self.kind.load(self.item(index))

    def row_name(self, index: int) -> str:
        """Return the row's path relative to the source, or its number; nothing is decoded for it."""
        path = self.path(index)
        if path is None:
            return f"row {index}"
        inside = self.root is not None and path.is_relative_to(self.root)
        return str(path.relative_to(self.root)) if inside and self.root is not None else str(path)

    def path(self, index: int) -> Path | None:
        """Return the file that the row is, where it is one; nothing is decoded for it."""
        return None if costly(self.items) else self.kind.path_of(self.items[index])

    def content_hash(self, index: int) -> str:
        """Return a hash of the row's content, the same for equal rows.

        Raises:
            DataError: the row cannot be read.
        """
        return self.kind.hash(self.item(index))


def clean_labels(values: Any) -> list[Any]:
    """Return labels as plain Python values, None where one is missing.

    Missing are None, NaN, pandas' NA and NaT, and blank texts; where labels are sets (``a|b``) a blank text is the
    empty set. Whole floats beside missing labels are whole numbers again: pandas makes floats of them.
    """
    found = [None if type(v).__name__ in ("NAType", "NaTType") else plain(v) for v in values]
    found = [None if isinstance(v, float) and v != v else v for v in found]
    if not any(isinstance(v, str) and "|" in v for v in found):
        found = [None if isinstance(v, str) and not v.strip() else v for v in found]
    there = [v for v in found if v is not None]
    if len(there) < len(found) and all(isinstance(v, float) and v.is_integer() for v in there):
        found = [None if v is None else int(v) for v in found]
    return found


def groups_of(groups: Any, count: int, name: str, columns: Sequence[str] = ()) -> list[Any] | None:
    """Return one group a row, from one value a row; the caller has looked up a column's name.

    Raises:
        DataError: a name that is no column, or another number of values.
    """
    if groups is None:
        return None
    if isinstance(groups, str):
        has = f"columns: {', '.join(columns)}" if columns else "it has no columns; give one value a row"
        raise DataError(f"{name} has no column {groups!r} for groups{suggestion(groups, columns)}; {has}")
    if not hasattr(groups, "__iter__"):
        raise DataError(
            f"groups is {groups!r:.60}; wanted the name of a column, or one value for each of the {count} rows"
        )
    values = list(groups)
    if len(values) != count:
        raise DataError(f"groups holds {len(values)} values; wanted one for each of the {count} rows of {name}")
    return clean_labels(values)


class Lazy:
    """One field of an indexable source (None: its whole rows), fetched when asked for; picklable where that is.

    Of several fields the named modality makes one item.
    """

    def __init__(self, source: Any, field: Any, modality: str = "") -> None:
        self.source = source
        self.field = field
        self.modality = modality
        self.count = len(source)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.count:
            raise IndexError(index)
        row = self.source[int(index)]
        if self.modality:
            return modality(self.modality).cell({name: row[name] for name in self.field}, None)
        return row if self.field is None else row[self.field]


def costly(items: Indexable) -> bool:
    """Return whether taking an item may read or decode it."""
    own = isinstance(items, Lazy) or getattr(items, "costly", False)
    return own or any(map(costly, getattr(items, "parts", ())))


class Joined(ItemDataset):
    """Datasets one after the other; a row without a path is named by its part and its number there."""

    def __init__(self, parts: Sequence[ItemDataset], names: Sequence[str], **given: Any) -> None:
        super().__init__(parts[0].name, Chained([p.items for p in parts]), **given)
        self.parts = list(parts)
        self.names = list(names)

    def row_name(self, index: int) -> str:
        """Return the row's path relative to the first source, or its part and number."""
        part, place = placed(self.parts, index)
        name = self.parts[part].row_name(place)
        root = self.parts[part].root
        if name == f"row {place}":
            return f"{self.names[part]} {name}"
        return name if root is None or root == self.root else str(root / name)


def joined(parts: Sequence[ItemDataset], splits: Sequence[str | None]) -> Joined:
    """Return datasets one after the other, the rows of each in the named split; None keeps a part's own splits.

    Raises:
        DataError: their targets have different names, or their modalities differ.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.modality != first.modality:
            raise DataError(f"{part.name} holds {part.kind.many}; {first.name} holds {first.kind.many}")
        if set(part.targets) != set(first.targets):
            raise DataError(f"{part.name} has the targets {list(part.targets)}; {first.name} has {list(first.targets)}")
    marks: list[str | None] = []
    unreadable: dict[int, str] = {}
    for part, split in zip(parts, splits, strict=True):
        unreadable |= {len(marks) + i: text for i, text in part.unreadable.items()}
        own = list(part.splits) if part.splits is not None else [None] * len(part)
        marks += own if split is None else [split] * len(part)
    grouped = any(p.groups is not None for p in parts)
    return Joined(
        parts,
        [s or "train" for s in splits],
        targets={n: [v for p in parts for v in p.targets[n]] for n in first.targets},
        modality=first.modality,
        columns=first.columns,
        others={n: [v for p in parts for v in p.others[n]] for n in first.others if all(n in p.others for p in parts)},
        splits=marks,
        root=first.root,
        notes=list(dict.fromkeys(n for p in parts for n in p.notes)),
        groups=[g for p in parts for g in (p.groups or [None] * len(p))] if grouped else None,
        unreadable=unreadable,
    )


def placed(parts: Sequence[Any], index: int) -> tuple[int, int]:
    """Return which part a row of the whole is in, and its number there."""
    for number, part in enumerate(parts):
        if index < len(part):
            return number, index
        index -= len(part)
    raise IndexError(index)


class Chained:
    """Sequences one after the other, without copying them."""

    def __init__(self, parts: Sequence[Indexable]) -> None:
        self.parts = list(parts)

    def __len__(self) -> int:
        return sum(len(p) for p in self.parts)

    def __getitem__(self, index: int) -> Any:
        part, place = placed(self.parts, index)
        return self.parts[part][place]
