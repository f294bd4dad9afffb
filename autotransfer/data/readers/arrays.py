"""(X, y) in memory: arrays, lists of texts, images, waveforms or paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autotransfer.data.dataset import ItemDataset, groups_of
from autotransfer.data.modalities import modalities
from autotransfer.data.readers.columns import by_target, lost
from autotransfer.errors import DataError, faults


def read(source: Any, options: Mapping[str, Any]) -> ItemDataset | None:
    """Return ``(X, y)``, or X alone where no labels are wanted; None for anything else.

    What X may hold is told by each modality's ``listed``; where several could own it, the first does, and
    ``modality=`` says otherwise. y has one value a row, or is a 0-1 matrix [N, labels]; of several targets it is a
    table with a column for each, or has their labels in each row.

    Raises:
        DataError: lengths differ, X holds no items that are known, or groups do not fit; all of these at once.
    """
    labelled = options.get("labelled", True)
    if isinstance(source, (str, Path, bytes, Mapping)):
        return None
    if labelled and (not isinstance(source, tuple) or len(source) != 2):
        return None
    x, y = source if labelled else (source, None)
    wrong: list[str] = []
    found: _Listed | None = _tried(wrong, _items, x, options.get("modality"))
    items = found.items if found is not None else None
    target = options.get("target")
    names = list(target) if isinstance(target, (list, tuple)) else []
    values = _tried(wrong, *((_rows, y, names) if names else (_values, y))) if labelled else []
    if items is not None and labelled and values is not None and len(items) != len(values):
        wrong.append(f"X has {len(items)} rows and y has {len(values)}; wanted one label a row")
    groups = _tried(wrong, groups_of, options.get("groups"), len(items), "X") if items is not None else None
    if wrong or found is None:
        raise DataError(faults("the arrays cannot be used", wrong))
    targets = by_target(values, names) if names else {str(target or "y"): values}
    kept: dict[str, Any] = {"modality": found.kind, "root": Path.cwd(), "groups": groups, "notes": found.notes}
    return ItemDataset("arrays", found.items, targets if labelled else {}, **kept)


@dataclass(frozen=True)
class _Listed:
    """X as items of one modality."""

    kind: str
    items: Any
    notes: list[str]


def _tried(wrong: list[str], make: Any, *given: Any) -> Any:
    try:
        return make(*given)
    except DataError as error:
        wrong.append(str(error))
        return None


def _items(x: Any, asked: str | None) -> _Listed:
    if hasattr(x, "columns") and hasattr(x, "iloc"):
        if len(x.columns) != 1:
            raise DataError(f"X is a table of {len(x.columns)} columns; wanted items, or one column of them")
        x = x.iloc[:, 0]
    numeric = isinstance(x, np.ndarray) and x.dtype.kind in "biufc"
    listed = x if numeric or hasattr(x, "detach") or isinstance(x, tuple) else _as_list(x)
    owners = [k for k in modalities(asked) if asked is not None or k.owns(listed)]
    # What nobody owns is refused by the first in its own words.
    kind = owners[0] if owners else modalities()[0]
    items, notes = kind.listed(listed)
    return _Listed(kind.name, items, notes)


def _as_list(x: Any) -> Any:
    if hasattr(x, "tolist"):
        return x.tolist()
    return list(x) if hasattr(x, "__iter__") and not isinstance(x, (str, bytes)) else x


def _rows(y: Any, names: Sequence[str]) -> list[Any]:
    """Return y as the labels of each row in the order of several targets.

    Raises:
        DataError: it is neither a table or a mapping of columns of these names, nor rows of labels.
    """
    if isinstance(y, Mapping) or hasattr(y, "columns"):
        y = y if isinstance(y, Mapping) else y.rename(columns=str)
        columns = [str(c) for c in y]
        found = lost(names, columns)
        if found:
            raise DataError(f"y: {'; '.join(found)}; columns: {', '.join(columns)}")
        return [list(row) for row in zip(*(y[n] for n in names), strict=True)]
    if y is None or isinstance(y, (str, bytes)) or not hasattr(y, "__iter__"):
        raise DataError(
            f"y is {y!r:.60}; wanted a table with the columns {', '.join(names)}, or rows of as many labels"
        )
    rows = list(y)
    by_target(rows, names)  # tells of rows that hold something else
    return rows


def _values(y: Any) -> list[Any]:
    """Return y as one value a row.

    Raises:
        DataError: it is None, a single value, or of more than two dimensions.
    """
    if y is None:
        raise DataError("y is None; wanted one label a row")
    y = y.detach().cpu().numpy() if hasattr(y, "detach") else y
    y = y.to_numpy() if hasattr(y, "columns") and hasattr(y, "to_numpy") else y
    if isinstance(y, np.ndarray) and y.ndim not in (1, 2):
        raise DataError(f"y has shape {list(y.shape)}; wanted [N], or a 0-1 matrix [N, labels]")
    if isinstance(y, np.ndarray) and y.ndim == 2 and y.shape[1] > 1 and y.dtype.kind in "biuf":
        odd = np.unique(y[~np.isin(y, (0, 1))])[:3].tolist()
        if odd:
            raise DataError(
                f"y is a matrix {list(y.shape)} that holds {', '.join(map(repr, odd))}; wanted 0 and 1 (whether a row "
                "has a label), one value a row, or target=[names] for several targets"
            )
    if isinstance(y, np.ndarray) and y.ndim == 2:
        return list(y) if y.shape[1] > 1 else list(y[:, 0].tolist())
    if isinstance(y, (str, bytes)) or not hasattr(y, "__iter__"):
        raise DataError(f"y is {y!r}; wanted one label a row")
    return list(y.tolist()) if hasattr(y, "tolist") else list(y)
