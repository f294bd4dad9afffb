"""Pixels of a dataset's images, decoded and resized once for every backbone, trial and run that wants them so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import PIL

from autotransfer.data.image import as_image, normalised, window

if TYPE_CHECKING:
    from torch import Tensor

    from autotransfer.spec import ImageInput

VERSION = 1
"""Of what is kept; raised whenever :func:`autotransfer.data.image.window` gives other pixels."""
Array = np.ndarray[Any, Any]


class Pixels:
    """What :func:`autotransfer.data.image.window` gives without augmentation; a transform of ``Blocks``.

    Mean and standard deviation are no part of what is kept.
    """

    name = "pixels"
    lengths = ""

    def key(self, spec: ImageInput) -> tuple[Any, ...]:
        """Return the geometric transform."""
        return VERSION, PIL.__version__, spec.size, spec.channels, spec.interpolation, spec.crop

    def shapes(self, count: int, spec: ImageInput) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Return shape and type of the pixels of so many images."""
        return {"pixels": ((count, spec.size, spec.size, spec.channels), np.uint8)}

    def put(self, to: dict[str, Array], slot: int, decoded: Any, spec: ImageInput) -> None:
        """Write the window of one image."""
        to["pixels"][slot] = window(as_image(decoded), spec)

    def inputs(self, rows: dict[str, Array], spec: ImageInput) -> Tensor:
        """Return ``float32`` [B, channels, size, size]."""
        return normalised(rows["pixels"], spec)
