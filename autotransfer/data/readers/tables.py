"""Tables: CSV, TSV, Parquet, JSONL and pandas frames with a column of image paths and a target column."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from autotransfer.data.dataset import ImageDataset, groups_of
from autotransfer.data.image import SUFFIXES
from autotransfer.errors import DataError, faults, suggestion

if TYPE_CHECKING:
    import pandas as pd

_LIKELY = ("label", "target", "class", "category", "y")
_IMAGES = ("image", "image_path", "path", "file", "filename", "file_name")
_SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


def read(source: Any, options: Mapping[str, Any]) -> ImageDataset | None:
    """Return a table with a column of image paths; None where the source is no table.

    Paths are relative to the table's folder; those of a frame to the working folder. A column ``split`` of train,
    validation and test is followed.

    Raises:
        DataError: the target column is missing or not said, no column holds images, or the file cannot be read.
    """
    if isinstance(source, (str, Path)) and Path(source).is_file():
        frame = _load(Path(source))
        root, name = Path(source).absolute().parent, str(source)  # workers have another working folder
    elif type(source).__module__.split(".")[0] == "pandas" and hasattr(source, "columns"):
        frame, root, name = source, Path.cwd(), "the table"
    else:
        return None
    if frame is None:
        return None
    if not len(frame):
        raise DataError(f"{name} has no rows")
    frame = frame.rename(columns=str)
    if not frame.columns.is_unique:
        twice = sorted(set(frame.columns[frame.columns.duplicated()]))
        raise DataError(f"{name} has several columns of one name: {', '.join(twice)}; rename them")
    return _read(frame, root, name, options)


def _read(frame: pd.DataFrame, root: Path, name: str, options: Mapping[str, Any]) -> ImageDataset:
    """Return the frame's rows, or raise all that is wrong with its columns at once."""
    wrong: list[str] = []
    labelled, given = options.get("labelled", True), options.get("target")
    column = _image_column(frame, None if given is None else str(given), wrong)
    target = _target(frame, given, column, wrong) if labelled else None
    groups = options.get("groups") if labelled else None
    held: list[Any] | None = None
    try:
        inside = isinstance(groups, str) and groups in frame.columns
        held = groups_of(frame[groups].tolist() if inside else groups, len(frame), "it", list(frame.columns))
    except DataError as error:
        wrong.append(str(error))
    splits = _splits(frame, wrong) if labelled and "split" in frame.columns and target != "split" else None
    if wrong:
        raise DataError(faults(f"{name} cannot be used (columns: {', '.join(frame.columns)})", wrong))
    items = [_item(v, root) for v in frame[column].tolist()]
    note = f"images are taken from the column {column!r}" + (f", labels from {target!r}" if target else "")
    note += ", train, validation and test rows by 'split'" if splits else ""
    targets = {target: frame[target].tolist()} if target else {}
    return ImageDataset(name, items, targets, splits=splits, root=root, notes=[note], groups=held)


def _load(path: Path) -> pd.DataFrame | None:
    import pandas as pd

    kind = path.suffix.lower()
    try:
        if kind in (".csv", ".tsv"):
            return _with_zeros(pd.read_csv, path, sep="\t" if kind == ".tsv" else ",", encoding="utf-8-sig")
        if kind in (".parquet", ".pq"):
            return pd.read_parquet(path)
        if kind in (".jsonl", ".ndjson"):
            return pd.read_json(path, lines=True, dtype=False)
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as a table: {' '.join(str(error).split())[:200]}") from error
    return None


def _with_zeros(reader: Any, path: Path, **given: Any) -> pd.DataFrame:
    """Return a table of text in which codes such as ``007`` stay texts, which pandas makes numbers of."""
    frame = reader(path, **given)
    whole = [c for c in frame.columns if frame[c].dtype.kind == "i"]
    texts = reader(path, usecols=whole, dtype=str, **given) if whole else frame
    for name in whole:
        if texts[name].str.match(r"\s*0\d").any():
            frame[name] = texts[name]
    return cast("pd.DataFrame", frame)


def _target(frame: pd.DataFrame, given: Any, image: str, wrong: list[str]) -> str:
    columns = list(frame.columns)
    if given is not None and str(given) not in columns:
        wrong.append(f"there is no column {given!r}{suggestion(str(given), columns)}")
    if given is not None:
        return str(given)
    likely = [c for c in columns if c.lower() in _LIKELY] or [c for c in columns if image and c not in (image, "split")]
    if len(likely) != 1:
        wrong.append("which column is the target? Say target=...")
        return ""
    return likely[0]


def _image_column(frame: pd.DataFrame, target: str | None, wrong: list[str]) -> str:
    fits = [c for c in frame.columns if c != target and _share(frame[c].dropna().tolist()[:200]) > 0.5]
    fits = [c for c in fits if c.lower() in _IMAGES] or fits
    if len(fits) == 1:
        return str(fits[0])
    if not fits:
        wrong.append(
            "no column holds image paths (texts that end in .png, .jpg ...); text and audio are not supported yet"
        )
    else:
        wrong.append(f"several columns hold images ({', '.join(map(str, fits))}); call the right one 'image'")
    return ""


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


def _splits(frame: pd.DataFrame, wrong: list[str]) -> list[str | None]:
    names = [str(v).strip().lower() for v in frame["split"].fillna("train").tolist()]
    unknown = sorted({n for n in names if n not in _SPLITS})
    if unknown:
        wrong.append(
            f"the column 'split' holds {', '.join(unknown[:5])}; wanted train, validation or test (or another name "
            "for the column)"
        )
    return [_SPLITS.get(n) for n in names]
