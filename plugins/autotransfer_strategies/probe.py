"""Probe: the backbone is frozen, a linear head is trained."""

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
from autotransfer_strategies.settings import batch_size, transfers

MORE_EPOCHS = 4
"""An epoch of a head costs thousands of times less than one of the network."""


class Probe(Strategy):
    """One phase, all S stages frozen."""

    id = "core/probe"
    summary = "linear head on frozen features"
    source = "Razavian et al. 2014, CNN features off-the-shelf"
    needs = "frozen features"
    when = "always"

    def applies(self, profile: Profile, spec: BackboneSpec) -> Verdict:
        """Return whether there is something to transfer."""
        return transfers(spec)

    def space(self, profile: Profile, spec: BackboneSpec) -> dict[str, Domain]:
        """Return learning rate and weight decay of the head."""
        return {"lr": LogUniform(3e-4, 1e-2), "weight_decay": Choice((1e-3, 1e-2, 1e-1, 1.0))}

    def phases(self, profile: Profile, spec: BackboneSpec, values: Mapping[str, Scalar]) -> list[Phase]:
        """Return one frozen phase."""
        return [Phase(epochs=number(values, "epochs") * MORE_EPOCHS, lr=number(values, "lr"), freeze=len(spec.stages))]

    def training(self, profile: Profile, values: Mapping[str, Scalar]) -> Training:
        """Return settings for a small convex problem."""
        return Training(batch_size=batch_size(profile.train), weight_decay=0.1)
