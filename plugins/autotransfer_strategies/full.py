"""Full fine-tuning: everything is trained, lower stages more slowly."""

from __future__ import annotations

from collections.abc import Mapping

from autotransfer.plugin import (
    BackboneSpec,
    Choice,
    Domain,
    FinishContext,
    LogUniform,
    Phase,
    Profile,
    Scalar,
    number,
)
from autotransfer_strategies.settings import FineTuning

DECAY = 0.999
"""Of the moving average, after warm-up."""


class Full(FineTuning):
    """One phase, nothing frozen, layer-wise decay of the learning rate."""

    id = "core/full"
    summary = "all stages trained, each at layer_decay times the rate of the one after it"
    source = "Howard and Ruder 2018, ULMFiT, section 3.2 (discriminative fine-tuning)"

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


class Averaged(FineTuning):
    """All stages trained, and the weights averaged three times over: by step, by epoch, and with the first ones."""

    id = "core/averaged"
    summary = "all stages trained; a moving average of the weights is judged, and the best of them averaged at the end"
    source = "Polyak and Juditsky 1992; Wortsman et al. 2022, Model soups (arXiv 2203.05482)"
    needs = "training of the backbone, memory for four more copies of its weights"
    snapshots = 4

    def space(self, profile: Profile, spec: BackboneSpec) -> dict[str, Domain]:
        """Return learning rate and the ratio of backbone to head; what is averaged bears higher rates."""
        return {"lr": LogUniform(1e-3, 5e-3), "lr_ratio": LogUniform(0.1, 1.0)}

    def phases(self, profile: Profile, spec: BackboneSpec, values: Mapping[str, Scalar]) -> list[Phase]:
        """Return one phase whose weights are averaged as they go."""
        return [
            Phase(
                epochs=number(values, "epochs"),
                lr=number(values, "lr"),
                lr_ratio=number(values, "lr_ratio"),
                freeze=0,
                averaging=DECAY,
            )
        ]

    def finish(self, context: FinishContext) -> None:
        """Average the best weights so far, and then with those before training."""
        from autotransfer_strategies.averaging import interpolate, soup

        soup(context)
        interpolate(context)
