"""Readers: a source becomes a Dataset. Plugins are asked first, then the built-in readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autotransfer.data.modalities import modality
from autotransfer.data.readers import arrays, datasets, folders, remote, tables
from autotransfer.errors import DataError, suggestion
from autotransfer.protocols import Dataset
from autotransfer.registry import Registry

ACCEPTED = (
    "a folder of class folders (flat, or under train/ val/ test/), a CSV, TSV, Parquet or JSONL table with a column of "
    "file paths or of texts, a pandas DataFrame, (X, y) of arrays, PIL images, texts or paths, a Hugging Face dataset, "
    "or a torch Dataset; folders and tables also by URL (s3://bucket/pets/, file:///data/pets)"
)
_BUILT_IN: tuple[Callable[[Any, Mapping[str, Any]], Dataset | None], ...] = (
    remote.read,
    folders.read,
    tables.read,
    datasets.read,
    arrays.read,
)


def read(source: Any, registry: Registry | None = None, **options: Any) -> Dataset:
    """Return a source as a Dataset.

    Args:
        source: one of ``ACCEPTED``.
        registry: its plugins are asked first.
        **options: ``target`` (a list of names where there are several), ``modality``, ``task`` and ``groups`` as the
            caller gave them; ``labelled=False`` for rows to predict; ``columns`` that the items of an earlier source
            were taken from.

    Raises:
        DataError: no reader takes the source, or it is not what it seems.
    """
    if source is None or (isinstance(source, str) and not source.strip()):
        raise DataError(f"the data are {source!r}; wanted {ACCEPTED}")
    source = remote.local(source)
    named = options.get("modality")
    if named is not None:
        modality(named)  # tells of a wrong name
    found = registry.read_dataset(source, options) if registry is not None else None
    if found is not None:
        return found
    for reader in _BUILT_IN:
        found = reader(source, options)
        if found is not None:
            return found
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.exists():
            beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise DataError(f"{str(source)!r} does not exist{suggestion(path.name, beside)}; wanted {ACCEPTED}")
        raise DataError(f"{str(source)!r} is no kind of data that is known; wanted {ACCEPTED}")
    raise DataError(f"data of type {type(source).__name__} is not known; wanted {ACCEPTED}")
