"""Rows of a dataset prepared for one backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autotransfer.data.image import VIEWS, as_image, normalised, viewed, window
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
        self,
        dataset: Dataset,
        indices: Any,
        spec: Input,
        targets: Tensor,
        pixels: Pixels | None = None,
        numbers: Any = 0,
    ) -> None:
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64)
        self.spec = spec
        self.targets = targets
        self.pixels = pixels
        self.numbers = np.broadcast_to(np.asarray(numbers, dtype=np.int64), self.indices.shape)

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Sequence[int], augment: str = "none", rng: np.random.Generator | None = None) -> Any:
        """Return ``float32`` [B, channels, size, size] for images, in the order of ``indices``."""
        if augment == "none" and isinstance(self.spec, ImageInput) and self._seen(indices).any():
            return normalised(np.stack([self._view(i, self.spec) for i in indices]), self.spec)
        if self.pixels is not None and augment == "none" and isinstance(self.spec, ImageInput):
            kept = self.pixels.batch(self.indices[np.asarray(indices, dtype=np.int64)], self.spec)
            if kept is not None:
                return normalised(kept, self.spec)
        return stack([self.dataset.load(int(self.indices[i])) for i in indices], self.spec, augment, rng)

    @property
    def views(self) -> int:
        """How many fixed views of each row there are, the row as it is among them."""
        return len(VIEWS) if augmentations(self.spec) else 1

    def view(self, numbers: int | np.ndarray[Any, Any]) -> PreparedRows:
        """Return the same rows, each in its view of this number: one for all rows, or ``int64`` [N]."""
        return PreparedRows(self.dataset, self.indices, self.spec, self.targets, self.pixels, numbers)

    def _seen(self, indices: Sequence[int]) -> Any:
        return self.numbers[np.asarray(indices, dtype=np.int64)]

    def _view(self, index: int, spec: ImageInput) -> Any:
        row = int(self.indices[index])
        return viewed(as_image(self.dataset.load(row)), spec, int(self.numbers[index]), row)


def augmentations(spec: Input) -> tuple[str, ...]:
    """Return the kinds of augmentation that rows of this input have, beside ``none``."""
    return ("light", "views") if isinstance(spec, ImageInput) else ()


def stack(items: Sequence[Any], spec: Input, augment: str = "none", rng: np.random.Generator | None = None) -> Any:
    """Return decoded rows as one batch of a backbone's inputs.

    Raises:
        DataError: no preparation is known for this kind of input.
    """
    if isinstance(spec, ImageInput):
        return normalised(np.stack([window(as_image(i), spec, augment, rng) for i in items]), spec)
    raise DataError(f"inputs of kind {spec.kind!r} cannot be prepared yet; images can")
