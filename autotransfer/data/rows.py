"""Rows of a dataset prepared for one backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from autotransfer.data.image import as_image, prepare_image
from autotransfer.errors import DataError
from autotransfer.spec import ImageInput

if TYPE_CHECKING:
    from autotransfer.protocols import Dataset
    from autotransfer.spec import Input


class PreparedRows:
    """Implements :class:`autotransfer.protocols.Rows`; decodes a row each time that it is asked for."""

    def __init__(self, dataset: Dataset, indices: Any, spec: Input, targets: Tensor) -> None:
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64)
        self.spec = spec
        self.targets = targets

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Sequence[int], augment: str = "none", rng: np.random.Generator | None = None) -> Any:
        """Return ``float32`` [B, channels, size, size] for images, in the order of ``indices``."""
        return stack([self.dataset.load(int(self.indices[i])) for i in indices], self.spec, augment, rng)


def stack(items: Sequence[Any], spec: Input, augment: str = "none", rng: np.random.Generator | None = None) -> Any:
    """Return decoded rows as one batch of a backbone's inputs.

    Raises:
        DataError: no preparation is known for this kind of input.
    """
    if isinstance(spec, ImageInput):
        return torch.stack([prepare_image(as_image(i), spec, augment, rng) for i in items])
    raise DataError(f"inputs of kind {spec.kind!r} cannot be prepared yet; images can")
