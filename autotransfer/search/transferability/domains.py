"""How two samples of features differ: two-sample tests, importance weights, shares of classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.stats import binomtest, mannwhitneyu
from torch import Tensor

from autotransfer.search.transferability.calibration import Link
from autotransfer.search.transferability.ridge import ridge
from autotransfer.search.transferability.spectrum import decompose
from autotransfer.strategy import HeadState
from autotransfer.train.autocast import exact

FEWEST = 8
"""Rows of each sample that a test needs."""
MOST = 2000
"""Rows of each sample that the classifier is given at most."""
MOST_PAIRS = 500
"""Rows of each sample whose distances are taken at most."""
PERMUTATIONS = 999
_STEPS, _CLOSE = 1000, 1e-8
"""Of the iteration for the shares of classes."""


@dataclass(frozen=True)
class TwoSample:
    """A classifier two-sample test."""

    accuracy: float
    """On rows that the classifier has not seen, as many of each sample; .5: it cannot tell them apart."""
    low: float
    """Ends of the accuracy's 95 % interval (Clopper and Pearson 1934)."""
    high: float
    auc: float
    p_value: float
    """Of the accuracy, one-sided, exact (binomial)."""
    false: float
    """Share of unseen rows of the first sample that are taken for the second."""
    true: float
    """Share of unseen rows of the second sample that are taken for the second."""
    head: HeadState
    """The classifier fitted to all rows; its output [N, 1] is the calibrated log-odds of the second sample."""

    def logits(self, features: Tensor) -> Tensor:
        """Return the log-odds ``float64`` [N] that rows are of the second sample, both being as frequent."""
        return (features.double() @ self.head.weight.double().T + self.head.bias.double())[:, 0]

    def share(self, features: Tensor) -> float:
        """Return the estimated share of rows like the second sample, in [0, 1], from the classifier's error rates."""
        if self.true <= self.false:
            return 0.0
        taken = float((self.logits(features) > 0).double().mean())
        return min(1.0, max(0.0, (taken - self.false) / (self.true - self.false)))


@exact()
def two_sample(first: Tensor, second: Tensor, *, seed: int = 0, groups: Tensor | None = None) -> TwoSample:
    """Return whether a classifier can tell two samples of features apart.

    The classifier two-sample test of Lopez-Paz and Oquab (2017, section 3): as many rows of each are split in halves,
    a linear classifier (ridge with leave-one-out penalty) is fitted to one half, and its accuracy on the other is
    binomial with chance .5 where both samples have one distribution.

    Args:
        first: [N, D], any float dtype, rows in any order.
        second: [M, D].
        seed: of the draw and of the halves.
        groups: number of the group of each row of the first sample ``int64`` [N]: a group stays in one half.

    Raises:
        ValueError: fewer than :data:`FEWEST` rows of either.
        PluginContractError: features that are not finite.
    """
    if min(len(first), len(second)) < FEWEST:
        raise ValueError(f"there are {len(first)} and {len(second)} rows; wanted {FEWEST} of each")
    draws = torch.Generator().manual_seed(seed)
    halves = [_halves(first, draws, groups), _halves(second, draws)]
    size = [min(MOST // 2, *(len(h[k]) for h in halves)) for k in (0, 1)]
    fitted, unseen = ([h[k][: size[k]] for h in halves] for k in (0, 1))
    head = _classifier(*fitted)
    odds = [_odds(head, part) for part in unseen]
    hits = int((odds[0] <= 0).sum() + (odds[1] > 0).sum())
    test = binomtest(hits, 2 * size[1], 0.5, alternative="greater")
    ends = binomtest(hits, 2 * size[1]).proportion_ci(0.95)
    above = float(mannwhitneyu(odds[1].numpy(), odds[0].numpy()).statistic)
    return TwoSample(
        accuracy=hits / (2 * size[1]),
        low=float(ends.low),
        high=float(ends.high),
        auc=above / size[1] ** 2,
        p_value=float(test.pvalue),
        false=float((odds[0] > 0).double().mean()),
        true=float((odds[1] > 0).double().mean()),
        head=_classifier(*(torch.cat([a, b]) for a, b in zip(fitted, unseen, strict=True))),
    )


def _halves(sample: Tensor, draws: torch.Generator, groups: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return two halves of a sample, in random order; groups stay whole where there are several."""
    order = torch.randperm(len(sample), generator=draws)
    if groups is None or len(groups.unique()) < 2:
        return sample[order[0::2]], sample[order[1::2]]
    names, own = groups.unique(return_inverse=True)
    place = torch.randperm(len(names), generator=draws)[own]
    by_group = order[place[order].argsort(stable=True)]
    ends = place[by_group].bincount(minlength=len(names)).cumsum(0)
    cut = int(ends[(ends - len(sample) / 2).abs()[:-1].argmin()])
    parts = [by_group[:cut], by_group[cut:]]
    first, second = (p[torch.randperm(len(p), generator=draws)] for p in parts)
    return sample[first], sample[second]


def _classifier(first: Tensor, second: Tensor) -> HeadState:
    both = torch.cat([first, second])
    labels = torch.cat([torch.zeros(len(first), 1), torch.ones(len(second), 1)]).double()
    return ridge(decompose(both), labels, Link.SIGMOID).head()


def _odds(head: HeadState, features: Tensor) -> Tensor:
    return (features.double() @ head.weight.double().T + head.bias.double())[:, 0]


@exact()
def mmd(first: Tensor, second: Tensor, *, seed: int = 0) -> tuple[float, float]:
    """Return the squared maximum mean discrepancy of two samples of features, and its p value by permutations.

    Gretton et al. (2012): the unbiased estimate (equation 3) with a Gaussian kernel whose width is the median distance
    of the rows (section 8). Features are standardised over both samples.

    Args:
        first: [N, D], any float dtype.
        second: [M, D].
        seed: of the draw and of the permutations.
    """
    size = min(len(first), len(second), MOST_PAIRS)
    draws = torch.Generator().manual_seed(seed)
    parts = [s[torch.randperm(len(s), generator=draws)[:size]].double() for s in (first, second)]
    both = torch.cat(parts)
    spread = both.std(0, correction=0)
    both = (both - both.mean(0)) / torch.where(spread > 0, spread, torch.ones_like(spread))
    apart = torch.cdist(both, both)
    middle = apart[~torch.eye(len(both), dtype=torch.bool)].median().clamp_min(1e-12)
    kernel = torch.exp(-apart.square() / (2 * middle.square())).fill_diagonal_(0.0)
    marks = torch.cat([torch.ones(size, 1), -torch.ones(size, 1)]).double()
    shuffled = [marks[torch.randperm(2 * size, generator=draws)] for _ in range(PERMUTATIONS)]
    found = _discrepancy(kernel, torch.cat([marks, *shuffled], 1))
    above = int((found[1:] >= found[0] - 1e-12).sum())
    return float(found[0]), (above + 1) / (PERMUTATIONS + 1)


def _discrepancy(kernel: Tensor, marks: Tensor) -> Tensor:
    """Return the unbiased estimate [P] for columns of marks [2 n, P], 1 and -1; the kernel's diagonal is 0."""
    size = len(kernel) // 2
    first = (marks > 0).double()
    ones = torch.ones_like(first)
    mixed = (first * (kernel @ first)).sum(0), (first * (kernel @ ones)).sum(0)
    within, across = mixed[0], mixed[1] - mixed[0]
    whole = kernel.sum() - 2 * across - within  # of the second sample
    return (within + whole) / (size * (size - 1)) - 2 * across / size**2


def importance(odds: Tensor) -> Tensor:
    """Return importance weights ``float64`` [N] of mean 1 from log-odds [N] of the sample that they shall stand for.

    The ratio of the two densities is that of the classifier's chances (Sugiyama et al. 2007, section 4.2; Bickel et
    al. 2009).
    """
    return torch.softmax(odds.double(), 0) * len(odds)


def effective(weights: Tensor) -> float:
    """Return the number of equally weighted rows that say as much as these (Kish 1965)."""
    return float(weights.sum().square() / weights.square().sum())


def shares(chances: Tensor, prior: Tensor) -> Tensor:
    """Return the likeliest shares of the classes in a sample, ``float64`` [K], by expectation maximisation.

    Saerens et al. (2002, equations 2.9): right where only the shares of the classes differ from those that the
    classifier was fitted to, and its chances are calibrated.

    Args:
        chances: of each row of the sample by a classifier fitted elsewhere, [N, K].
        prior: the shares of the classes there, [K], all above 0.
    """
    own, before = chances.double(), prior.double() / prior.double().sum()
    found = before.clone()
    for _ in range(_STEPS):
        weighted = own * (found / before)
        new = (weighted / weighted.sum(1, keepdim=True)).mean(0)
        if float((new - found).abs().max()) < _CLOSE:
            return new
        found = new
    return found
