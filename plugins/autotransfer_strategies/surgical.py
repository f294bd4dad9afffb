"""Fine-tuning of a part that does not reach the output: one block of stages, or norms and biases alone."""

from __future__ import annotations

from collections.abc import Mapping

from autotransfer.plugin import BackboneSpec, Choice, Domain, LogUniform, Phase, Profile, Scalar, number
from autotransfer_strategies.settings import FineTuning


class Surgical(FineTuning):
    """One phase, one third of the stages trained; the last third is a case of core/partial."""

    id = "core/surgical"
    summary = "one block of stages trained, the first or the middle third"
    source = "Lee et al. 2023, Surgical fine-tuning improves adaptation to distribution shifts (arXiv 2210.11466)"
    needs = "training of the backbone, two stages or more"
    least_stages = 2

    def space(self, profile: Profile, spec: BackboneSpec) -> dict[str, Domain]:
        """Return the block, learning rate and the ratio of backbone to head."""
        return {
            "block": Choice(tuple(blocks(len(spec.stages)))),
            "lr": LogUniform(5e-4, 5e-3),
            "lr_ratio": LogUniform(0.1, 1.0),
        }

    def phases(self, profile: Profile, spec: BackboneSpec, values: Mapping[str, Scalar]) -> list[Phase]:
        """Return one phase with one block trained."""
        return [
            Phase(
                epochs=number(values, "epochs"),
                lr=number(values, "lr"),
                lr_ratio=number(values, "lr_ratio"),
                stages=blocks(len(spec.stages))[str(values["block"])],
            )
        ]


class Norms(FineTuning):
    """One phase, all stages: the gains and offsets of their norms, and every bias."""

    id = "core/norms"
    summary = "norms and biases of all stages trained, and the head"
    source = "Ben Zaken et al. 2022, BitFit (arXiv 2106.10199); Frankle et al. 2021 (arXiv 2003.00152)"

    def space(self, profile: Profile, spec: BackboneSpec) -> dict[str, Domain]:
        """Return learning rate and the ratio of backbone to head: few numbers bear rates near the head's."""
        return {"lr": LogUniform(1e-3, 1e-2), "lr_ratio": LogUniform(0.1, 1.0)}

    def phases(self, profile: Profile, spec: BackboneSpec, values: Mapping[str, Scalar]) -> list[Phase]:
        """Return one phase for parameters of these names."""
        return [
            Phase(
                epochs=number(values, "epochs"),
                lr=number(values, "lr"),
                lr_ratio=number(values, "lr_ratio"),
                freeze=0,
                parameters="norms_and_biases",
            )
        ]


def blocks(stages: int) -> dict[str, tuple[int, ...]]:
    """Return the stages of the first and the middle third, those that there are.

    >>> blocks(4)
    {'first': (0,), 'middle': (1, 2)}
    """
    low, high = max(1, round(stages / 3)), round(2 * stages / 3)
    found = {"first": tuple(range(low)), "middle": tuple(range(low, high))}
    return {name: numbers for name, numbers in found.items() if numbers}
