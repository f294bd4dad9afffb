"""(X, y) in memory: arrays of images, lists of PIL images, arrays or paths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autotransfer.data.dataset import ImageDataset, groups_of
from autotransfer.data.image import SUFFIXES, to_bytes, white_of
from autotransfer.errors import DataError, faults


def read(source: Any, options: Mapping[str, Any]) -> ImageDataset | None:
    """Return ``(X, y)``, or X alone where no labels are wanted; None for anything else.

    X is an array [N, H, W], [N, H, W, C] or [N, C, H, W] (C of 1, 3 or 4), or a list of PIL images, arrays or
    paths. y has one value a row, or is a 0-1 matrix [N, labels]. What white is in pixels that are not ``uint8`` is
    said by :func:`autotransfer.data.image.white_of`, once for all of X.

    Raises:
        DataError: lengths differ, X is no images, or groups do not fit; all of these at once.
    """
    labelled = options.get("labelled", True)
    if isinstance(source, (str, Path, bytes, Mapping)):
        return None
    if labelled and (not isinstance(source, tuple) or len(source) != 2):
        return None
    x, y = source if labelled else (source, None)
    wrong: list[str] = []
    items = _tried(wrong, images, x)
    values = _tried(wrong, _values, y) if labelled else []
    if items is not None and labelled and values is not None and len(items) != len(values):
        wrong.append(f"X has {len(items)} rows and y has {len(values)}; wanted one label a row")
    groups = _tried(wrong, groups_of, options.get("groups"), len(items), "X") if items is not None else None
    if wrong:
        raise DataError(faults("the arrays cannot be used", wrong))
    targets = {str(options.get("target") or "y"): values} if labelled else {}
    return ImageDataset("arrays", items, targets, root=Path.cwd(), groups=groups, notes=_notes(items))


def _tried(wrong: list[str], make: Any, *given: Any) -> Any:
    try:
        return make(*given)
    except DataError as error:
        wrong.append(str(error))
        return None


def images(x: Any) -> Any:
    """Return X as something whose items are images.

    Raises:
        DataError: it is not.
    """
    x = x.detach().cpu().numpy() if hasattr(x, "detach") else x
    if hasattr(x, "columns") and hasattr(x, "iloc"):
        if len(x.columns) != 1:
            raise DataError(f"X is a table of {len(x.columns)} columns; wanted images, or one column of their paths")
        x = x.iloc[:, 0]
    if isinstance(x, np.ndarray) and x.dtype.kind in "biuf":
        if x.ndim == 4 and x.shape[1] in (1, 3, 4) and x.shape[3] not in (1, 3, 4):
            x = x.transpose(0, 2, 3, 1)
        if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 3, 4)):
            raise DataError(
                f"X has shape {list(x.shape)}; wanted images [N, H, W], [N, H, W, C] or [N, C, H, W] "
                "(text and audio are not supported yet)"
            )
        if not x.size:
            raise DataError(f"X has shape {list(x.shape)}: there are no rows, or no pixels in them")
        return x if x.dtype == np.uint8 else Scaled(x, white_of(x))
    if not hasattr(x, "__iter__"):
        raise DataError(f"X is {type(x).__name__}; wanted an array of images, or a list of PIL images, arrays or paths")
    return _listed(list(x.tolist()) if hasattr(x, "tolist") else list(x))


def _listed(items: list[Any]) -> Any:
    if not items:
        raise DataError("X has no rows")
    texts = [i for i in items if isinstance(i, str)]
    if len(texts) == len(items) and not any(Path(t[-200:]).suffix.lower() in SUFFIXES for t in texts):
        raise DataError(
            f"X holds texts ({texts[0][:40]!r} ...) and no paths of images (.png, .jpg ...); text is not supported yet"
        )
    # Workers have another working folder.
    items = [Path(i).absolute() if isinstance(i, (str, Path)) else i for i in items]
    odd = [i for i in items if isinstance(i, np.ndarray) and i.dtype != np.uint8 and i.dtype.kind in "biuf" and i.size]
    if odd and len(odd) == len(items):
        ends = np.array([end for i in odd for end in (i.min(), i.max())], dtype=np.float64)
        return Scaled(items, white_of(ends))
    return items


class Scaled:
    """Images in one common scale, made ``uint8`` when asked for."""

    def __init__(self, values: Any, white: float) -> None:
        self.values = values
        self.white = white

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> np.ndarray[Any, Any]:
        return to_bytes(self.values[index], self.white)


def _notes(items: Any) -> list[str]:
    return [f"pixels were taken to go from 0 (black) to {items.white:g} (white)"] if isinstance(items, Scaled) else []


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
    if isinstance(y, np.ndarray) and y.ndim == 2:
        return list(y) if y.shape[1] > 1 else list(y[:, 0].tolist())
    if isinstance(y, (str, bytes)) or not hasattr(y, "__iter__"):
        raise DataError(f"y is {y!r}; wanted one label a row")
    return list(y.tolist()) if hasattr(y, "tolist") else list(y)
