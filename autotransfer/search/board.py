"""The board: every trial of a search, how far it came, and what is kept of it on disk."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from autotransfer.recipes import MEASURED, spec_id
from autotransfer.schema import Candidate, Phase, TrialRecord
from autotransfer.search.criterion import NAME, SCORES, Criterion
from autotransfer.search.jobs import Context

if TYPE_CHECKING:
    from autotransfer.registry import Registry

KEPT = 4
"""Paused trials whose checkpoints are kept: a network and its optimizer each."""


@dataclass
class Trial:
    """A recipe on its way through the rungs."""

    id: str
    candidate: Candidate
    phases: tuple[Phase, ...]
    rungs: tuple[int | None, ...]
    """Epochs at which it is compared; None is the end."""
    moves: bool
    """It trains a part of the backbone."""
    counted: bool
    """False for baselines, finalists and trainings for one target of several."""
    record: TrialRecord
    done: int = 0
    """Rungs that have been run."""
    before: str = ""
    """Its checkpoint before the last rung, where another training may go on from there."""
    start: str = ""
    """The checkpoint of another trial that it goes on from."""

    @property
    def backbone(self) -> str:
        """Id of its backbone in this run."""
        return spec_id(self.candidate.recipe)

    @property
    def objective(self) -> float | None:
        """Its best validation objective so far."""
        return self.record.objective if self.record.status != "failed" else None

    @property
    def standing(self) -> tuple[float, bool, float]:
        """What trials are compared by: the objective; a finalist must win by it; else the loss decides a tie."""
        objective = float("-inf") if self.objective is None else self.objective
        return objective, not self.id.startswith("f"), -(self.loss or 0.0)

    @property
    def loss(self) -> float | None:
        """Loss of its answers on the validation rows, once they are as sure as they should be; None: it has none."""
        return self.record.calibrated_loss

    @property
    def telling(self) -> bool:
        """Whether its loss tells how good it is: it is whole."""
        return self.record.status == "done" and self.loss is not None

    @property
    def begins(self) -> str:
        """Checkpoint that its next rung goes on from; empty: it begins anew."""
        return self.record.checkpoint or self.start

    @property
    def passed(self) -> tuple[int, ...]:
        """Epochs at which it was compared so far."""
        return tuple(u for u in self.rungs[: self.done] if u is not None)

    @property
    def baseline(self) -> bool:
        """It transfers nothing."""
        return self.id.startswith("b")

    @property
    def alone(self) -> bool:
        """It serves one target of several, for comparison."""
        return self.id.startswith("s")

    @property
    def paused(self) -> bool:
        """It could go on, and its checkpoint is there."""
        return self.record.status == "promoted" and self.done < len(self.rungs)


@dataclass
class Board:
    """The trials of one search, in the order of their beginning."""

    context: Context
    registry: Registry
    trials: list[Trial] = field(default_factory=list)
    criterion: Criterion = field(default_factory=Criterion)
    """What trials are compared by."""

    @property
    def records(self) -> dict[str, TrialRecord]:
        """Last record of each trial, by id."""
        return {t.id: t.record for t in self.trials}

    @property
    def counted(self) -> int:
        """Trials so far, baselines and finalists left out."""
        return sum(t.counted for t in self.trials)

    def begin(
        self,
        candidate: Candidate,
        phases: tuple[Phase, ...],
        rungs: tuple[int | None, ...],
        *,
        moves: bool,
        letter: str,
    ) -> Trial:
        """Return a new trial of a candidate; its id begins with b for baselines, f for finalists, else t.

        One that serves a single target of several, for comparison, begins with s.
        """
        id = f"{letter}{len(self.trials) + 1:03d}"
        record = TrialRecord(id=id, recipe=candidate.recipe, status="failed", reason="it was not run")
        trial = Trial(id, candidate, phases, rungs, moves, letter == "t", record)
        self.trials.append(trial)
        return trial

    def take(self, trial: Trial, record: TrialRecord) -> None:
        """Take the record of a trial's latest rung; where that failed, the score of the one before still stands."""
        before = trial.record
        reason = trial.candidate.reason
        notes = record.notes if reason in record.notes else (*record.notes, reason)
        spent = replace(
            record,
            notes=notes,
            seconds=record.seconds + before.seconds,
            cpu_seconds=record.cpu_seconds + before.cpu_seconds,
        )
        if record.status == "failed" and before.objective is not None:
            told = f"rung {record.rung} failed: {record.reason}"
            spent = replace(before, status="stopped", reason=told, notes=(*before.notes, told))
        if before.checkpoint not in ("", spent.checkpoint, trial.before):
            shutil.rmtree(self.context.path(before.checkpoint), ignore_errors=True)
        trial.record = spent
        trial.done += 1
        if trial.candidate.recipe.dtype == MEASURED and record.status != "failed":
            known = replace(trial.candidate.recipe, dtype=record.recipe.dtype)
            trial.candidate = replace(trial.candidate, recipe=known)
        self.registry.trial_finished(spent)

    def leading(self) -> Trial | None:
        """Return the best trial so far: highest objective, then least loss, then the earlier one.

        Of those that are about as good as that one, as far as so few rows can tell, a baseline is none where another
        trial is one; of the rest it is the one with the least calibrated loss: it says more of each row than whether
        its answer is right. Where answers on unlabeled rows decide, they come first.
        """
        scored = [t for t in self.trials if t.objective is not None and not t.alone]
        eligible = self.criterion.eligible([t.record for t in scored])
        alike = [t for t in scored if t.id in eligible]
        if self.criterion.rows:
            alike = [t for t in alike if not t.baseline] or alike
        best = max(alike, key=lambda t: (self._informed(t), *self._place(t)), default=None)
        if best is None or self.criterion.informed or not self.criterion.rows or not best.telling:
            return best
        return min((t for t in alike if t.telling), key=lambda t: (t.loss, *(-p for p in self._place(t))))

    def ahead(self) -> Trial | None:
        """Return the leader; where that is a baseline, the best trial beside the baselines.

        A baseline is whole at once. Trainings that it beat in their first epochs were not: the best is worth its end.
        """
        leading = self.leading()
        if leading is None or not leading.baseline:
            return leading
        scored = [t for t in self.trials if t.objective is not None and t.counted]
        return max(scored, key=lambda t: (self._informed(t), *self._place(t)), default=leading)

    def _place(self, trial: Trial) -> tuple[float, bool, float, int]:
        return *trial.standing, -self.trials.index(trial)

    def chosen(self) -> str:
        """Return why another trial than that with the highest score leads; empty: it does not."""
        leading = self.leading()
        best = max((t for t in self.trials if t.objective is not None and not t.alone), key=self._place, default=None)
        if leading is None or best is None or leading is best or self.criterion.informed:
            return ""
        score, most = leading.objective or 0.0, best.objective or 0.0
        why = "it transfers" if best.baseline else f"its loss is less, {leading.loss:.4f} against {best.loss:.4f}"
        return (
            f"{leading.id} won, and not {best.id}: of {self.criterion.rows} validation rows {score:.4f} is within one "
            f"standard error ({self.criterion.slack(most):.4f}) of {most:.4f}, and {why}"
        )

    def _informed(self, trial: Trial) -> float:
        """Return what a trial's answers tell of the unlabeled rows; 0 where that is not what decides.

        A baseline's tell nothing: it can be adapted to no other rows, and is as sure of what it never saw.
        """
        if self.criterion.informed and trial.baseline:
            return -1.0
        return trial.record.scores.get(SCORES, {}).get(NAME, -1.0) if self.criterion.informed else 0.0

    def floor(self) -> float | None:
        """Return the worst objective so far: that of the constant predictor, once the baselines were scored."""
        return min((t.objective for t in self.trials if t.objective is not None), default=None)

    def leader(self) -> TrialRecord | None:
        """Return the record of the best trial so far."""
        leading = self.leading()
        return leading.record if leading is not None else None

    def paused(self) -> list[Trial]:
        """Return the trials that could go on."""
        return [t for t in self.trials if t.paused]

    def adapting(self) -> list[Trial]:
        """Return the trials that adapt to unlabeled rows and could go on."""
        return [t for t in self.paused() if self.registry.strategy(t.candidate.recipe.strategy).unlabeled]

    def tidy(self) -> None:
        """Remove checkpoints of trials that will not go on; the leader's, baselines' and a few paused ones stay."""
        leading = self.leading()
        paused = sorted((t for t in self.paused() if not t.alone), key=lambda t: (-(t.objective or 0.0), t.id))
        for trial in paused[KEPT:]:
            trial.record = _ended(trial.record)
        if self.criterion.informed:  # a trial may yet win without being any better: by what the others are worth
            return
        hopeful = self._hopeful()
        for trial in self.trials:
            if not (trial.baseline or trial.paused or trial is leading or trial.id in hopeful):
                for name in filter(None, (trial.record.checkpoint, trial.before)):
                    shutil.rmtree(self.context.path(name), ignore_errors=True)

    def _hopeful(self) -> set[str]:
        """Return the ids of trials that may lead once a better one is found: no other is both better and surer."""
        eligible = self.criterion.eligible([t.record for t in self.trials if not t.alone])
        found, least = set[str](), float("inf")
        own = [t for t in self.trials if t.id in eligible and t.telling and not t.baseline]
        for trial in sorted(own, key=self._place, reverse=True):
            if trial.loss is not None and trial.loss < least:
                found.add(trial.id)
                least = trial.loss
        return found

    def keep_before(self, trial: Trial) -> None:
        """Keep a trial's checkpoint as it is before its last rung, so that another training may go on from there."""
        trial.before = trial.record.checkpoint

    def go_on_from(self, trial: Trial, other: Trial) -> bool:
        """Let a new trial go on where another one stood before its last rung; False where that is not kept."""
        if len(trial.rungs) > 1:
            trial.start, trial.done = other.before, len(trial.rungs) - 1
        return not trial.done or bool(trial.start)

    def holds(self, trial: Trial) -> bool:
        """Return whether the checkpoint of a trial's record is there."""
        return bool(trial.record.checkpoint) and self.context.path(trial.record.checkpoint).exists()

    def close(self) -> None:
        """Say of trials still paused that they go no further."""
        for trial in self.paused():
            trial.record = _ended(trial.record)


def _ended(record: TrialRecord) -> TrialRecord:
    return replace(record, status="stopped", reason=f"others promised more after {record.epochs:.3g} epochs")
