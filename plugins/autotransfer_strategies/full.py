"""Full fine-tuning: everything is trained, lower stages more slowly."""

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
    number,
)
from autotransfer_strategies.settings import fine_tuning


class Full(Strategy):
    """One phase, nothing frozen, layer-wise decay of the learning rate."""

    id = "core/full"
    summary = "all stages trained, each at layer_decay times the rate of the one after it"
    source = "Howard and Ruder 2018, ULMFiT, section 3.2 (discriminative fine-tuning)"

    def applies(self, profile: Profile, spec: BackboneSpec) -> Verdict:
        """Return whether there is something to transfer."""
        return Verdict(True) if spec.transfer else Verdict(False, "a baseline has its own strategy")

    def space(self, profile: Profile, spec: BackboneSpec) -> dict[str, Domain]:
        """Return learning rate, the ratio of backbone to head, and the decay by stage."""
        return {"lr": LogUniform(5e-4, 3e-3), "lr_ratio": LogUniform(0.03, 1.0), "layer_decay": Choice((1.0, 0.75))}

    def phases(self, profile: Profile, spec: BackboneSpec, values: Mapping[str, Scalar]) -> list[Phase]:
        """Return one phase with nothing frozen."""
        return [
            Phase(
                epochs=number(values, "epochs"),
                lr=number(values, "lr"),
                lr_ratio=number(values, "lr_ratio"),
                layer_decay=number(values, "layer_decay"),
                freeze=0,
            )
        ]

    def training(self, profile: Profile, values: Mapping[str, Scalar]) -> Training:
        """Return the settings of fine-tuning."""
        return fine_tuning(profile)
