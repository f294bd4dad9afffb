"""Tables: CSV, TSV, Parquet, JSONL and pandas frames with a column of items (or paths of them) and a target column."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, cast

from autotransfer.data.dataset import Indexable, ItemDataset, groups_of
from autotransfer.data.modalities import modality
from autotransfer.data.readers import parquet
from autotransfer.data.readers.columns import SAMPLED, Found, find_columns, lost, named
from autotransfer.data.text import encoding_of
from autotransfer.errors import DataError, faults

if TYPE_CHECKING:
    import pandas as pd

PARQUET = (".parquet", ".pq")
_LIKELY = ("label", "target", "class", "category", "y")
_SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


def read(source: Any, options: Mapping[str, Any]) -> ItemDataset | None:
    """Return a table with columns that hold items; None where the source is no table.

    Paths are relative to the table's folder; those of a frame to the working folder. A column ``split`` of train,
    validation and test is followed.

    Raises:
        DataError: the target column is missing or not said, no column holds items, or the file cannot be read.
    """
    if isinstance(source, (str, Path)) and Path(source).is_file():
        table = load(Path(source).absolute())  # workers have another working folder
        root, name = Path(source).absolute().parent, str(source)
    elif type(source).__module__.split(".")[0] == "pandas" and hasattr(source, "columns"):
        table, root, name = Table(source), Path.cwd(), "the table"
    else:
        return None
    return None if table is None else rows_of(table, root, name, options)


@dataclass(frozen=True)
class Table:
    """A table as it was read."""

    frame: pd.DataFrame
    told: Sequence[str] = ()
    """What to tell the user of the reading."""
    cells: Mapping[str, parquet.Cells] = field(default_factory=dict)
    """Columns of whole files that stay on disk, beside those of the frame."""

    @property
    def columns(self) -> list[str]:
        """The names of all columns."""
        return [*self.frame.columns, *self.cells]

    def values(self, column: str) -> Indexable:
        """Return a column by row."""
        return self.cells[column] if column in self.cells else self.frame[column].tolist()

    def sample(self, column: str) -> list[Any]:
        """Return some values of a column, missing ones left out."""
        if column in self.cells:
            return self.cells[column].first()
        found: list[Any] = self.frame[column].dropna().tolist()[:SAMPLED]
        return found


def rows_of(table: Table, root: PurePath, name: str, options: Mapping[str, Any]) -> ItemDataset:
    """Return a table's rows; errors as for :func:`read`.

    Args:
        table: as it was read.
        root: that paths are relative to; items that are paths are of its type.
        name: what the user knows the table by.
        options: of the reader.
    """
    if not len(table.frame):
        raise DataError(f"{name} has no rows")
    frame = table.frame.rename(columns=str)
    if not frame.columns.is_unique:
        twice = sorted(set(frame.columns[frame.columns.duplicated()]))
        raise DataError(f"{name} has several columns of one name: {', '.join(twice)}; rename them")
    return _read(replace(table, frame=frame), root, name, options)


def _read(table: Table, root: PurePath, name: str, options: Mapping[str, Any]) -> ItemDataset:
    """Return the table's rows, or raise all that is wrong with its columns at once."""
    frame = table.frame
    wrong: list[str] = []
    labelled = options.get("labelled", True)
    groups = options.get("groups") if labelled else None
    given = named(options.get("target"), frame.columns)
    found = _tried(wrong, _items, table, options, groups, given)
    targets = _targets(frame, given, found, groups, wrong) if labelled else []
    inside = isinstance(groups, str) and groups in frame.columns
    held = _tried(wrong, groups_of, frame[groups].tolist() if inside else groups, len(frame), "it", list(frame.columns))
    splits = _splits(frame, wrong) if labelled and "split" in frame.columns and "split" not in targets else None
    if wrong or found is None:
        raise DataError(faults(f"{name} cannot be used (columns: {', '.join(table.columns)})", wrong))
    used = {*found.columns, *targets, groups if inside else None, *(["split"] if splits else [])}
    items = _made(table, found, root)
    return ItemDataset(
        name,
        items,
        {target: frame[target].tolist() for target in targets},
        modality=found.kind.name,
        columns=found.columns,
        splits=splits,
        root=root if isinstance(root, Path) else None,
        notes=[_note(table, found, targets, groups if inside else None, splits), *table.told],
        groups=held,
        others={c: frame[c].tolist() for c in frame.columns if c not in used},
    )


def _made(table: Table, found: Found, root: PurePath) -> Indexable:
    """Return the items of the rows; whole files in large columns are read when they are asked for."""
    place = cast("Path", root)  # modalities put paths under it, whatever its type
    make = partial(_cell, found.kind.name, place)
    columns = {c: table.values(c) for c in found.columns}
    for values in columns.values():
        if isinstance(values, parquet.Cells):
            values.copied()
    rows = parquet.Rows(columns, make)
    return rows if any(parquet.cells_in(rows)) else [rows[i] for i in range(len(rows))]


def _cell(kind: str, root: Path, values: Mapping[str, Any]) -> Any:
    return modality(kind).cell(values, root)


def _tried(wrong: list[str], make: Any, *given: Any) -> Any:
    try:
        return make(*given)
    except DataError as error:
        wrong.append(str(error))
        return None


def _items(table: Table, options: Mapping[str, Any], groups: Any, given: Sequence[str]) -> Found:
    """Return the columns of the items: none of those that are something else by what the caller says or by name."""
    skip = set(given) if given else {c for c in table.columns if c.lower() in _LIKELY}
    skip |= {"split", *([groups] if isinstance(groups, str) else [])}
    return find_columns(table.columns, table.sample, options, skip)


def _note(table: Table, found: Found, targets: Sequence[str], groups: str | None, splits: Any) -> str:
    """Return what the columns were taken for."""
    shown = ", ".join(repr(c) for c in found.columns)
    several = len(found.columns) > 1
    note = f"{found.kind.many} are taken from the column{'s' if several else ''} {shown}"
    note += ", joined with their names" if several else ""
    note += f", labels from {', '.join(map(repr, targets))}" if targets else ""
    note += f", groups from {groups!r}" if groups else ""
    note += ", train, validation and test rows by 'split'" if splits else ""
    used = {*found.columns, *targets, groups, *(["split"] if splits else [])}
    rest = [repr(c) for c in table.columns if c not in used] if targets else []
    return note + (f"; not used: {', '.join(rest)}" if rest else "")


def load(path: Path) -> Table | None:
    """Return the table in a file; None where its name is that of none."""
    import pandas as pd

    kind = path.suffix.lower()
    try:
        if kind in (".csv", ".tsv"):
            encoding, told = encoding_of(path)
            between = "\t" if kind == ".tsv" else _delimiter(path, encoding)
            told += [f"its columns are told apart by {between!r}"] if kind == ".csv" and between != "," else []
            read = partial(pd.read_csv, path, sep=between, encoding=encoding)
            frame = _with_zeros(read)
            return Table(frame, told + _lost_words(read, frame))
        if kind in PARQUET:
            return of_parquet(parquet.LocalFile(path))
        if kind in (".jsonl", ".ndjson"):
            encoding, told = encoding_of(path)
            return Table(pd.read_json(path, lines=True, dtype=False, encoding=encoding), told)
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as a table: {' '.join(str(error).split())[:200]}") from error
    return None


def of_parquet(opened: parquet.Opened) -> Table:
    """Return the table in a Parquet file; errors as for :func:`parquet.load`."""
    frame, cells = parquet.load(opened)
    return Table(frame, cells=cells)


def _delimiter(path: Path, encoding: str) -> str:
    """Return what tells a file's columns apart: a comma, unless its first line has columns only by another one."""
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        head = file.readline()
    return next((d for d in ",;\t|" if len(next(csv.reader([head], delimiter=d), [])) > 1), ",")


def _lost_words(reader: Any, frame: pd.DataFrame) -> list[str]:
    """Return what to tell of words such as ``None`` in columns of text, which pandas reads as missing."""
    torn = [c for c in frame.columns if frame[c].isna().any() and frame[c].notna().any()]
    torn = [c for c in torn if all(isinstance(v, str) for v in frame[c].dropna())]
    if not torn:
        return []
    texts = reader(usecols=torn, dtype=str, keep_default_na=False)
    found = []
    for name in torn:
        counts = texts[name][frame[name].isna()].str.strip().value_counts()
        words = [f"{word!r} in {count} rows" for word, count in counts.items() if word]
        if words:
            found.append(
                f"the column {name!r} holds {', '.join(words[:5])}, read as missing; where that is a class or a text, "
                "write another word, or give the rows as a pandas DataFrame"
            )
    return found


def _with_zeros(reader: Any) -> pd.DataFrame:
    """Return a table of text in which codes such as ``007`` stay texts, which pandas makes numbers of."""
    frame = reader()
    whole = [c for c in frame.columns if frame[c].dtype.kind == "i"]
    texts = reader(usecols=whole, dtype=str) if whole else frame
    for name in whole:
        if texts[name].str.match(r"\s*0\d").any():
            frame[name] = texts[name]
    return cast("pd.DataFrame", frame)


def _targets(frame: pd.DataFrame, given: list[str], found: Found | None, groups: Any, wrong: list[str]) -> list[str]:
    columns = list(frame.columns)
    wrong += lost(given, columns)
    if given:
        return given
    other = {"split", *(found.columns if found else ()), *([groups] if isinstance(groups, str) else [])}
    likely = [c for c in columns if c.lower() in _LIKELY] or [c for c in columns if found and c not in other]
    if len(likely) != 1:
        wrong.append("which column is the target? Say target=...")
        return []
    return likely


def _splits(frame: pd.DataFrame, wrong: list[str]) -> list[str | None]:
    names = [str(v).strip().lower() for v in frame["split"].fillna("train").tolist()]
    unknown = sorted({n for n in names if n not in _SPLITS})
    if unknown:
        wrong.append(
            f"the column 'split' holds {', '.join(unknown[:5])}; wanted train, validation or test (or another name "
            "for the column)"
        )
    return [_SPLITS.get(n) for n in names]
