"""What the strategies share: whom they suit, the loop's settings, depths to freeze at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autotransfer.plugin import BackboneSpec, Choice, FinishContext, Profile, Scalar, Strategy, Training, Verdict
from autotransfer.plugin import frozen_stages as frozen

MOST_REGULARISED = 2000
"""Training rows up to which a regulariser pays: on 900 images of birds it gains 2 to 6 points, on all of them .5
(github.com/thuml/Transfer-Learning-Library, task adaptation)."""


def transfers(spec: BackboneSpec, stages: int = 0) -> Verdict:
    """Return whether there is something to transfer, in a backbone of at least so many stages."""
    if not spec.transfer:
        return Verdict(False, "a baseline has its own strategy")
    if len(spec.stages) < stages:
        return Verdict(False, f"the backbone has {'fewer than two stages' if stages > 1 else 'no stage'}")
    return Verdict(True)


def one_target(profile: Profile) -> Verdict:
    """Return whether there is one target: what answers by remembered rows has no linear map to divide among several."""
    if not profile.each:
        return Verdict(True)
    return Verdict(False, f"it remembers rows with their labels, for one target; here are {len(profile.each)}")


def few_rows(profile: Profile) -> Verdict:
    """Return whether rows are so few that a regulariser pays."""
    if profile.train <= MOST_REGULARISED:
        return Verdict(True)
    return Verdict(False, f"a regulariser pays up to {MOST_REGULARISED:,} training rows; there are {profile.train:,}")


def fractions(stages: int, wanted: Sequence[float]) -> Choice:
    """Return freeze fractions: those that leave a stage to train, and of those that freeze equally many one."""
    distinct = {frozen(f, stages): f for f in reversed(wanted)}
    return Choice(tuple(f for k, f in sorted(distinct.items()) if k < stages) or tuple(wanted))


def batch_size(rows: int) -> int:
    """Return a power of two near rows / 20, from 8 to 64: small data need many steps more than large batches."""
    size = 8
    while size < 64 and size * 2 <= rows / 20:
        size *= 2
    return size


def fine_tuning(profile: Profile) -> Training:
    """Return the settings of a training that moves the backbone.

    Smoothed labels help accuracy where classes are many (Mueller et al. 2019, When does label smoothing help?); two
    classes gain nothing, and log-loss is the worse for chances that are drawn to the middle. Of several targets all
    have to gain.
    """
    each = profile.each or (profile,)
    smooth = 0.1 if all(t.task == "multiclass" and t.metric != "log_loss" for t in each) else 0.0
    return Training(batch_size=batch_size(profile.train), weight_decay=0.01, label_smoothing=smooth)


class FineTuning(Strategy):
    """A strategy that trains plain weights of the backbone: between the first and the last ones lies the best."""

    least_stages = 0
    needs = "training of the backbone"
    when = "always"
    snapshots = 0

    def applies(self, profile: Profile, spec: BackboneSpec) -> Verdict:
        """Return whether there is something to transfer, and stages enough."""
        return transfers(spec, self.least_stages)

    def training(self, profile: Profile, values: Mapping[str, Scalar]) -> Training:
        """Return the settings of fine-tuning."""
        return fine_tuning(profile)

    def finish(self, context: FinishContext) -> None:
        """Interpolate between the weights before and after training as far as the validation rows want it."""
        from autotransfer_strategies.averaging import interpolate

        interpolate(context)
