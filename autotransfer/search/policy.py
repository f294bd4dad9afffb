"""The policy: which jobs to run next, given what came back. It knows neither Ray nor threads.

A generator: it yields generations of jobs and is sent their records, sorted as the jobs were. So every
executor runs the same search, and under a trial budget gives the same answer.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from autotransfer.schema import Budget, Candidate, Profile, Refusal, SurveyRecord, TrialRecord
from autotransfer.search.candidates import EPOCHS, Proposer, Space, share_trained, values_of
from autotransfer.search.jobs import Context, Record, RungJob
from autotransfer.search.rounds import Generation, Rounds

if TYPE_CHECKING:
    from autotransfer.registry import Registry

GENERATION = 4
"""Recipes compared with each other; the same whatever the number of workers."""
RUNGS = (2, 5, EPOCHS)
"""Epochs at which recipes that move the backbone are compared; the better half goes on."""
HEADS_ONLY = 30.0
"""Under this many seconds only heads are trained."""
PATIENCE = 3
"""Generations without a better score after which a search without a trial budget ends."""
UNLIMITED_TRIALS = 12
UNLIMITED_SECONDS = 3600.0

Notify = Callable[..., None]


@dataclass
class Search:
    """State of one search, and its generator."""

    context: Context
    space: Space
    budget: Budget
    registry: Registry
    deadline: float = float("inf")
    """``time.time()`` at which the last job must end; the finish comes after it."""
    workers: int = 1
    records: dict[str, TrialRecord] = field(default_factory=dict)
    """Last record of each trial, by id."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why each trial was tried."""
    status: str = "complete"
    counted: int = 0
    """Trials so far, baselines left out."""

    def __post_init__(self) -> None:
        self.rounds = Rounds(self.context, self.profile, self.registry, self.deadline, self.workers)

    @property
    def survey(self) -> list[SurveyRecord]:
        """The latest survey record of each backbone."""
        return self.rounds.records

    @property
    def profile(self) -> Profile:
        """The data's profile."""
        return self.space.profile

    def leader(self) -> TrialRecord | None:
        """Return the best trial so far: highest objective, then the earlier one."""
        scored = [r for r in self.records.values() if r.objective is not None and r.status != "failed"]
        return max(scored, key=lambda r: (r.objective, _earlier(r.id)), default=None)

    def jobs(self) -> Generation:
        """Yield generations of jobs; expects their records in the same order."""
        yield from self.rounds.jobs()
        proposer = Proposer(self.space, self.survey, self.rounds.order(), self.rounds.static())
        self.space.unknown_values()
        fine = {r.backbone for r in self.rounds.fine()}
        baselines = [c for c in proposer.baselines() if c.recipe.backbone in fine]
        yield from self._bracket([c for c in baselines if self._fits(c, 0.0)], count=False)
        yield from self._search(proposer)
        if not any(r.objective is not None for i, r in self.records.items() if i.startswith("t")):
            yield from self._rescue(proposer)

    def _search(self, proposer: Proposer) -> Generation:
        queue, stale, best = proposer.guaranteed(), 0, self._best()
        while not self._over(stale):
            batch = self._fill(queue, proposer)
            if not batch:
                return
            yield from self._bracket(batch)
            now = self._best()
            stale, best = (0, now) if now > best else (stale + 1, best)
        if self.budget.trials is None and time.time() > self.deadline:
            self.status = "budget"

    def _over(self, stale: int) -> bool:
        if self.budget.trials is not None:
            return self.counted >= self.budget.trials
        if self.budget.seconds is None and self.counted >= UNLIMITED_TRIALS:
            return True
        return stale >= PATIENCE or time.time() > self.deadline

    def _best(self) -> float:
        leader = self.leader()
        return leader.objective if leader is not None and leader.objective is not None else float("-inf")

    def _fill(self, queue: list[Candidate], proposer: Proposer) -> list[Candidate]:
        """Return the next generation: what is guaranteed, then drawn; what the budget cannot hold is refused."""
        room = GENERATION if self.budget.trials is None else min(GENERATION, self.budget.trials - self.counted)
        batch: list[Candidate] = []
        planned = 0.0
        for _ in range(8 * GENERATION):
            if len(batch) == room:
                break
            candidate = queue.pop(0) if queue else proposer.draw()
            if candidate is None:
                break
            if self._fits(candidate, planned):
                batch.append(candidate)
                planned += self._first_rung_seconds(candidate)
        return batch

    def _fits(self, candidate: Candidate, planned: float) -> bool:
        """Return whether a first rung ends in time, after ``planned`` seconds of others; if not, it is refused."""
        cost = self._first_rung_seconds(candidate)
        wall = max(cost, (planned + cost) / self.workers)
        if time.time() + wall <= self._end(candidate.recipe.backbone):
            return True
        heads = self.budget.seconds is not None and self.budget.seconds < HEADS_ONLY
        why = "under 30 s only heads are trained" if heads else f"its first rung takes about {cost:.0f} s, too long"
        name = f"{candidate.recipe.strategy} on {candidate.recipe.backbone}"
        if cost and not planned and all(r.name != name for r in self.space.refusals):
            self.space.refusals.append(Refusal(name=name, reason=why))
        return False

    def _end(self, id: str) -> float:
        """Return when training of a backbone must end, so that the held-out rows can be scored in time."""
        return self.deadline - 1.2 * self._row_seconds(id) * self.profile.test

    def _rescue(self, proposer: Proposer) -> Generation:
        """Train one head on as many rows as the time allows: a late small model is better than none."""
        heads = Proposer(self.space, self.survey, proposer.order, proposer.static).guaranteed()
        for candidate in [c for c in heads if self._rungs(c) == (None,)][:1]:
            left = max(1.0, 0.8 * (self._end(candidate.recipe.backbone) - time.time()))
            rows = int(0.75 * left / max(self._row_seconds(candidate.recipe.backbone), 1e-6))
            rows = min(self.profile.train, max(32, rows))
            id = self._id(candidate, count=True)
            text = f"trained on {rows} of {self.profile.train} rows: the budget does not reach for more"
            late = time.time() + 2.0 * left
            records = yield [RungJob(id=id, recipe=candidate.recipe, final=True, rows=rows, deadline=late)]
            self._take([replace(r, notes=(*r.notes, text)) for r in records])
            self.status = "budget"

    def _bracket(self, batch: Sequence[Candidate], count: bool = True) -> Generation:
        """Run recipes to their rungs; after each the better half of those that move the backbone goes on."""
        if not batch:
            return
        alive = [(self._id(c, count), c) for c in batch]
        alive.sort(key=lambda pair: self._rungs(pair[1]) != (None,))  # heads first: a usable model soon
        yield from self.rounds.complete({c.recipe.backbone for _, c in alive if self._rungs(c) == (None,)})
        for rung in range(len(RUNGS)):
            going = [(i, c) for i, c in alive if rung < len(self._rungs(c))]
            if not going or (rung and time.time() > self.deadline):
                return
            records = yield [self._rung(i, c, rung) for i, c in going]
            self._take(records)
            going = [(i, c) for i, c in going if self.records[i].status == "promoted"]
            going.sort(key=lambda pair: (-(self.records[pair[0]].objective or float("-inf")), pair[0]))
            alive = going[: -(-len(going) // 2)]
            self._drop({i for i, _ in going} - {i for i, _ in alive})

    def _id(self, candidate: Candidate, count: bool) -> str:
        name = f"t{len(self.records) + 1:03d}" if count else f"b{len(self.records) + 1:03d}"
        recipe = candidate.recipe
        # The place is taken at once, so that the next candidate of the generation gets another one.
        self.records[name] = TrialRecord(id=name, recipe=recipe, status="failed", reason="it was not run")
        self.reasons[name] = candidate.reason
        self.counted += count
        return name

    def _phases(self, candidate: Candidate) -> list[Any]:
        recipe = candidate.recipe
        spec = replace(self.context.specs[recipe.backbone], stages=recipe.stages)
        return self.registry.strategy(recipe.strategy).phases(self.profile, spec, values_of(recipe))

    def _rungs(self, candidate: Candidate) -> tuple[int | None, ...]:
        """Return the epochs at which a recipe is looked at; one that moves no stage runs in one go."""
        macs = self._macs(candidate.recipe.backbone)
        phases = self._phases(candidate)
        if share_trained(phases, len(candidate.recipe.stages), macs) == 0.0:
            return (None,)
        total = sum(p.epochs for p in phases)
        early = tuple(r for r in RUNGS[:-1] if r < total)
        return (*early, None)

    def _rung(self, id: str, candidate: Candidate, rung: int) -> RungJob:
        rungs = self._rungs(candidate)
        record = next((r for r in self.survey if r.backbone == candidate.recipe.backbone), None)
        return RungJob(
            id=id,
            recipe=candidate.recipe,
            rung=rung,
            until=rungs[rung],
            final=rung == len(rungs) - 1,
            survey=record.features if record is not None else "",
            deadline=self._end(candidate.recipe.backbone),
        )

    def _take(self, records: Sequence[Record]) -> None:
        for record in records:
            if isinstance(record, TrialRecord):
                before = self.records[record.id]
                spent = replace(
                    record,
                    seconds=record.seconds + before.seconds,
                    cpu_seconds=record.cpu_seconds + before.cpu_seconds,
                )
                failed_late = record.status == "failed" and before.objective is not None
                if failed_late:  # its last checkpoint still stands, and so does its score
                    spent = replace(before, notes=(*before.notes, f"rung {record.rung} failed: {record.reason}"))
                self.records[record.id] = spent
                self.registry.trial_finished(spent)
        self._drop({r.id for r in self.records.values() if r.status in ("done", "stopped")})

    def _drop(self, ids: set[str]) -> None:
        """Remove the checkpoints of trials that will not go on; the leader's and those of baselines stay."""
        leader = self.leader()
        for id in {i for i in ids if i.startswith("t")} - {leader.id if leader else ""}:
            shutil.rmtree(self.context.path(f"checkpoint-{id}"), ignore_errors=True)

    # Cost.

    def _macs(self, id: str) -> tuple[float, ...]:
        record = next((r for r in self.survey if r.backbone == id), None)
        return tuple(c.macs or 0.0 for c in record.cuts) if record is not None else ()

    def unit_seconds(self, id: str) -> float | None:
        """Return the predicted seconds, on one worker, of a full 10-epoch fine-tune.

        Of this backbone, or of the static winner where that is dearer.
        """
        dearer = max(self._row_seconds(i) for i in (id, self.rounds.static() or id))
        return 3.0 * EPOCHS * dearer * self.profile.train or None

    def _row_seconds(self, id: str) -> float:
        """Return the measured seconds of one row's forward pass."""
        return next((r.seconds_per_row for r in self.survey if r.backbone == id), 0.0)

    def _first_rung_seconds(self, candidate: Candidate) -> float:
        """Return predicted seconds until a recipe has its first score; 0 under a trial budget, which has no clock."""
        if self.deadline == float("inf"):
            return 0.0
        recipe = candidate.recipe
        per_epoch = self._row_seconds(recipe.backbone) * self.profile.train
        passes = share_trained(self._phases(candidate), len(recipe.stages), self._macs(recipe.backbone))
        if passes and self.budget.seconds is not None and self.budget.seconds < HEADS_ONLY:
            return float("inf")
        share = self.profile.validation / max(1, self.profile.train)
        if passes:
            return per_epoch * (passes + share) * RUNGS[0]
        record = self.rounds.record(recipe.backbone)
        return 0.0 if record.status == "done" else per_epoch * (1 + share)


def _earlier(id: str) -> int:
    return -int(id[1:])
