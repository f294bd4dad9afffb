"""What a pass, a rung and a whole training cost, predicted from what the survey measured.

Costs are multiply-accumulates times rows under a trial budget, so that no clock has a say in the answer; else
seconds of one worker. Both rest on one model (units of one frozen pass over the training rows, F): a training
pass costs 3 F through stages that are trained, since the backward pass costs about twice the forward one; F through
a frozen prefix, or nothing where its activations are stored. Where a strategy has a loss term of its own, which may
look at all stages, every pass runs the whole network.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from autotransfer.data.modalities import modality
from autotransfer.gap import POOLED_ROWS
from autotransfer.profiles import Profile
from autotransfer.schema import STORED, Phase, SurveyRecord
from autotransfer.strategy import Strategy, overrides

EPOCHS = 10
"""Passes over the training rows in a full training."""
BACKWARD = 2.0
"""Cost of a backward pass in forward passes."""
LOOKS = 4
"""Passes over the validation rows that a strategy's last touch is taken to make."""
HEAD_RATE = 6e9
"""Multiply-accumulates a second of heads that are trained together on stored features, on one core."""
HEAD_STEP = 1e-3
"""Seconds that a step of theirs takes beside its products."""


@dataclass
class Costs:
    """Predicts costs for the backbones of one search."""

    profile: Profile
    survey: Callable[[], Sequence[SurveyRecord]]
    """The latest survey records."""
    clock: bool
    """Seconds, not multiply-accumulates."""
    stored: dict[str, set[int]] = field(default_factory=dict)
    """Cuts whose activations this search has had written, by backbone."""
    measured: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Seconds of epochs of training by backbone, as they were and as they were predicted."""
    measured_heads: tuple[float, float] = (0.0, 0.0)
    """The same of heads that were trained together."""

    def learn(self, id: str, phases: Sequence[Phase], start: float, stop: float | None, epoch_seconds: float) -> None:
        """Note the seconds of an epoch of a training without a loss term of its own; called after :meth:`passed`."""
        found = stretches(phases, start, stop)
        moving = sum(e for p, e in found if p.epochs and prefix_share(p, self.macs(id)) < 1.0)
        predicted = self._steps(id, found, 0.0, None) / moving if moving else 0.0
        if self.clock and predicted > 0 and epoch_seconds > 0:
            took, told = self.measured.get(id, (0.0, 0.0))
            self.measured[id] = (took + epoch_seconds, told + predicted)

    def pace(self, id: str) -> float:
        """Return how many times longer training takes than the frozen pass lets expect; 1 where no time was taken.

        Padding within batches, the optimizer's own work, and arithmetic that suits one pass better than the other
        make the difference. A backbone that was not trained yet is taken to be like the others.
        """
        pairs = [self.measured[id]] if id in self.measured else list(self.measured.values())
        told = sum(t for _, t in pairs)
        return sum(t for t, _ in pairs) / told if told else 1.0

    def row(self, id: str) -> float:
        """Return the cost of one row's forward pass, 0 where nothing was measured."""
        record = self._record(id)
        if record is None:
            return 0.0
        return record.seconds_per_row if self.clock else record.macs

    def macs(self, id: str) -> tuple[float, ...]:
        """Return the multiply-accumulates of one row up to each cut; empty where they are unknown."""
        record = self._record(id)
        return tuple(c.macs or 0.0 for c in record.cuts) if record is not None else ()

    def unit(self, *ids: str) -> float:
        """Return the cost of one plain full 10-epoch fine-tune of the dearest of these backbones."""
        dearest = max((self.row(i) * self.pace(i) for i in ids), default=0.0)
        return (1.0 + BACKWARD) * EPOCHS * dearest * self.profile.train

    def training(
        self,
        id: str,
        phases: Sequence[Phase],
        start: float,
        stop: float | None,
        strategy: Strategy | None = None,
        backwards: int = 1,
    ) -> float:
        """Return the cost of a training from epoch ``start`` to ``stop`` (None: to the end), validation included.

        ``backwards`` is the number of backward passes of a step: where gradients are combined, one for each loss.
        """
        share = self.profile.validation / max(1, self.profile.train)
        total = self._steps(id, stretches(phases, start, stop), share, strategy, backwards)
        if stop is None and strategy is not None and overrides(strategy, "finish") and self.moves(id, phases):
            total += LOOKS * share * self.row(id) * self.profile.train
        return total * self.pace(id)

    def _steps(
        self,
        id: str,
        parts: Sequence[tuple[Phase, float]],
        share: float,
        strategy: Strategy | None,
        backwards: int = 1,
    ) -> float:
        """Return the cost of these stretches as the frozen pass lets expect it.

        ``share`` is that of the validation rows which are scored after each epoch in the training rows.
        """
        looks = strategy is not None and overrides(strategy, "objective")
        pairs = looks and strategy is not None and strategy.unlabeled  # each step runs as many unlabeled rows
        macs, total = self.macs(id), 0.0
        for phase, epochs in parts:
            prefix = prefix_share(phase, macs)
            if prefix >= 1.0:  # its features are those of the survey, but a loss term sees each batch pass
                total += (2.0 if pairs else 1.0) * epochs if looks else 0.0
                continue
            kept = prefix > 0.0 and _stores(strategy) and self._cut(phase) in self.stored.get(id, set())
            before = 0.0 if kept and phase.augment in STORED else prefix
            if phase.augment == "views":  # the others are written once, in whichever rung comes first
                most = len(modality(self.profile.modality).views)
                total += max(0, _views(phase.epochs, most) - 1) * prefix * epochs / phase.epochs
            trained = (1.0 + BACKWARD * backwards) * (1.0 - prefix)
            training = (2.0 if pairs else 1.0) * (before + trained)
            total += epochs * (training + share * (before + 1.0 - prefix))
        return total * self.row(id) * self.profile.train

    def heads(self, id: str, epochs: float, batch_size: int, count: int) -> float:
        """Return the seconds of ``count`` heads trained together on a backbone's stored features.

        Nothing under a trial budget: beside the passes of a backbone they cost next to nothing.
        """
        took, told = self.measured_heads
        return self._heads(id, epochs, batch_size, count) * (took / told if told else 1.0)

    def learn_heads(self, id: str, epochs: float, batch_size: int, count: int, seconds: float) -> None:
        """Note what :meth:`heads` predicts and how long it took."""
        took, told = self.measured_heads
        predicted = self._heads(id, epochs, batch_size, count)
        if predicted > 0 and seconds > 0:
            self.measured_heads = (took + seconds, told + predicted)

    def _heads(self, id: str, epochs: float, batch_size: int, count: int) -> float:
        record = self._record(id)
        if record is None or not self.clock:
            return 0.0
        profile = self.profile
        outputs = sum(max(1, len(p.classes)) for p in (profile.each or (profile,)))
        rows = BACKWARD * profile.train + profile.validation  # forward, and the slope of the weights
        products = rows * outputs * (record.width + 1) * count / HEAD_RATE
        return epochs * (products + HEAD_STEP * math.ceil(profile.train / batch_size))

    def moves(self, id: str, phases: Sequence[Phase]) -> bool:
        """Return whether any phase trains a part of the backbone."""
        return any(phase.epochs > 0 and prefix_share(phase, self.macs(id)) < 1.0 for phase in phases)

    def alone(self, id: str, phases: Sequence[Phase]) -> int:
        """Return the epochs, rounded up, of the first phases that train the head alone."""
        macs = self.macs(id)
        first = itertools.takewhile(lambda p: prefix_share(p, macs) >= 1.0, phases)
        return math.ceil(sum(p.epochs for p in first))

    def passed(self, id: str, phases: Sequence[Phase], strategy: Strategy | None = None) -> None:
        """Note that a training has run: activations at its cuts are stored from here on."""
        if not _stores(strategy):
            return
        macs = self.macs(id)
        found = {self._cut(p) for p in phases if p.augment in STORED and 0 < prefix_share(p, macs) < 1}
        self.stored.setdefault(id, set()).update(found)

    def remaining(self, id: str) -> float:
        """Return the cost of reading the rows that a backbone's survey has not read yet."""
        record = self._record(id)
        if record is None or record.status == "done":
            return 0.0
        return self.row(id) * (self.profile.train - record.rows + self.profile.validation)

    def adapting(self, id: str, strategy: Strategy) -> float:
        """Return the cost of what a strategy for unlabeled rows does without training the backbone.

        A head that sees their features has them read once. A backbone that is adapted has no use for its survey: the
        labelled rows are read for their statistics and again for the head, the unlabeled ones for theirs.
        """
        if not strategy.unlabeled or self.profile.unlabeled is None or overrides(strategy, "objective"):
            return 0.0
        rows = min(self.profile.unlabeled.rows, POOLED_ROWS)
        if overrides(strategy, "adapt"):
            rows += 2 * self.profile.train + self.profile.validation
        return self.row(id) * rows

    def _record(self, id: str) -> SurveyRecord | None:
        return next((r for r in self.survey() if r.backbone == id), None)

    @staticmethod
    def _cut(phase: Phase) -> int:
        return frozen_before(phase) or 0


def _stores(strategy: Strategy | None) -> bool:
    """Return whether trainings of a strategy start from stored activations: its head and loss see the end alone."""
    return strategy is None or not (strategy.depths or overrides(strategy, "objective"))


def frozen_before(phase: Phase) -> int | None:
    """Return how many of the first stages a phase leaves untouched; None where that depends on parameter names."""
    if phase.freeze is not None:
        return phase.freeze
    if phase.stages is not None:
        return min(phase.stages, default=None)
    return 0 if phase.parameters is None else None


def prefix_share(phase: Phase, macs: Sequence[float]) -> float:
    """Return the frozen prefix's share of a forward pass: 1 where no stage is trained, 0 where nothing is known."""
    if phase.stages is not None and not phase.stages:
        return 1.0
    before = frozen_before(phase)
    if not before:
        return 0.0
    if before >= len(macs):
        return 1.0
    return macs[before - 1] / max(macs[-1], 1.0)


def stretches(phases: Iterable[Phase], start: float, stop: float | None) -> list[tuple[Phase, float]]:
    """Return the phases between two epochs of the whole training, each with its epochs there.

    One whose augmentation begins later is two: before and after.
    """
    found, at = [], 0.0
    parts = [part for phase in phases for part in _parts(phase)]
    for phase in parts:
        low, high = max(at, start), at + phase.epochs if stop is None else min(at + phase.epochs, stop)
        if high > low:
            found.append((phase, high - low))
        at += phase.epochs
    return found


def _parts(phase: Phase) -> list[Phase]:
    late = min(phase.augment_from, phase.epochs)
    if phase.augment == "none" or not late:
        return [phase]
    before = replace(phase, epochs=late, augment="none", augment_from=0.0)
    return [before, replace(phase, epochs=phase.epochs - late, augment_from=0.0)]


def _views(epochs: float, most: int) -> int:
    """Return how many of ``most`` views are kept where reading costs nothing beside running the frozen stages."""
    return next((n for n in range(most, 1, -1) if n < epochs), 1)
