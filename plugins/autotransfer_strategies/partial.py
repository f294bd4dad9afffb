"""Partial fine-tuning: the first k stages are frozen, the rest is trained more gently than the head."""

from __future__ import annotations

from collections.abc import Mapping

from autotransfer.plugin import (
    BackboneSpec,
    Choice,
    Domain,
    LogUniform,
    Phase,
    Profile,
    Scalar,
    Strategy,
    Training,
    Verdict,
    frozen_stages,
    number,
)
from autotransfer_strategies.settings import fine_tuning

FRACTIONS = (0.25, 0.4, 0.55, 0.7, 0.85)


class Partial(Strategy):
    """One phase, freeze k = floor(f S + 0.5)."""

    id = "core/partial"
    summary = "the first k stages frozen, the others trained at lr_ratio times the head's rate"
    source = "Yosinski et al. 2014, How transferable are features in deep neural networks?"

    def applies(self, profile: Profile, spec: BackboneSpec) -> Verdict:
        """Return whether there is a place to cut the backbone."""
        if not spec.transfer:
            return Verdict(False, "a baseline has its own strategy")
        return Verdict(True) if len(spec.stages) >= 2 else Verdict(False, "the backbone has fewer than two stages")

    def space(self, profile: Profile, spec: BackboneSpec) -> dict[str, Domain]:
        """Return freeze fraction, learning rate and the ratio of backbone to head.

        Fractions that freeze all stages are the probe's, and of those that freeze equally many one is enough.
        """
        distinct = {frozen_stages(f, len(spec.stages)): f for f in reversed(FRACTIONS)}
        return {
            "freeze_fraction": Choice(
                tuple(f for k, f in sorted(distinct.items()) if k < len(spec.stages)) or FRACTIONS
            ),
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

    def training(self, profile: Profile, values: Mapping[str, Scalar]) -> Training:
        """Return the settings of fine-tuning."""
        return fine_tuning(profile)
