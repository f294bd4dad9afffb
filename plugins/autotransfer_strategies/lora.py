"""LoRA: the weights of linear layers stay, a product of two thin matrices is added and trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from autotransfer.plugin import (
    BackboneSpec,
    Domain,
    LogUniform,
    Phase,
    Profile,
    Rows,
    Scalar,
    Strategy,
    Training,
    Verdict,
    number,
)
from autotransfer_strategies.settings import fine_tuning, fractions, transfers

if TYPE_CHECKING:
    from torch import nn

FRACTIONS = (0.0, 0.5)
THIN = r"parametrizations\.\w+\.\d+\.(down|up)$"
"""Names of the thin matrices."""


class LowRank(Strategy):
    """One phase: in the stages above the first k only the thin matrices are trained, and the head."""

    id = "core/lora"
    summary = "thin matrices beside the weights of linear layers trained, merged into them at the end"
    source = "Hu et al. 2022, LoRA (arXiv 2106.09685), section 4.1; rank 8, alpha 8"
    needs = "training of the backbone, linear layers in the stages"
    when = "networks most of whose weights lie in linear layers: transformers, ViT"

    def applies(self, profile: Profile, spec: BackboneSpec) -> Verdict:
        """Return whether there is something to transfer, and linear layers to do it with, as far as is known."""
        verdict = transfers(spec, 1)
        if not verdict.ok or spec.linear is None or spec.linear >= 0.5:
            return verdict
        return Verdict(False, f"most of its weights lie outside linear layers ({spec.linear:.0%} in them)")

    def space(self, profile: Profile, spec: BackboneSpec) -> dict[str, Domain]:
        """Return freeze fraction, learning rate and the ratio of thin matrices to head."""
        return {
            "freeze_fraction": fractions(len(spec.stages), FRACTIONS),
            "lr": LogUniform(1e-3, 5e-3),
            "lr_ratio": LogUniform(0.1, 1.0),
        }

    def phases(self, profile: Profile, spec: BackboneSpec, values: Mapping[str, Scalar]) -> list[Phase]:
        """Return one phase for the thin matrices of the stages that are not frozen."""
        return [
            Phase(
                epochs=number(values, "epochs"),
                lr=number(values, "lr"),
                lr_ratio=number(values, "lr_ratio"),
                freeze=int(number(values, "freeze")),
                parameters=THIN,
            )
        ]

    def training(self, profile: Profile, values: Mapping[str, Scalar]) -> Training:
        """Return the settings of fine-tuning."""
        return fine_tuning(profile)

    def adapt(
        self,
        backbone: nn.Module,
        values: Mapping[str, Scalar],
        rows: Rows,
        owners: Mapping[str, int] | None = None,
    ) -> None:
        """Put thin matrices beside the weights of linear layers in the stages that are not frozen."""
        from autotransfer_strategies.low_rank import insert

        insert(backbone, owners or {}, int(number(values, "freeze")))
