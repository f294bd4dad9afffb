"""Full fine-tuning with a regulariser of its own, for few rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from autotransfer.plugin import (
    BackboneSpec,
    Domain,
    LogUniform,
    ObjectiveContext,
    Phase,
    Profile,
    Scalar,
    Training,
    Verdict,
    number,
)
from autotransfer_strategies.settings import MOST_REGULARISED, FineTuning, few_rows, fine_tuning

if TYPE_CHECKING:
    from torch import nn


class Regularised(FineTuning):
    """One phase, nothing frozen; a subclass gives the loss term."""

    needs = "training through the whole backbone"
    when = f"up to {MOST_REGULARISED:,} training rows"

    def applies(self, profile: Profile, spec: BackboneSpec) -> Verdict:
        """Return whether there is something to transfer, and rows few enough for a regulariser to pay."""
        verdict = super().applies(profile, spec)
        return few_rows(profile) if verdict.ok else verdict

    def space(self, profile: Profile, spec: BackboneSpec) -> dict[str, Domain]:
        """Return learning rate and the ratio of backbone to head."""
        return {"lr": LogUniform(5e-4, 3e-3), "lr_ratio": LogUniform(0.03, 1.0)}

    def phases(self, profile: Profile, spec: BackboneSpec, values: Mapping[str, Scalar]) -> list[Phase]:
        """Return one phase with nothing frozen."""
        return [
            Phase(
                epochs=number(values, "epochs"), lr=number(values, "lr"), lr_ratio=number(values, "lr_ratio"), freeze=0
            )
        ]


class StartingPoint(Regularised):
    """Weights are drawn to where they began, not to zero."""

    id = "core/l2sp"
    summary = "all stages trained, drawn back to their pretrained weights"
    source = "Li et al. 2018, Explicit inductive bias for transfer learning (arXiv 1802.01483)"

    def training(self, profile: Profile, values: Mapping[str, Scalar]) -> Training:
        """Return the settings of fine-tuning without weight decay: the loss term stands in its place."""
        return replace(fine_tuning(profile), weight_decay=0.0)

    def objective(self, context: ObjectiveContext) -> nn.Module:
        """Return the squared distance to the start."""
        from autotransfer_strategies.penalties import Distance

        return Distance(context.backbone, context.head, context.initial)


class SpectralShrinkage(Regularised):
    """The smallest singular values of a batch's features are kept small: they carry what does not transfer."""

    id = "core/bss"
    summary = "all stages trained, the smallest singular value of each batch's features drawn to zero"
    source = "Chen et al. 2019, Catastrophic forgetting meets negative transfer"

    def objective(self, context: ObjectiveContext) -> nn.Module:
        """Return the sum of the smallest squared singular values."""
        from autotransfer_strategies.penalties import SmallestValues

        return SmallestValues()
