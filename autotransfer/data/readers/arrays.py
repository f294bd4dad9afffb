"""(X, y) in memory: arrays of images, lists of PIL images, arrays or paths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autotransfer.data.dataset import ImageDataset
from autotransfer.errors import DataError


def read(source: Any, options: Mapping[str, Any]) -> ImageDataset | None:
    """Return ``(X, y)``, or X alone where no labels are wanted; None for anything else.

    X is an array [N, H, W], [N, H, W, C] or [N, C, H, W] (C of 1, 3 or 4), or a list of PIL images, arrays or
    paths. y has one value a row, or is a 0-1 matrix [N, labels].

    Raises:
        DataError: lengths differ, or X is no images.
    """
    labelled = options.get("labelled", True)
    if isinstance(source, (str, Path, bytes, Mapping)):
        return None
    if labelled:
        if not isinstance(source, tuple) or len(source) != 2:
            return None
        x, y = source
    else:
        x, y = source, None
    items = images(x)
    groups = options.get("groups")
    if groups is not None and (isinstance(groups, str) or len(groups) != len(items)):
        raise DataError(f"groups must hold one value for each of the {len(items)} rows")
    held = None if groups is None else list(groups)
    if not labelled:
        return ImageDataset("arrays", items, {}, groups=held)
    values = _values(y)
    if len(items) != len(values):
        raise DataError(f"X has {len(items)} rows and y has {len(values)}; wanted one label a row")
    return ImageDataset("arrays", items, {str(options.get("target") or "y"): values}, groups=held)


def images(x: Any) -> Any:
    """Return X as something whose items are images.

    Raises:
        DataError: it is not.
    """
    x = x.detach().cpu().numpy() if hasattr(x, "detach") else x
    if isinstance(x, np.ndarray) and x.dtype != object and x.dtype.kind in "biuf":
        if x.ndim == 4 and x.shape[1] in (1, 3, 4) and x.shape[3] not in (1, 3, 4):
            x = x.transpose(0, 2, 3, 1)
        if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 3, 4)):
            raise DataError(f"X has shape {list(x.shape)}; wanted images [N, H, W], [N, H, W, C] or [N, C, H, W]")
        if not len(x):
            raise DataError("X has no rows")
        return _even_range(x)
    items = list(x.tolist() if isinstance(x, np.ndarray) else x) if not hasattr(x, "tolist") else list(x.tolist())
    if not items:
        raise DataError("X has no rows")
    return [Path(i) if isinstance(i, str) else i for i in items]


def _even_range(x: np.ndarray[Any, Any]) -> Any:
    """Return whole-number or float arrays of odd range in one common scale: by the array's range, not an image's."""
    if x.dtype in (np.uint8, np.bool_):
        return x
    if not np.isfinite(x).all():
        raise DataError("X holds values that are not finite")
    top, low = float(x.max()), float(x.min())
    if low < 0:
        raise DataError(f"X holds values from {low:g} to {top:g}; wanted pixels in 0..1, 0..255 or 0..65535")
    full = 1.0 if top <= 1 and x.dtype.kind == "f" else 16.0 if top <= 16 else 255.0 if top <= 255 else 65535.0
    return Scaled(x, full)


class Scaled:
    """An array's images as ``uint8``, scaled from ``[0, full]`` when asked for."""

    def __init__(self, values: np.ndarray[Any, Any], full: float) -> None:
        self.values = values
        self.full = full

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> np.ndarray[Any, Any]:
        scaled = self.values[index].astype(np.float64) * (255.0 / self.full)
        pixels: np.ndarray[Any, Any] = np.clip(scaled + 0.5, 0, 255).astype(np.uint8)
        return pixels


def _values(y: Any) -> list[Any]:
    if y is None:
        raise DataError("y is None; wanted one label a row")
    y = y.detach().cpu().numpy() if hasattr(y, "detach") else y
    if isinstance(y, np.ndarray) and y.ndim == 2:
        return list(y) if y.shape[1] > 1 else y[:, 0].tolist()
    if hasattr(y, "tolist"):
        y = y.tolist()
    return [None if v is None or (isinstance(v, float) and v != v) else v for v in y]
