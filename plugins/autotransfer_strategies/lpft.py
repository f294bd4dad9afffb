"""Fine-tuning in steps from the head down: LP-FT and gradual unfreezing."""

from __future__ import annotations

from collections.abc import Mapping

from autotransfer.plugin import BackboneSpec, Domain, LogUniform, Phase, Profile, Scalar, number
from autotransfer_strategies.settings import FineTuning, fractions

FRACTIONS = (0.0, 0.33, 0.67)
GROUPS = 4
"""Groups of stages that are unfrozen one after the other."""
FALL = 2.6
"""Each group's rate is that of the group above over this."""
WAIT = 0.1
"""Share of the epochs that the head, and then each group, has before the next one is unfrozen."""


class LinearProbeThenTune(FineTuning):
    """Two phases: the head alone to its optimum, then the stages above the first k as well.

    The first phase reads the survey's features and costs no pass. A head start is the same idea with the squared loss
    of the closed form; this one ends at the optimum of the task's own loss.
    """

    id = "core/lpft"
    summary = "the head alone first, then all but the first k stages with it"
    source = "Kumar et al. 2022, Fine-tuning can distort pretrained features (arXiv 2202.10054)"
    needs = "training of the backbone, two stages or more"
    least_stages = 2

    def space(self, profile: Profile, spec: BackboneSpec) -> dict[str, Domain]:
        """Return freeze fraction, learning rate and the ratio of backbone to head."""
        return {
            "freeze_fraction": fractions(len(spec.stages), FRACTIONS),
            "lr": LogUniform(5e-4, 5e-3),
            "lr_ratio": LogUniform(0.03, 1.0),
        }

    def phases(self, profile: Profile, spec: BackboneSpec, values: Mapping[str, Scalar]) -> list[Phase]:
        """Return the frozen phase and the one with k stages frozen, of as many epochs each."""
        epochs, lr = number(values, "epochs"), number(values, "lr")
        return [
            Phase(epochs=epochs, lr=lr, freeze=len(spec.stages)),
            Phase(epochs=epochs, lr=lr, lr_ratio=number(values, "lr_ratio"), freeze=int(number(values, "freeze"))),
        ]


class Gradual(FineTuning):
    """The head alone, then one group of stages more at a time, from the last to the first, each slower."""

    id = "core/gradual"
    summary = "stages unfrozen group by group from the last one on, lower ones trained more slowly"
    source = "Howard and Ruder 2018, ULMFiT (arXiv 1801.06146), sections 3.2 and 3.3"
    needs = "training of the backbone, two stages or more"
    least_stages = 2

    def space(self, profile: Profile, spec: BackboneSpec) -> dict[str, Domain]:
        """Return learning rate and the ratio of backbone to head."""
        return {"lr": LogUniform(5e-4, 5e-3), "lr_ratio": LogUniform(0.1, 1.0)}

    def phases(self, profile: Profile, spec: BackboneSpec, values: Mapping[str, Scalar]) -> list[Phase]:
        """Return a frozen phase, and one for each group; the last has all epochs that are left."""
        stages, epochs = len(spec.stages), number(values, "epochs")
        groups = min(GROUPS, stages)
        freezes = [round(stages * (groups - g) / groups) for g in range(groups + 1)]
        lengths = [WAIT * epochs] * groups + [(1.0 - WAIT * groups) * epochs]
        return [
            Phase(
                epochs=length,
                lr=number(values, "lr"),
                lr_ratio=number(values, "lr_ratio"),
                layer_decay=FALL ** (-groups / stages),
                freeze=freeze,
            )
            for freeze, length in zip(freezes, lengths, strict=True)
        ]
