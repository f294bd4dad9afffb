"""Hugging Face datasets and torch Datasets, known by what they can do: neither library is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotransfer.data.dataset import ImageDataset, Lazy, joined
from autotransfer.errors import DataError, suggestion

_IMAGES = ("image", "img", "picture", "pixels")
_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}


def read(source: Any, options: Mapping[str, Any]) -> ImageDataset | None:
    """Return a Hugging Face Dataset or DatasetDict, or a torch Dataset of (image, label); None for others.

    Raises:
        DataError: the columns are not clear, or a row is no pair.
    """
    if isinstance(source, Mapping) and source and all(hasattr(v, "column_names") for v in source.values()):
        known = {k: v for k, v in source.items() if k in _SPLITS}
        if "train" not in known:
            raise DataError(f"the dataset has the splits {', '.join(map(str, source))}; wanted one called train")
        parts = [_hugging_face(v, options) for v in known.values()]
        return joined(parts, [_SPLITS[k] for k in known])
    if hasattr(source, "column_names") and hasattr(source, "features"):
        return _hugging_face(source, options)
    indexable = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    plain = isinstance(source, (str, bytes, tuple, Mapping)) or type(source).__module__.split(".")[0] in (
        "numpy",
        "pandas",
    )
    if indexable and not plain and (not isinstance(source, list) or _pairs(source)):
        return _torch(source, options)
    return None


def _hugging_face(source: Any, options: Mapping[str, Any]) -> ImageDataset:
    columns = list(source.column_names)
    image = [c for c in columns if c in _IMAGES] or [
        c for c in columns if "Image" in type(source.features.get(c)).__name__
    ]
    if len(image) != 1:
        raise DataError(f"which column holds the image? Columns: {', '.join(columns)}; name it 'image'")
    if not options.get("labelled", True):
        return ImageDataset("dataset", Lazy(source, image[0]), {})
    target = options.get("target") or next((c for c in ("label", "labels", "target", "class") if c in columns), None)
    if target not in columns:
        hint = suggestion(str(target), columns)
        raise DataError(f"the dataset has no target column {target!r}{hint}; columns: {', '.join(columns)}")
    values = list(source[target])
    names = getattr(source.features.get(target), "names", None)
    if names:
        values = [None if v is None or v < 0 else names[v] for v in values]
    return ImageDataset("dataset", Lazy(source, image[0]), {str(target): values})


def _pairs(source: list[Any]) -> bool:
    return bool(source) and all(isinstance(r, (tuple, list)) and len(r) == 2 for r in source[:5])


def _torch(source: Any, options: Mapping[str, Any]) -> ImageDataset | None:
    if not len(source):
        raise DataError("the dataset has no rows")
    first = source[0]
    if not isinstance(first, (tuple, list)) or len(first) != 2:
        return None
    name = str(options.get("target") or "label")
    if not options.get("labelled", True):
        return ImageDataset("dataset", Lazy(source, 0), {})
    known = getattr(source, "targets", None)
    values = (
        list(known) if known is not None and len(known) == len(source) else [source[i][1] for i in range(len(source))]
    )
    values = [v.item() if hasattr(v, "item") and getattr(v, "ndim", 0) == 0 else v for v in values]
    classes = getattr(source, "classes", None)
    if classes is not None and all(isinstance(v, int) and 0 <= v < len(classes) for v in values):
        values = [str(classes[v]) for v in values]
    return ImageDataset("dataset", Lazy(source, 0), {name: values})
