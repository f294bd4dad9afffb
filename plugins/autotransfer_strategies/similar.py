"""Heads by likeness: nearest neighbours and class means, their settings chosen by leaving each row out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from autotransfer.plugin import NeighbourState

NEIGHBOURS = (1, 3, 5, 10, 20, 50)
TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.5)
SMOOTHINGS = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Shares of what all rows stand for on average, mixed into what each stands for: neighbours that all agree may err."""
QUERIES = 2048
"""Rows that choose the settings at most, evenly spaced; each looks among all others."""
CHUNK = 256
LEAST = 1e-9
"""Smallest chance that has a logarithm of its own."""


@dataclass(frozen=True)
class Points:
    """Features as a head of neighbours sees them."""

    mean: Tensor
    scale: Tensor
    units: Tensor
    """Of length 1, ``float32`` [N, width]."""


def neighbour_head(features: Tensor, targets: Tensor, groups: Tensor | None = None) -> NeighbourState:
    """Return nearest neighbours by cosine, settings chosen by the leave-one-out loss.

    Number of neighbours, temperature, smoothing and whether features are standardised or centred alone are those with
    the least cross-entropy (of numbers: squared error) of rows that are predicted by the others. Source: Cover and
    Hart 1967; weights as Wu et al. 2018, Unsupervised feature learning via non-parametric instance discrimination;
    centring and unit length as Wang et al. 2019, SimpleShot (arXiv 1911.04623).

    Args:
        features: ``float32`` [N, width].
        targets: class numbers ``int64`` [N], or ``float32`` [N, K].
        groups: ``int64`` [N] of rows that are alike: none is predicted by its own group.
    """
    values, link = stands_for(targets)
    prior = values.mean(0)
    found = []
    for standardised in (True, False):
        points = as_points(features, standardised)
        loss, setting = min(_losses(points.units, values, link, prior, groups))
        found.append((loss, setting, points))
    _, (count, temperature, smoothing), points = min(found, key=lambda f: f[0])
    return NeighbourState(
        keys=features,
        values=((1.0 - smoothing) * values + smoothing * prior).float(),
        mean=points.mean,
        scale=points.scale,
        neighbours=count,
        temperature=temperature,
        link=link,
    )


def prototype_head(features: Tensor, targets: Tensor) -> NeighbourState:
    """Return the class means of standardised features of unit length, compared by cosine.

    Source: Snell et al. 2017, Prototypical networks (arXiv 1703.05175), section 2; cosine and centring as Wang et al.
    2019, SimpleShot. The temperature is the one with the least cross-entropy of rows whose own part in the mean of
    their class is taken out; rows that are alone in their class cannot tell.

    Args:
        features: ``float32`` [N, width].
        targets: class numbers ``int64`` [N].
    """
    points = as_points(features, standardised=True)
    present, own = targets.unique(return_inverse=True)
    member = functional.one_hot(own, len(present)).to(points.units)
    sums, counts = member.T @ points.units, member.sum(0)
    cosines = points.units @ functional.normalize(sums, dim=1).T
    without = functional.normalize(sums[own] - points.units, dim=1)  # of the same length whatever the count
    cosines[torch.arange(len(own)), own] = (points.units * without).sum(1)
    judged = counts[own] > 1
    losses = {t: functional.cross_entropy(cosines[judged] / t, own[judged]).item() for t in TEMPERATURES}
    safe = torch.where(points.scale > 0, points.scale, 1.0)
    return NeighbourState(
        keys=sums / counts[:, None] / safe + points.mean,
        values=functional.one_hot(present, int(targets.max()) + 1).float(),
        mean=points.mean,
        scale=points.scale,
        neighbours=len(present),
        temperature=min(losses, key=lambda t: losses[t]) if judged.any() else TEMPERATURES[2],
        link="softmax",
    )


def stands_for(targets: Tensor) -> tuple[Tensor, str]:
    """Return what rows stand for, ``float64`` [N, K], and the link from it to outputs."""
    if not targets.is_floating_point():
        return functional.one_hot(targets).double(), "softmax"
    chances = bool(((targets == 0) | (targets == 1)).all())
    return targets.double(), "sigmoid" if chances else "identity"


def as_points(features: Tensor, standardised: bool) -> Points:
    """Return features less their mean, each over its spread where ``standardised``, of unit length."""
    exact = features.double()
    spread, mean = exact.std(0, correction=0), exact.mean(0)
    varies = spread > 1e-6 * exact.abs().amax(0).clamp_min(1e-30)
    scale = torch.where(varies, 1.0 / torch.where(varies, spread, 1.0) if standardised else 1.0, 0.0)
    return Points(mean.float(), scale.float(), functional.normalize((exact - mean) * scale, dim=1).float())


def _losses(
    units: Tensor, values: Tensor, link: str, prior: Tensor, groups: Tensor | None
) -> Iterator[tuple[float, tuple[int, float, float]]]:
    """Yield the mean leave-one-out loss of every setting: neighbours, temperature, smoothing."""
    if groups is not None and len(groups.unique()) < 2:
        groups = None
    rows = len(units)
    others = rows - 1 if groups is None else rows - int(groups.unique(return_counts=True)[1].max())
    counts = sorted({min(k, max(1, others)) for k in NEIGHBOURS})
    smoothings = SMOOTHINGS if link != "identity" else (0.0,)
    asked = torch.linspace(0, rows - 1, min(rows, QUERIES), dtype=torch.float64).round().long()
    totals = dict.fromkeys(product(counts, TEMPERATURES, smoothings), 0.0)
    for chunk in asked.split(CHUNK):
        cosines = units[chunk] @ units.T
        alike = chunk[:, None] == torch.arange(rows) if groups is None else groups[chunk][:, None] == groups
        near = cosines.masked_fill(alike, -torch.inf).topk(counts[-1], dim=1)
        told = values[near.indices]
        for count, temperature in product(counts, TEMPERATURES):
            weights = torch.softmax(near.values[:, :count].double() / temperature, 1)
            mean = torch.einsum("nk,nkc->nc", weights, told[:, :count])
            for smoothing in smoothings:
                mixed = (1.0 - smoothing) * mean + smoothing * prior
                totals[count, temperature, smoothing] += _total(mixed, values[chunk], link)
    yield from ((total / len(asked), setting) for setting, total in totals.items())


def _total(mean: Tensor, truth: Tensor, link: str) -> float:
    """Return the summed loss of rows: cross-entropy, or the squared error of numbers."""
    if link == "identity":
        return float((mean - truth).square().sum())
    missed = -(truth * mean.clamp_min(LEAST).log()).sum()
    if link == "sigmoid":
        missed -= ((1.0 - truth) * (1.0 - mean).clamp_min(LEAST).log()).sum()
    return float(missed)
