"""Order of rows in an epoch, and the random numbers of a trial: both from its seed, never from a clock."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

WINDOW = 50
"""Batches that are sorted by length together, at most: rows still meet others by chance."""


def stream(seed: int, *names: object) -> int:
    """Return a 63-bit seed for one purpose, the same on every machine."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def epoch_order(targets: Tensor, sampler: str, seed: int) -> np.ndarray:
    """Return row numbers ``int64`` [N] in the order of one epoch.

    Args:
        targets: encoded targets; class numbers where ``sampler`` is ``balanced``.
        sampler: ``shuffle`` gives each row once; ``balanced`` draws N rows, each class as likely as the others
            (rows of float targets are shuffled).
        seed: of this epoch.
    """
    rng = np.random.default_rng(seed)
    count = len(targets)
    if sampler == "balanced" and not torch.is_floating_point(targets):
        labels = targets.numpy()
        share = 1.0 / np.bincount(labels)[labels]
        return rng.choice(count, size=count, p=share / share.sum())
    return rng.permutation(count)


def batches(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield the order in pieces of ``size``; a last piece of one row joins the one before (batch norm needs two)."""
    ends = list(range(0, len(order), size))
    if len(ends) > 1 and len(order) - ends[-1] == 1:
        ends.pop()
    for start, stop in zip(ends, [*ends[1:], len(order)], strict=True):
        yield order[start:stop]


def alike(order: np.ndarray, lengths: np.ndarray, size: int, seed: int) -> list[np.ndarray]:
    """Return an epoch's batches of rows that are about as long as each other, so that little is padded.

    The order is sorted by length within windows of up to 50 batches, at most a quarter of the rows, and the batches
    are shuffled (sequence bucketing, Khomenko et al. 2016, arXiv 1708.05604).

    Args:
        order: row numbers [N] of one epoch.
        lengths: ``int64`` of each row.
        size: rows of a batch.
        seed: of this epoch.
    """
    window = size * min(WINDOW, max(1, len(order) // (4 * size)))
    sorted_parts = [order[i : i + window] for i in range(0, len(order), window)]
    sorted_parts = [p[np.argsort(lengths[p], kind="stable")] for p in sorted_parts]
    found = list(batches(np.concatenate(sorted_parts), size))
    return [found[i] for i in np.random.default_rng(seed).permutation(len(found))]


def steps_per_epoch(rows: int, size: int) -> int:
    """Return how many pieces :func:`batches` gives."""
    return sum(1 for _ in batches(np.arange(rows), size))
