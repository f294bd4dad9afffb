"""Rows of a dataset prepared for one backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autotransfer.data.image import as_image, normalised, window
from autotransfer.errors import DataError
from autotransfer.spec import ImageInput

if TYPE_CHECKING:
    from torch import Tensor

    from autotransfer.data.pixels import Pixels
    from autotransfer.protocols import Dataset
    from autotransfer.spec import Input


class PreparedRows:
    """Implements :class:`autotransfer.protocols.Rows`.

    A row is decoded each time that it is asked for, or taken from ``pixels`` where these are kept.
    """

    def __init__(
        self, dataset: Dataset, indices: Any, spec: Input, targets: Tensor, pixels: Pixels | None = None
    ) -> None:
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64)
        self.spec = spec
        self.targets = targets
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Sequence[int], augment: str = "none", rng: np.random.Generator | None = None) -> Any:
        """Return ``float32`` [B, channels, size, size] for images, in the order of ``indices``."""
        if self.pixels is not None and augment == "none" and isinstance(self.spec, ImageInput):
            kept = self.pixels.batch(self.indices[np.asarray(indices, dtype=np.int64)], self.spec)
            if kept is not None:
                return normalised(kept, self.spec)
        return stack([self.dataset.load(int(self.indices[i])) for i in indices], self.spec, augment, rng)


def stack(items: Sequence[Any], spec: Input, augment: str = "none", rng: np.random.Generator | None = None) -> Any:
    """Return decoded rows as one batch of a backbone's inputs.

    Raises:
        DataError: no preparation is known for this kind of input.
    """
    if isinstance(spec, ImageInput):
        return normalised(np.stack([window(as_image(i), spec, augment, rng) for i in items]), spec)
    raise DataError(f"inputs of kind {spec.kind!r} cannot be prepared yet; images can")
