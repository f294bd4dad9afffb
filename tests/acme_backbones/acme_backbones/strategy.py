"""Acme's strategy: first the head alone, then the upper stages too, with a small penalty on large features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from autotransfer.plugin import (
    BackboneSpec,
    Choice,
    Domain,
    LogUniform,
    ObjectiveContext,
    Phase,
    Profile,
    Scalar,
    Strategy,
    Verdict,
    number,
)

if TYPE_CHECKING:
    from torch import nn


class ProbeThenTune(Strategy):
    """Two phases: all S stages frozen, then the first k."""

    id = "acme/probe-then-tune"
    summary = "a third of the epochs on the head, the rest on the upper stages as well"
    source = "Kumar et al. 2022, Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution"

    def applies(self, profile: Profile, spec: BackboneSpec) -> Verdict:
        """Return whether there is something to unfreeze in the second phase."""
        if not spec.transfer:
            return Verdict(False, "a baseline has its own strategy")
        return Verdict(True) if len(spec.stages) >= 2 else Verdict(False, "the backbone has fewer than two stages")

    def space(self, profile: Profile, spec: BackboneSpec) -> dict[str, Domain]:
        """Return freeze fraction and learning rates."""
        return {
            "freeze_fraction": Choice((0.3, 0.6)),
            "lr": LogUniform(1e-3, 1e-2),
            "lr_ratio": LogUniform(0.05, 0.5),
        }

    def phases(self, profile: Profile, spec: BackboneSpec, values: Mapping[str, Scalar]) -> list[Phase]:
        """Return the two phases."""
        epochs, lr = number(values, "epochs"), number(values, "lr")
        return [
            Phase(epochs=epochs / 3, lr=lr, freeze=len(spec.stages)),
            Phase(
                epochs=2 * epochs / 3,
                lr=lr / 2,
                lr_ratio=number(values, "lr_ratio"),
                freeze=int(number(values, "freeze")),
            ),
        ]

    def objective(self, context: ObjectiveContext) -> nn.Module:
        """Return the penalty that is added to the task's loss."""
        from acme_backbones.penalty import FeaturePenalty

        return FeaturePenalty()
