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


ANEW = ("light", "strong")
"""What is done to rows one by one; kinds that mix rows of a batch get ``light`` ones."""


class PreparedRows:
    """Implements :class:`autotransfer.protocols.Rows`.

    A row is decoded each time that it is asked for, or taken from ``kept`` where it is kept.

    Args:
        dataset: the rows of all splits.
        indices: numbers of these rows, in their order.
        spec: the backbone's input.
        targets: encoded.
        kept: decoded rows that are kept.
        tools: what the modality's ``tools`` gave for the backbone.
        numbers: of the fixed view of each row; 0: as it is.
        groups: number of each row's group, ``int64`` [N]; None: rows have none.
    """

    def __init__(
        self,
        dataset: Dataset,
        indices: Any,
        spec: Input,
        targets: Tensor,
        kept: Kept | None = None,
        tools: Any = None,
        numbers: Any = 0,
        groups: Tensor | None = None,
    ) -> None:
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64)
        self.spec = spec
        self.targets = targets
        self.kept = kept
        self.tools = tools
        self.groups = groups
        self.numbers = np.broadcast_to(np.asarray(numbers, dtype=np.int64), self.indices.shape)

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Sequence[int], augment: str = "none", rng: np.random.Generator | None = None) -> Any:
        """Return the inputs of these rows, in the order of ``indices``: a tensor, or a mapping of tensors.

        Raises:
            ValueError: the augmentation is unknown, or has no random numbers.
        """
        _known(augment, rng)
        chosen, kind = np.asarray(indices, dtype=np.int64), modality(self.spec.kind)
        rows, numbers = self.indices[chosen], self.numbers[chosen]
        if augment == "none" and numbers.any():
            items = [self.dataset.load(int(r)) for r in rows]
            return kind.view(items, self.spec, self.tools, numbers.tolist(), rows.tolist())
        if self.kept is not None and (augment == "none" or kind.altered is not None):
            kept = self.kept.batch(rows, self.spec, self.tools)
            if kept is not None:
                if rng is None or augment == "none" or kind.altered is None:
                    return kept
                return kind.altered(kept, self.spec, self.tools, augment, rng)
        return stack([self.dataset.load(int(r)) for r in rows], self.spec, augment, rng, self.tools)

    def lengths(self, indices: Sequence[int] | None = None) -> np.ndarray[Any, Any] | None:
        """Return how long the input of each row, or of these, is ``int64`` [N]; None: all are alike, or unknown.

        Without indices also None where every batch has the same length, whatever its rows.
        """
        if self.kept is None or (indices is None and not self.kept.tight):
            return None
        chosen = self.indices if indices is None else self.indices[np.asarray(indices, dtype=np.int64)]
        return self.kept.lengths(chosen, self.spec, self.tools)

    def told(self) -> str:
        """Return what to tell of the rows' inputs; empty: nothing."""
        return "" if self.kept is None else self.kept.told(self.spec, self.tools)

    @property
    def views(self) -> int:
        """How many fixed views of each row there are, the row as it is among them."""
        return max(1, len(modality(self.spec.kind).views))

    def view(self, numbers: int | np.ndarray[Any, Any]) -> PreparedRows:
        """Return the same rows, each in its view of this number: one for all rows, or ``int64`` [N]."""
        own = (self.dataset, self.indices, self.spec, self.targets, self.kept, self.tools)
        return PreparedRows(*own, numbers, self.groups)


def augmentations(spec: Input) -> tuple[str, ...]:
    """Return the kinds of augmentation that rows of this input have, beside ``none``."""
    return modality(spec.kind).augmentations


def stack(
    items: Sequence[Any],
    spec: Input,
    augment: str = "none",
    rng: np.random.Generator | None = None,
    tools: Any = None,
) -> Any:
    """Return decoded rows as one batch of a backbone's inputs.

    Raises:
        ValueError: the augmentation is unknown, or has no random numbers.
    """
    _known(augment, rng)
    return modality(spec.kind).stack(items, spec, tools, augment, rng)


def _known(augment: str, rng: np.random.Generator | None) -> None:
    if augment != "none" and (augment not in ANEW or rng is None):
        raise ValueError(f"augment is {augment!r}; wanted 'none', or with rng one of: {', '.join(ANEW)}")
