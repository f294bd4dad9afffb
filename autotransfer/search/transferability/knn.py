"""Leave-one-out nearest neighbours: the veto of a judge that sees clusters where a linear head sees none."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from autotransfer.search.transferability.calibration import Link
from autotransfer.search.transferability.spectrum import Spectrum

NEIGHBOURS = 5
QUERIES = 2048
"""Rows that are predicted at most, evenly spaced; each looks among all others."""
_CHUNK = 256


def hits(predicted: Tensor, targets: Tensor, link: Link) -> float:
    """Return how right predictions of a target matrix are; 1 is perfect.

    Args:
        predicted: [N, K], on the targets' scale.
        targets: one-hot rows, 0-1 rows or numbers [N, K].
        link: softmax: accuracy; sigmoid: the mean accuracy of the labels; identity: R2 (0 where nothing varies).
    """
    if link is Link.SOFTMAX:
        return float((predicted.argmax(1) == targets.argmax(1)).double().mean())
    if link is Link.SIGMOID:
        return float(((predicted >= 0.5) == (targets >= 0.5)).double().mean())
    total = (targets - targets.mean(0)).square().sum()
    return 1.0 - float((predicted - targets).square().sum() / total) if float(total) > 0 else 0.0


def knn(
    spectrum: Spectrum,
    targets: Tensor,
    link: Link,
    neighbours: int = NEIGHBOURS,
    queries: int = QUERIES,
    groups: Tensor | None = None,
) -> float:
    """Return what :func:`hits` says of the nearest other rows: their vote for classes, else their mean.

    Distances are Euclidean between principal component scores, which is between standardised features, in
    ``float32``. Memory is O(chunk x N), time O(queries x N x r). A tied vote goes to the class whose first member
    is nearest.

    Args:
        spectrum: of the features [N, D].
        targets: one-hot rows, 0-1 rows or numbers [N, K].
        link: of the task.
        neighbours: k; at most N - 1 are used.
        queries: rows to predict at most.
        groups: number of each row's group ``int64`` [N]: its members are no neighbours. None: all others are.
    """
    rows = spectrum.rows
    if groups is not None:
        others = rows - int(torch.unique(groups, return_counts=True)[1].max())
        groups, neighbours = (groups, min(neighbours, others)) if others else (None, neighbours)
    asked = torch.linspace(0, rows - 1, min(rows, queries), dtype=torch.float64).round().long()
    near = torch.cat(list(_nearest(spectrum.scores().float(), asked, min(neighbours, rows - 1), groups)))
    if link is Link.SOFTMAX:
        labels = targets.argmax(1)
        voted = labels[near]
        votes = (voted[:, :, None] == voted[:, None, :]).sum(2)
        first = torch.arange(near.shape[1], 0, -1)
        chosen = voted.gather(1, (votes * (near.shape[1] + 1) + first).argmax(1, keepdim=True))[:, 0]
        return float((chosen == labels[asked]).double().mean())
    own = targets.double()
    return hits(own[near].mean(1), own[asked], link)


def _nearest(points: Tensor, asked: Tensor, count: int, groups: Tensor | None) -> Iterator[Tensor]:
    """Yield the nearest other rows [chunk, count], nearest first."""
    lengths = points.square().sum(1)
    for chunk in asked.split(_CHUNK):
        distance = torch.addmm(lengths, points[chunk], points.T, alpha=-2.0)
        distance.scatter_(1, chunk[:, None], float("inf"))
        if groups is not None:
            distance.masked_fill_(groups[chunk][:, None] == groups, float("inf"))
        yield distance.topk(count, largest=False).indices
