"""Domain adaptation: strategies for unlabeled rows that differ from the labelled ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from autotransfer.plugin import (
    BackboneSpec,
    Domain,
    FinishContext,
    HeadState,
    LogUniform,
    ObjectiveContext,
    Phase,
    Profile,
    Rows,
    Scalar,
    Strategy,
    Training,
    Verdict,
    number,
)
from autotransfer_strategies.settings import fine_tuning, fractions

if TYPE_CHECKING:
    from torch import Tensor, nn

ONE_CLASS = ("binary", "multiclass")
"""Tasks in which each row has one class."""
FRACTIONS = (0.0, 0.4, 0.7)
"""Shares of the stages that may be frozen: where domains differ in colour or noise, the first ones must learn too."""

NEEDS, WHEN = "unlabeled rows", "the unlabeled rows differ from the labelled ones"


def suited(profile: Profile, spec: BackboneSpec) -> Verdict:
    """Return whether there are unlabeled rows that differ from the labelled ones, as far as is known."""
    rows = profile.unlabeled
    if not spec.transfer:
        return Verdict(False, "a baseline has its own strategy")
    if rows is None:
        return Verdict(False, "no unlabeled rows were given to adapt to")
    if rows.gap is not None and not rows.gap.differs:
        return Verdict(False, "the unlabeled rows look the same as the labelled ones: there is nothing to adapt to")
    return Verdict(True)


class Coral(Strategy):
    """No phase: the labelled rows' features get the covariance of the unlabeled ones', then a ridge head."""

    id = "core/coral"
    summary = "features of labelled rows whitened and recoloured as those of unlabeled rows, then ridge regression"
    needs, when = NEEDS, WHEN
    source = "Sun, Feng and Saenko 2016, Return of frustratingly easy domain adaptation (CORAL)"
    unlabeled = True

    def applies(self, profile: Profile, spec: BackboneSpec) -> Verdict:
        """Return whether there is something to adapt to."""
        return suited(profile, spec)

    def head(
        self, features: Tensor, targets: Tensor, groups: Tensor | None = None, unlabeled: Tensor | None = None
    ) -> HeadState | None:
        """Return the ridge solution on recoloured features."""
        from autotransfer_strategies.closed_form import ridge_head
        from autotransfer_strategies.recolouring import recoloured

        assert unlabeled is not None
        return ridge_head(recoloured(features, unlabeled), targets, groups)


class AdaBN(Strategy):
    """No phase: a ridge head under batch norms of the labelled rows, which get the unlabeled rows' statistics after."""

    id = "core/adabn"
    summary = "ridge regression; batch norms have the statistics of labelled rows, in the end of unlabeled rows"
    needs, when = f"{NEEDS}, batch norms", WHEN
    snapshots = 0
    source = "Li et al. 2016, Revisiting batch normalization for practical domain adaptation (AdaBN)"
    unlabeled = True

    def applies(self, profile: Profile, spec: BackboneSpec) -> Verdict:
        """Return whether there is something to adapt to, and batch norms to adapt by."""
        verdict = suited(profile, spec)
        none = verdict.ok and spec.batch_norms is False
        return Verdict(False, "the backbone has no batch norms") if none else verdict

    def adapt(self, backbone: nn.Module, values: Mapping[str, Scalar], rows: Rows) -> None:
        """Give the batch norms the statistics of the labelled rows."""
        from autotransfer_strategies.statistics import take_statistics

        take_statistics(backbone, rows)

    def head(self, features: Tensor, targets: Tensor, groups: Tensor | None = None) -> HeadState | None:
        """Return the ridge solution."""
        from autotransfer_strategies.closed_form import ridge_head

        return ridge_head(features, targets, groups)

    def finish(self, context: FinishContext) -> None:
        """Give the batch norms the statistics of the unlabeled rows."""
        from autotransfer_strategies.statistics import take_statistics

        assert context.unlabeled is not None
        take_statistics(context.module.get_submodule("backbone"), context.unlabeled)


class Adapted(Strategy):
    """Partial or full fine-tuning beside a term that sees a batch of unlabeled rows in each step."""

    needs, when = f"{NEEDS}, training of the backbone", WHEN
    unlabeled = True
    one_class = True
    """The term compares classes: each row has to have one."""

    def applies(self, profile: Profile, spec: BackboneSpec) -> Verdict:
        """Return whether there is something to adapt to."""
        verdict = suited(profile, spec)
        if verdict.ok and self.one_class and profile.task not in ONE_CLASS:
            return Verdict(False, f"it needs rows of one class each, and the task is {profile.task}")
        return verdict

    def space(self, profile: Profile, spec: BackboneSpec) -> dict[str, Domain]:
        """Return freeze fraction, learning rate and the ratio of backbone to head."""
        return {
            "freeze_fraction": fractions(len(spec.stages), FRACTIONS),
            "lr": LogUniform(5e-4, 3e-3),
            "lr_ratio": LogUniform(0.03, 1.0),
        }

    def phases(self, profile: Profile, spec: BackboneSpec, values: Mapping[str, Scalar]) -> list[Phase]:
        """Return one phase with k stages frozen."""
        lr, ratio = number(values, "lr"), number(values, "lr_ratio")
        return [Phase(epochs=number(values, "epochs"), lr=lr, lr_ratio=ratio, freeze=int(number(values, "freeze")))]

    def training(self, profile: Profile, values: Mapping[str, Scalar]) -> Training:
        """Return the settings of fine-tuning."""
        return fine_tuning(profile)


class DeepCoral(Adapted):
    """The outputs on labelled and on unlabeled rows are drawn to one covariance."""

    id = "core/deep-coral"
    summary = "fine-tuning; the outputs' covariances on labelled and on unlabeled rows are drawn together"
    source = "Sun and Saenko 2016, Deep CORAL, equation 1"

    def objective(self, context: ObjectiveContext) -> nn.Module:
        """Return the squared difference of the covariances."""
        from autotransfer_strategies.alignment import CovarianceGap

        return CovarianceGap()


class MCC(Adapted):
    """Unlabeled rows are pushed towards one class each."""

    id = "core/mcc"
    summary = "fine-tuning; classes that are mistaken for each other on unlabeled rows are told apart"
    source = "Jin et al. 2020, Minimum class confusion for versatile domain adaptation"

    def objective(self, context: ObjectiveContext) -> nn.Module:
        """Return the class confusion."""
        from autotransfer_strategies.alignment import ClassConfusion

        return ClassConfusion()


class DANN(Adapted):
    """The features learn to hide from a discriminator whether a row has a label."""

    id = "core/dann"
    summary = "fine-tuning; a discriminator is fooled about which rows are unlabeled"
    source = "Ganin et al. 2016, Domain-adversarial training of neural networks"
    one_class = False

    def objective(self, context: ObjectiveContext) -> nn.Module:
        """Return the discriminator behind a reversed gradient."""
        from autotransfer_strategies.adversaries import FeatureAdversary

        return FeatureAdversary(context.widths[-1])


class CDAN(Adapted):
    """The same with a discriminator that sees features and predicted classes together."""

    id = "core/cdan"
    summary = "fine-tuning; a discriminator that sees features and predicted classes together is fooled"
    source = "Long et al. 2018, Conditional adversarial domain adaptation"

    def objective(self, context: ObjectiveContext) -> nn.Module:
        """Return the discriminator behind a reversed gradient."""
        from autotransfer_strategies.adversaries import ConditionalAdversary

        return ConditionalAdversary(context.widths[-1], context.task.outputs)


ADAPTATION: tuple[type[Strategy], ...] = (Coral, AdaBN, MCC, DANN, CDAN, DeepCoral)
