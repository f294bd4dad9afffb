"""What recipes are compared by where the rows that count have no labels, and what that is worth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotransfer.gap import Gap, Unlabeled
from autotransfer.profiles import Profile
from autotransfer.schema import TrialRecord

if TYPE_CHECKING:
    from torch import Tensor

VALIDATION, WEIGHTED, INFORMATION = "validation", "weighted", "information"
ONE_CLASS = ("binary", "multiclass")
"""Tasks in which each row has one class: answers on unlabeled rows have a mutual information with the rows."""
CLASSES = (*ONE_CLASS, "multilabel")
"""Tasks whose answers have a log loss."""
JUDGED_ROWS = 1000
"""Rows without labels that are answered, at most, to compare recipes by."""
LEAST_SLACK = 0.02
"""What a recipe may lose on the validation rows in any case, as a share of the whole score."""
REPEATS = 20
"""Copies of a row of mean weight among the rows that stand for weighted ones."""
SCORES, NAME = "unlabeled", "information"
"""Where a trial's record keeps the mutual information."""


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """How the trials of a search are compared."""

    kind: str = VALIDATION
    """``validation``: by the validation rows as they are. ``weighted``: by these, each by how much it looks like the
    unlabeled ones. ``information``: of those that are about as good on the validation rows, by the answers on the
    unlabeled rows."""
    judge: str = ""
    """Backbone whose classifier of labelled and unlabeled rows weighs."""
    text: str = ""
    """What a user should know of it; empty where it is plainly the validation rows."""
    rows: int = 0
    """Validation rows; 0: every difference in their score counts."""

    @property
    def informed(self) -> bool:
        """Whether answers on the unlabeled rows decide."""
        return self.kind == INFORMATION

    def eligible(self, records: list[TrialRecord]) -> set[str]:
        """Return the ids of the scored trials that may win: those about as good as the best."""
        scored = {r.id: r.objective for r in records if r.objective is not None}
        best = max(scored.values(), default=0.0)
        return {id for id, objective in scored.items() if objective >= best - self.slack(best)}

    def slack(self, best: float) -> float:
        """Return by how much a score in [0, 1] may fall short of the best one and still pass for as good.

        One standard error of the best one's proportion over the validation rows (Breiman et al. 1984, the rule of one
        standard error), two where these are not the rows that count; 0 for scores on another scale.
        """
        if not 0.0 <= best <= 1.0 or self.rows < 1:
            return 0.0
        error = math.sqrt(best * (1.0 - best) / self.rows)
        return max(LEAST_SLACK, 2.0 * error) if self.informed else error


def plain(profile: Profile) -> Criterion:
    """Return the criterion of labelled rows alone: the score of a few of them counts no further than they can tell."""
    return Criterion(rows=profile.validation if profile.task in CLASSES else 0)


def choose(profile: Profile, gap: Gap | None, why: str = "") -> Criterion:
    """Return the criterion for data with this gap.

    Args:
        profile: of the data.
        gap: as the best backbone of the survey measured it; None: it was not.
        why: the reason for that.
    """
    unlabeled = profile.unlabeled
    if unlabeled is None:
        return plain(profile)
    own, rows = "recipes were compared by the validation rows", plain(profile).rows
    if gap is None:
        return Criterion(
            rows=rows, text=f"recipes were compared by the validation rows: {why or 'the gap was not measured'}"
        )
    if not gap.differs:
        return Criterion(rows=rows, text=f"{own}, which look like the unlabeled ones as far as the tests can tell")
    if gap.covered:
        share = f"{100 * min(1.0, gap.alike):.0f} %"
        return Criterion(
            rows=rows,
            text=f"{own}: about {share} of them look like the unlabeled rows, so that they can tell how good a recipe "
            "is there",
        )
    if gap.weighable:
        return Criterion(kind=WEIGHTED, judge=gap.backbone, text=f"{_weighted(gap)} {_held(unlabeled)}")
    if profile.task in ONE_CLASS:
        text = f"{_informed(gap)} {_held(unlabeled)}"
        return Criterion(kind=INFORMATION, judge=gap.backbone, text=text, rows=profile.validation)
    return Criterion(
        text=f"{own}, which do not look like the unlabeled ones: what is best here need not be best there, and for "
        f"{profile.task} nothing better is known without labels. {_held(unlabeled)}"
    )


def _weighted(gap: Gap) -> str:
    return (
        "recipes were compared by the validation rows, each weighted by how much more it looks like the unlabeled rows "
        "than like the training rows (importance-weighted validation, Sugiyama et al. 2007). The weights leave as much "
        f"as {gap.effective:.0f} of {gap.validation} rows would say, and they are right only where equal rows have "
        "equal labels in both places."
    )


def _informed(gap: Gap) -> str:
    return (
        f"the validation rows do not look like the unlabeled ones (weights would leave {gap.effective:.1f} of "
        f"{gap.validation}), so they cannot tell how good a recipe is there. Of the recipes that are about as good as "
        "the best on the validation rows, that one was chosen whose answers on the unlabeled rows tell most of them: "
        "sure on each row, and not all the same (mutual information); baselines without transfer are left out of that. "
        "No label confirms it: a model can be sure and wrong, above all where classes are differently frequent there."
    )


def _held(unlabeled: Unlabeled) -> str:
    return (
        f"The test score counts for the rows of {unlabeled.name} without labels only if the held-out rows come from "
        "there: a few labelled ones, given as test= or validation=, are worth more than any of this."
    )


def lines_of(gap: Gap | None) -> list[str]:
    """Return lines on the unlabeled rows: how they differ, and whether adapting is worth trying."""
    if gap is None:
        return []
    worth = "adapting to them is worth trying" if gap.differs else "adapting to them is not worth trying"
    found = [f"{gap.text}; {worth}"]
    if gap.differs and gap.shares:
        shares = ", ".join(f"{n} {100 * s:.0f} %" for n, s in sorted(gap.shares.items(), key=lambda i: -i[1])[:10])
        found.append(
            f"classes among the unlabeled rows, if nothing but their shares differs: {shares} (an estimate; wrong "
            "where the rows of a class look different there)"
        )
    return found


def information(chances: Tensor) -> float:
    """Return the mutual information of rows and answers as a share of its largest value, in [0, 1].

    Entropy of the mean answer less mean entropy of the answers (Bridle, Heading and MacKay 1991, equation 6; as a
    validator without labels "InfoMax" in Musgrave et al. 2022), over the log of the number of classes.

    Args:
        chances: of the classes on each row, [N, K].
    """
    own = chances.double()
    whole = _entropy(own.mean(0, keepdim=True))
    return float((whole - _entropy(own)).clamp(min=0.0)) / math.log(max(2, own.shape[1]))


def _entropy(chances: Tensor) -> Tensor:
    """Return the mean entropy of rows of chances, in nats."""
    return -(chances * chances.clamp_min(1e-12).log()).sum(1).mean()


def copies(weights: Tensor) -> Tensor:
    """Return row numbers ``int64``, each as often as its weight says: a plain score of these rows is a weighted one.

    Args:
        weights: of mean 1, [N].
    """
    counts = (weights.double() * REPEATS).round().long()
    if not int(counts.sum()):
        counts = counts + 1
    return counts.new_tensor(range(len(counts))).repeat_interleave(counts)
