"""Logistic (or ridge) regression in closed form, for backbones that learn nothing from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotransfer.plugin import BackboneSpec, HeadState, Profile, Strategy, Verdict

if TYPE_CHECKING:
    from torch import Tensor


class Logistic(Strategy):
    """Penalised logistic regression; its penalty is chosen by cross-validation on training rows."""

    id = "baselines/logistic"
    summary = "logistic regression on fixed features, ridge regression for numbers"
    source = "scikit-learn's LogisticRegression and RidgeCV"
    needs = "the features of a baseline"
    when = "baselines"
    baseline = True

    def applies(self, profile: Profile, spec: BackboneSpec) -> Verdict:
        """Return whether the backbone is a baseline."""
        return Verdict(True) if not spec.transfer else Verdict(False, "made for baselines; this backbone transfers")

    def head(self, features: Tensor, targets: Tensor, groups: Tensor | None = None) -> HeadState | None:
        """Return the fitted weights on raw features."""
        from autotransfer_baselines.build import logistic_head

        return logistic_head(features, targets, groups)
