"""Rows of a dataset prepared for one backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autotransfer.data.modalities import modality

if TYPE_CHECKING:
    from torch import Tensor

    from autotransfer.data.modalities import Kept
    from autotransfer.protocols import Dataset
    from autotransfer.spec import Input


class PreparedRows:
    """Implements :class:`autotransfer.protocols.Rows`.

    A row is decoded each time that it is asked for, or taken from ``kept`` where it is kept.
    """

    def __init__(
        self,
        dataset: Dataset,
        indices: Any,
        spec: Input,
        targets: Tensor,
        kept: Kept | None = None,
        tools: Any = None,
    ) -> None:
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64)
        self.spec = spec
        self.targets = targets
        self.kept = kept
        self.tools = tools

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Sequence[int], augment: str = "none", rng: np.random.Generator | None = None) -> Any:
        """Return the inputs of these rows, in the order of ``indices``: a tensor, or a mapping of tensors."""
        if self.kept is not None and augment == "none":
            kept = self.kept.batch(self.indices[np.asarray(indices, dtype=np.int64)], self.spec, self.tools)
            if kept is not None:
                return kept
        items = [self.dataset.load(int(self.indices[i])) for i in indices]
        return stack(items, self.spec, augment, rng, self.tools)

    def lengths(self) -> np.ndarray[Any, Any] | None:
        """Return how long each row's input is, ``int64`` [N]; None where all are alike, or it is not known."""
        return None if self.kept is None else self.kept.lengths(self.indices, self.spec, self.tools)


def stack(
    items: Sequence[Any],
    spec: Input,
    augment: str = "none",
    rng: np.random.Generator | None = None,
    tools: Any = None,
) -> Any:
    """Return decoded rows as one batch of a backbone's inputs."""
    return modality(spec.kind).stack(items, spec, tools, augment, rng)
