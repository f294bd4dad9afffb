"""Tables: CSV, TSV, Parquet, JSONL and pandas frames with a column of image paths and a target column."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotransfer.data.dataset import ImageDataset
from autotransfer.data.image import SUFFIXES
from autotransfer.errors import DataError, suggestion

if TYPE_CHECKING:
    import pandas as pd

_LIKELY = ("label", "target", "class", "category", "y")


def read(source: Any, options: Mapping[str, Any]) -> ImageDataset | None:
    """Return a table with a column of image paths; None where the source is no table.

    Paths are relative to the table's folder; those of a frame to the working folder.

    Raises:
        DataError: the target column is missing or not said, no column holds images, or the file cannot be read.
    """
    if isinstance(source, (str, Path)) and Path(source).is_file():
        frame = _load(Path(source))
        root, name = Path(source).parent, str(source)
    elif type(source).__module__.split(".")[0] == "pandas" and hasattr(source, "columns"):
        frame, root, name = source, Path(), "table"
    else:
        return None
    if frame is None:
        return None
    if not len(frame):
        raise DataError(f"{name} has no rows")
    frame = frame.rename(columns=str)
    labelled = options.get("labelled", True)
    target = _target(frame, options, name) if labelled else None
    column = _image_column(frame, target, root, name)
    groups = _groups(frame, options.get("groups"), name)
    items = [_item(v, root) for v in frame[column].tolist()]
    splits = None
    if labelled and "split" in frame.columns and target != "split":
        splits = _splits(frame["split"].tolist(), name)
    targets = {target: [None if _empty(v) else v for v in frame[target].tolist()]} if target else {}
    note = f"images are taken from the column {column!r}" + (f", labels from {target!r}" if target else "")
    return ImageDataset(name, items, targets, splits=splits, root=root, notes=[note], groups=groups)


def _load(path: Path) -> pd.DataFrame | None:
    import pandas as pd

    kind = path.suffix.lower()
    try:
        if kind in (".csv", ".tsv"):
            return pd.read_csv(path, sep="\t" if kind == ".tsv" else ",", encoding="utf-8-sig")
        if kind in (".parquet", ".pq"):
            return pd.read_parquet(path)
        if kind in (".jsonl", ".ndjson"):
            return pd.read_json(path, lines=True)
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise DataError(f"{path} cannot be read as a table: {' '.join(str(error).split())[:200]}") from error
    return None


def _target(frame: pd.DataFrame, options: Mapping[str, Any], name: str) -> str:
    columns = list(frame.columns)
    given = options.get("target")
    if isinstance(given, (list, tuple)):
        raise DataError(f"several targets ({', '.join(map(str, given))}) are not supported yet; give one column name")
    if given is not None:
        if given not in columns:
            raise DataError(
                f"{name} has no column {given!r}{suggestion(str(given), columns)}; columns: {', '.join(columns)}"
            )
        return str(given)
    likely = [c for c in columns if c.lower() in _LIKELY]
    if len(likely) == 1:
        return likely[0]
    raise DataError(f"{name}: which column is the target? Say target=...; columns: {', '.join(columns)}")


def _image_column(frame: pd.DataFrame, target: str | None, root: Path, name: str) -> str:
    fits = [c for c in frame.columns if c != target and _share(frame[c].tolist()[:200]) > 0.5]
    if len(fits) == 1:
        return str(fits[0])
    if not fits:
        raise DataError(
            f"{name}: no column holds image paths (texts that end in .png, .jpg ...), and images are all that "
            f"autotransfer reads from tables so far; columns: {', '.join(map(str, frame.columns))}"
        )
    raise DataError(f"{name}: several columns hold images ({', '.join(map(str, fits))}); keep one of them")


def _share(values: list[Any]) -> float:
    return sum(_looks_like_image(v) for v in values) / max(1, len(values))


def _looks_like_image(value: Any) -> bool:
    if isinstance(value, (str, Path)):
        return Path(value).suffix.lower() in SUFFIXES
    if isinstance(value, dict):
        return "bytes" in value or "path" in value
    return type(value).__module__.split(".")[0] == "PIL"


def _item(value: Any, root: Path) -> Any:
    if isinstance(value, (str, Path)):
        return root / value
    if isinstance(value, dict) and not value.get("bytes") and value.get("path"):
        return root / value["path"]
    return value


def _empty(value: Any) -> bool:
    return (
        value is None or (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")
    )


def _splits(values: list[Any], name: str) -> list[str | None]:
    known = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
    unknown = sorted({str(v) for v in values if str(v).lower() not in known})
    if unknown:
        raise DataError(f"{name}: the column 'split' holds {', '.join(unknown[:5])}; wanted train, validation or test")
    return [known[str(v).lower()] for v in values]


def _groups(frame: pd.DataFrame, groups: Any, name: str) -> list[Any] | None:
    if groups is None:
        return None
    if not isinstance(groups, str):
        return list(groups)
    if groups not in frame.columns:
        raise DataError(f"{name} has no column {groups!r} for groups{suggestion(groups, map(str, frame.columns))}")
    return list(frame[groups].tolist())
