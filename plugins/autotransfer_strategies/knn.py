"""Heads by likeness: what the most similar training rows are, or the most similar class mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotransfer.plugin import BackboneSpec, NeighbourState, Profile, Strategy, Verdict
from autotransfer_strategies.settings import one_target, transfers

if TYPE_CHECKING:
    from torch import Tensor

MOST_ROWS = 10_000
"""Training rows that a model may carry: as ``float32``, 1,000 features a row, 40 MB."""
FEW_ROWS = 10
"""Training rows a class up to which class means are worth a trial."""


class NearestNeighbours(Strategy):
    """No phase: a row is what the training rows most like it are."""

    id = "core/knn"
    summary = "nearest neighbours on frozen features, by cosine"
    source = "Cover and Hart 1967; Wu et al. 2018 (arXiv 1805.01978)"
    needs = "frozen features, one target; the model carries the training rows' features"
    when = f"up to {MOST_ROWS:,} training rows"

    def applies(self, profile: Profile, spec: BackboneSpec) -> Verdict:
        """Return whether there is something to transfer, and rows few enough to carry."""
        verdict = transfers(spec)
        verdict = one_target(profile) if verdict.ok else verdict
        if not verdict.ok or profile.train <= MOST_ROWS:
            return verdict
        return Verdict(
            False, f"the model would carry all {profile.train:,} training rows; wanted at most {MOST_ROWS:,}"
        )

    def head(self, features: Tensor, targets: Tensor, groups: Tensor | None = None) -> NeighbourState:
        """Return the rows themselves; what chooses among them is found by leaving each out."""
        from autotransfer_strategies.similar import neighbour_head

        return neighbour_head(features, targets, groups)


class Prototypes(Strategy):
    """No phase: a row is of the class whose mean is most like it."""

    id = "core/prototypes"
    summary = "class means of frozen features, compared by cosine"
    source = "Snell et al. 2017, Prototypical networks (arXiv 1703.05175)"
    needs = "frozen features, classes, one target"
    when = f"up to {FEW_ROWS} training rows a class"

    def applies(self, profile: Profile, spec: BackboneSpec) -> Verdict:
        """Return whether there is something to transfer, and classes of few rows each."""
        verdict, each = transfers(spec), profile.train / max(1, len(profile.classes))
        verdict = one_target(profile) if verdict.ok else verdict
        if verdict.ok and profile.task not in ("binary", "multiclass"):
            return Verdict(False, f"class means are for rows of one class each, and the task is {profile.task}")
        if not verdict.ok or each <= FEW_ROWS:
            return verdict
        return Verdict(
            False, f"class means are for up to {FEW_ROWS} training rows a class; here are {each:.0f} on average"
        )

    def head(self, features: Tensor, targets: Tensor) -> NeighbourState:
        """Return the class means."""
        from autotransfer_strategies.similar import prototype_head

        return prototype_head(features, targets)
