"""Folders, tables and files on another file system, by URL: listed by fsspec, read in place and row by row.

``s3://bucket/pets/``, ``memory://pets``, and whatever else fsspec has an implementation of. Where a store is and who
may read it is said by fsspec's own environment (``FSSPEC_S3_ENDPOINT_URL``, ``FSSPEC_S3_KEY`` ...) or the store's
(``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID`` ...); the former travels to workers with the rows.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from autotransfer.data.dataset import ItemDataset, Lazy, costly, groups_of
from autotransfer.data.modalities import TABLES
from autotransfer.data.readers import folders, tables
from autotransfer.data.readers.parquet import FarFile
from autotransfer.errors import DataError

EXTRAS = {"s3": "s3", "s3a": "s3"}
"""Extras of this package, by the scheme that needs them."""
_LOCAL = ("file", "local")


def is_url(source: Any) -> bool:
    """Return whether a source names something by a scheme, as ``s3://`` does."""
    text = source if isinstance(source, str) else ""
    scheme, found, _ = text.partition("://")
    return bool(found) and scheme.replace("+", "").replace("-", "").isalnum()


def local(source: Any) -> Any:
    """Return a source as it is, ``file://`` as a path of this machine."""
    if not is_url(source) or urlsplit(source).scheme not in _LOCAL:
        return source
    return url2pathname(urlsplit(source).path)


def read(source: Any, options: Mapping[str, Any]) -> ItemDataset | None:
    """Return what a URL names: class folders, a table, or where no labels are wanted files; None for anything else.

    Raises:
        DataError: there is nothing, it cannot be reached, a package is missing, or it is not what it seems.
    """
    if not is_url(source):
        return None
    try:
        files, root = _opened(source)
        found = [PurePosixPath(p) for p in sorted(files.find(root))] if not files.isfile(root) else None
    except DataError:
        raise
    except Exception as error:  # every store has errors of its own
        raise DataError(f"{source} cannot be read: {type(error).__name__}: {_short(error)}") from error
    if found is None:
        return _file(files, PurePosixPath(root), source, options)
    if not found:
        raise DataError(f"{source} does not exist, or holds no files; wanted a folder of class folders, or a table")
    return _folder(files, PurePosixPath(root), found, source, options)


class Remote(ItemDataset):
    """Rows whose files lie on another file system; each is read when it is asked for, and nothing is copied.

    Args:
        dataset: the rows; those that are a ``PurePosixPath`` are read from there.
        files: the file system.
        root: that row names are relative to.
    """

    def __init__(self, dataset: ItemDataset, files: Any, root: PurePosixPath) -> None:
        vars(self).update(vars(dataset))
        self.places = dataset.items
        self.base = root
        self.root = None
        self.items = Lazy(_Read(files, dataset.items), None)

    def row_name(self, index: int) -> str:
        """Return the row's path relative to the source, or its number; nothing is read for it."""
        place = None if costly(self.places) else self.places[index]
        if not isinstance(place, PurePosixPath):
            return f"row {index}"
        return str(place.relative_to(self.base) if place.is_relative_to(self.base) else place)


class _Read:
    """Contents of files by row number."""

    def __init__(self, files: Any, places: Any) -> None:
        self.files = files
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Any:
        place = self.places[index]
        if not isinstance(place, PurePosixPath):
            return place
        try:
            return self.files.cat_file(str(place))
        except Exception as error:  # every store has errors of its own
            raise DataError(f"{place.name} cannot be read: {type(error).__name__}: {_short(error)}") from error


def _opened(source: str) -> tuple[Any, str]:
    """Return the file system of a URL and the path there."""
    import fsspec
    from fsspec.registry import known_implementations

    scheme = urlsplit(source).scheme
    try:
        files, path = fsspec.core.url_to_fs(source)
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        known = known_implementations.get(scheme, {}).get("err", str(error))
        what = f"pip install 'autotransfer[{extra}]'" if extra else known
        raise DataError(f"{source} needs a package that is not installed: {what}") from error
    except ValueError as error:
        raise DataError(f"{source} cannot be read: no file system is known for {scheme}://") from error
    return files, str(path).rstrip("/")


def _file(files: Any, place: PurePosixPath, source: str, options: Mapping[str, Any]) -> ItemDataset:
    """Return a table's rows, or one file as one row."""
    if place.suffix.lower() not in TABLES:
        if options.get("labelled", True):
            raise DataError(f"{source} is one file and no table; wanted a folder of class folders, or a table")
        kind = folders.kind_of([place], source, options.get("modality"))
        return Remote(ItemDataset(source, [place], {}, modality=kind.name), files, place.parent)
    try:
        table = _table(files, place, source)
    except DataError:
        raise
    except Exception as error:  # every store has errors of its own
        raise DataError(f"{source} cannot be read: {type(error).__name__}: {_short(error)}") from error
    return Remote(tables.rows_of(table, place.parent, source, options), files, place.parent)


def _table(files: Any, place: PurePosixPath, source: str) -> tables.Table:
    """Return a table; of Parquet only what is needed is fetched, any other is copied first."""
    if place.suffix.lower() in tables.PARQUET:
        return tables.of_parquet(FarFile(files, str(place)))
    handle, copy = tempfile.mkstemp(suffix=place.suffix)
    os.close(handle)
    try:
        files.get_file(str(place), copy)
        table = tables.load(Path(copy))
    except DataError as error:
        raise DataError(str(error).replace(copy, source)) from error
    finally:
        os.unlink(copy)
    assert table is not None  # its suffix is a table's
    return table


def _folder(
    files: Any, root: PurePosixPath, found: Sequence[PurePosixPath], source: str, options: Mapping[str, Any]
) -> ItemDataset:
    """Return class folders' files, flat or under train/, val/ and test/; without labels all files."""
    shown = [p for p in found if not any(part.startswith(".") for part in p.relative_to(root).parts)]
    kind = folders.kind_of(shown, source, options.get("modality"))
    items = [p for p in shown if p.suffix.lower() in kind.suffixes]
    if not options.get("labelled", True):
        if not items:
            raise DataError(f"the folder {source!r} holds no {kind.name}")
        return Remote(ItemDataset(source, items, {}, modality=kind.name), files, root)
    if isinstance(options.get("target"), (list, tuple)):
        asked = ", ".join(map(str, options["target"]))
        raise DataError(f"class folders give one target, {asked} were asked; give a table with a column for each")
    split = any(len(p) > 2 and folders.SPLITS.get(p[0].lower()) == "train" for p in _inside(items, root))
    split = split or all(len(p) > 2 and p[0].lower() in folders.SPLITS for p in _inside(items, root))
    rows = [(p, *_labelled(inside, split)) for p, inside in zip(items, _inside(items, root), strict=True)]
    used = [(p, label, part) for p, label, part in rows if label]
    if not used:
        raise DataError(
            f"the folder {source!r} holds no {kind.name} in class folders; wanted one folder a class, with its "
            f"{kind.many} inside: pets/cat/1.jpg, pets/dog/2.jpg"
        )
    left = len(found) - len(used)
    dataset = ItemDataset(
        source,
        [p for p, _, _ in used],
        {str(options.get("target") or "class"): [label for _, label, _ in used]},
        modality=kind.name,
        splits=[part for _, _, part in used] if split else None,
        notes=[f"{left} files that are no {kind.many} in class folders were left aside"] * bool(left),
        groups=groups_of(options.get("groups"), len(used), source),
    )
    return Remote(dataset, files, root)


def _inside(items: Sequence[PurePosixPath], root: PurePosixPath) -> list[tuple[str, ...]]:
    return [p.relative_to(root).parts for p in items]


def _labelled(inside: Sequence[str], split: bool) -> tuple[str, str | None]:
    """Return the class of a file, empty where it is in no class folder, and its split."""
    if not split:
        return (inside[0], None) if len(inside) > 1 else ("", None)
    part = folders.SPLITS.get(inside[0].lower())
    return (inside[1], part) if part is not None and len(inside) > 2 else ("", None)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
