"""What a pass, a rung and a whole training cost, predicted from what the survey measured.

Costs are multiply-accumulates times rows under a trial budget, so that no clock has a say in the answer; else
seconds of one worker. Both rest on one model (units of one frozen pass over the training rows, F): a training
pass costs 3 F through stages that are trained, since the backward pass costs about twice the forward one; F through
a frozen prefix, or nothing where its activations are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from autotransfer.data.modalities import modality
from autotransfer.schema import STORED, Phase, Profile, SurveyRecord

EPOCHS = 10
"""Passes over the training rows in a full training."""
BACKWARD = 2.0
"""Cost of a backward pass in forward passes."""


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
        return (1.0 + BACKWARD) * EPOCHS * max((self.row(i) for i in ids), default=0.0) * self.profile.train

    def training(self, id: str, phases: Sequence[Phase], start: float, stop: float | None) -> float:
        """Return the cost of a training from epoch ``start`` to ``stop`` (None: to the end), validation included."""
        share = self.profile.validation / max(1, self.profile.train)
        macs, total = self.macs(id), 0.0
        for phase, epochs in stretches(phases, start, stop):
            prefix = prefix_share(phase, macs)
            if prefix >= 1.0:
                continue  # its features are those of the survey
            kept = bool(macs) and prefix > 0.0 and self._cut(phase) in self.stored.get(id, set())
            before = 0.0 if kept and phase.augment in STORED else prefix
            if phase.augment == "views":  # the others are written once, in whichever rung comes first
                most = len(modality(self.profile.modality).views)
                total += max(0, _views(phase.epochs, most) - 1) * prefix * epochs / phase.epochs
            total += epochs * (before + (1.0 + BACKWARD) * (1.0 - prefix) + share * (before + 1.0 - prefix))
        return total * self.row(id) * self.profile.train

    def moves(self, id: str, phases: Sequence[Phase]) -> bool:
        """Return whether any phase trains a part of the backbone."""
        return any(phase.epochs > 0 and prefix_share(phase, self.macs(id)) < 1.0 for phase in phases)

    def passed(self, id: str, phases: Sequence[Phase]) -> None:
        """Note that a training has run: activations at its cuts are stored from here on."""
        macs = self.macs(id)
        found = {self._cut(p) for p in phases if p.augment in STORED and 0 < prefix_share(p, macs) < 1}
        self.stored.setdefault(id, set()).update(found)

    def remaining(self, id: str) -> float:
        """Return the cost of reading the rows that a backbone's survey has not read yet."""
        record = self._record(id)
        if record is None or record.status == "done":
            return 0.0
        return self.row(id) * (self.profile.train - record.rows + self.profile.validation)

    def _record(self, id: str) -> SurveyRecord | None:
        return next((r for r in self.survey() if r.backbone == id), None)

    @staticmethod
    def _cut(phase: Phase) -> int:
        return frozen_before(phase) or 0


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
