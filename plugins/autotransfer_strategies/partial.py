"""Partial fine-tuning: the first k stages are frozen, the rest is trained more gently than the head."""

from __future__ import annotations

from collections.abc import Mapping

from autotransfer.plugin import BackboneSpec, Domain, LogUniform, Phase, Profile, Scalar, number
from autotransfer_strategies.settings import FineTuning, fractions

FRACTIONS = (0.25, 0.4, 0.55, 0.7, 0.85)


class Partial(FineTuning):
    """One phase, freeze k = floor(f S + 0.5)."""

    id = "core/partial"
    summary = "the first k stages frozen, the others trained at lr_ratio times the head's rate"
    source = "Yosinski et al. 2014, How transferable are features in deep neural networks?"
    needs = "training of the backbone, two stages or more"
    least_stages = 2

    def space(self, profile: Profile, spec: BackboneSpec) -> dict[str, Domain]:
        """Return freeze fraction, learning rate and the ratio of backbone to head; freezing all is the probe's."""
        return {
            "freeze_fraction": fractions(len(spec.stages), FRACTIONS),
            "lr": LogUniform(5e-4, 5e-3),
            "lr_ratio": LogUniform(0.03, 1.0),
        }

    def phases(self, profile: Profile, spec: BackboneSpec, values: Mapping[str, Scalar]) -> list[Phase]:
        """Return one phase with k stages frozen."""
        return [
            Phase(
                epochs=number(values, "epochs"),
                lr=number(values, "lr"),
                lr_ratio=number(values, "lr_ratio"),
                freeze=int(number(values, "freeze")),
            )
        ]
