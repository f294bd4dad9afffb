"""Parquet tables: cells that hold whole files (pictures, sounds) stay on disk, however large the table is.

A row of Parquet cannot be read alone, only the row group that it is in, which may be the whole file. So such a column
is copied once, a few rows at a time, to a file in which each cell is found by its number.
"""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotransfer.data.dataset import Chained, Indexable
from autotransfer.errors import DataError
from autotransfer.scratch import scratch

if TYPE_CHECKING:
    import pandas as pd

LARGE = 64 * 2**20
"""Bytes of a column, uncompressed, from which on it stays on disk."""
AT_ONCE, LOOKED_AT = 16, 20
"""Rows that are in memory while a column is copied, and that are looked at to tell what it holds."""
PREFIX = "autotransfer-cells-"
Opened = Callable[[], Any]
"""Gives a Parquet file to read from its beginning; another process may have it, so it is picklable."""


@dataclass(frozen=True)
class LocalFile:
    """Opens a file of this machine."""

    path: Path

    def __call__(self) -> Any:
        """Return it open for reading."""
        return self.path.open("rb")


@dataclass(frozen=True)
class FarFile:
    """Opens a file of another file system of fsspec."""

    files: Any
    path: str

    def __call__(self) -> Any:
        """Return it open for reading."""
        return self.files.open(self.path, "rb")


@dataclass(frozen=True)
class CarriedFile:
    """Opens a file that is a part of a piece which travels with the data."""

    piece: Callable[[int], Any]
    number: int
    begin: int
    end: int

    def __call__(self) -> Any:
        """Return it open for reading."""
        import pyarrow as pa

        return pa.BufferReader(self.piece(self.number)[self.begin : self.end])


class Cells:
    """A column of whole files, by row: ``bytes``, or ``bytes`` and ``path`` by name as Hugging Face writes them.

    Args:
        opened: the table.
        column: its name there.
        count: of its rows.
    """

    def __init__(self, opened: Opened, column: str, count: int) -> None:
        self.opened = opened
        self.column = column
        self.count = count
        self.folder = ""
        """Where the copy lies; another process of this machine reads the same one."""
        self._forget()

    def _forget(self) -> None:
        self.lock = threading.Lock()
        self.copy: _Copy | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {n: v for n, v in vars(self).items() if n not in ("lock", "copy")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.copied()[index]

    def copied(self) -> _Copy:
        """Return the copy, made now where there is none on this machine.

        Raises:
            DataError: it cannot be made.
        """
        with self.lock:
            if self.copy is None:
                try:
                    self.copy = self._found() or self._made()
                except OSError as error:
                    raise DataError(
                        f"the files in the column {self.column!r} are copied to {tempfile.gettempdir()}, and that "
                        f"failed: {error.strerror or error}; let TMPDIR name a folder with room for them"
                    ) from error
            return self.copy

    def first(self) -> list[Any]:
        """Return the first few cells that hold something; nothing is copied for it."""
        found: list[Any] = []
        for cell in self._read(LOOKED_AT):
            found += [cell] if cell is not None else []
            if len(found) == LOOKED_AT:
                break
        return found

    def _read(self, rows: int = AT_ONCE) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with self.opened() as file:
                # Page by page (of 1,024 cells where Arrow wrote them): a column's chunk may be as large as the file.
                table = pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20)
                for batch in table.iter_batches(rows, columns=[self.column], use_threads=False):
                    yield from (cell.as_py() for cell in batch.column(0))
        except (OSError, ValueError, pa.ArrowException) as error:  # no writer's: those are raised where it writes
            said = " ".join(str(error).split())[:200]
            raise DataError(f"the column {self.column!r} of the Parquet table cannot be read: {said}") from error

    def _found(self) -> _Copy | None:
        try:
            return _Copy(Path(self.folder)) if self.folder else None
        except OSError:  # it is another machine's, or its process has ended
            return None

    def _made(self) -> _Copy:
        import pyarrow as pa

        stack = ExitStack()
        folder = stack.enter_context(scratch(PREFIX))
        weakref.finalize(self, stack.close)  # at the end of the process at the latest
        ends = np.zeros(self.count + 1, np.int64)
        with (folder / _BODIES).open("wb") as bodies:
            for number, cell in enumerate(self._read()):
                ends[number + 1] = ends[number] + bodies.write(_packed(cell))
        np.save(folder / _ENDS, ends)
        pa.default_memory_pool().release_unused()
        self.folder = str(folder)
        return _Copy(folder)


_BODIES, _ENDS = "bodies", "ends.npy"
_PLAIN = b"\x00"
"""First byte of a cell that is the file alone; else the length of its path, in four bytes, and the path follow."""
_NAMED = b"\x01"


def _packed(cell: Any) -> bytes:
    if cell is None:
        return b""
    if not isinstance(cell, dict):
        return _PLAIN + bytes(cell)
    path = (cell.get("path") or "").encode()
    return _NAMED + len(path).to_bytes(4, "little") + path + bytes(cell.get("bytes") or b"")


def _unpacked(body: bytes) -> Any:
    if not body:
        return None
    if body[:1] == _PLAIN:
        return body[1:]
    begin = 5 + int.from_bytes(body[1:5], "little")
    return {"bytes": body[begin:] or None, "path": body[5:begin].decode() or None}


class _Copy:
    """A copied column, mapped; it stays readable when the folder goes."""

    def __init__(self, folder: Path) -> None:
        self.ends = np.load(folder / _ENDS, mmap_mode="r")
        empty, path = self.ends[-1] == 0, folder / _BODIES  # nothing cannot be mapped
        self.bodies = np.zeros(0, np.uint8) if empty else np.memmap(path, np.uint8, "r")

    def __getitem__(self, index: int) -> Any:
        begin, end = int(self.ends[index]), int(self.ends[index + 1])
        return _unpacked(self.bodies[begin:end].tobytes())


def load(opened: Opened) -> tuple[pd.DataFrame, dict[str, Cells]]:
    """Return a table, and apart from it its columns of whole files that are large.

    Args:
        opened: the file.

    Raises:
        OSError, ValueError: it cannot be read, or is no Parquet.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    with opened() as file:
        table = pq.ParquetFile(file)
        schema, count = table.schema_arrow, table.metadata.num_rows
        sizes = _sizes(table.metadata)
        large = [f.name for f in schema if _holds_files(f.type) and sizes.get(f.name, 0) > LARGE]
    with opened() as file:
        if not large:
            return pd.read_parquet(file), {}
        rest = [name for name in schema.names if name not in large]
        frame = pd.read_parquet(file, columns=rest) if rest else pd.DataFrame(index=range(count))
    return frame, {name: Cells(opened, name, count) for name in large}


def _sizes(metadata: Any) -> dict[str, int]:
    """Return uncompressed bytes by column, of all row groups."""
    found: dict[str, int] = {}
    for group in range(metadata.num_row_groups):
        for place in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(place)
            name = chunk.path_in_schema.split(".")[0]
            found[name] = found.get(name, 0) + chunk.total_uncompressed_size
    return found


def _holds_files(kind: Any) -> bool:
    """Return whether cells are bytes, or bytes with a path."""
    import pyarrow.types as types

    if types.is_struct(kind):
        inner = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        return set(inner) <= {"bytes", "path"} and "bytes" in inner and _holds_files(inner["bytes"])
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


class Rows:
    """Items of a table some of whose columns are :class:`Cells`.

    Args:
        columns: values by row, by the names of the columns that hold the items.
        made: makes an item of a row's values by column; picklable.
    """

    costly = True
    """Taking an item reads it."""

    def __init__(self, columns: Mapping[str, Indexable], made: Callable[[dict[str, Any]], Any]) -> None:
        self.columns = columns
        self.made = made

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> Any:
        return self.made({name: values[index] for name, values in self.columns.items()})


def cells_in(items: Indexable) -> Iterator[Cells]:
    """Yield all columns of whole files that items are taken from."""
    for part in getattr(items, "parts", ()):
        yield from cells_in(part)
    if isinstance(items, Rows):
        yield from (c for c in items.columns.values() if isinstance(c, Cells))


def reopened(items: Indexable, place: Callable[[Path], Opened | None]) -> Indexable:
    """Return the same items, whole files taken from tables that lie elsewhere.

    Args:
        items: rows of tables, or of anything else.
        place: opens the table that lay at a path of this machine; None: it is still there.
    """
    if isinstance(items, Chained):
        return Chained([reopened(part, place) for part in items.parts])
    if not isinstance(items, Rows):
        return items

    def there(values: Indexable) -> Indexable:
        if not isinstance(values, Cells) or not isinstance(values.opened, LocalFile):
            return values
        opened = place(values.opened.path)
        return values if opened is None else Cells(opened, values.column, values.count)

    return Rows({name: there(values) for name, values in items.columns.items()}, items.made)
