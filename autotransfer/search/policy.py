"""The policy: which jobs to run next, given what came back. It knows neither Ray nor threads.

A generator: it yields generations of jobs and is sent their records, sorted as the jobs were. So every
executor runs the same search, and under a trial budget gives the same answer.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from autotransfer.schema import Budget, Candidate, Profile, Refusal, SurveyRecord, TrialRecord
from autotransfer.search.candidates import EPOCHS, Proposer, Space, share_trained, values_of
from autotransfer.search.jobs import Context, Job, Record, RungJob, SurveyJob
from autotransfer.spec import BackboneSpec

if TYPE_CHECKING:
    from autotransfer.registry import Registry

GENERATION = 4
"""Recipes compared with each other; the same whatever the number of workers."""
RUNGS = (2, 5, EPOCHS)
"""Epochs at which recipes that move the backbone are compared; the better half goes on."""
FIRST_CHUNK = 512
FULL_SURVEY = 4096
"""Up to this many training rows every backbone reads them all; above, the survey halves the field as it grows."""
SURVEY_SHARE = 0.4
"""Of the seconds, that the survey may spend."""
HEADS_ONLY = 30.0
"""Under this many seconds only heads are trained."""
PATIENCE = 3
"""Generations without a better score after which a search without a trial budget ends."""
UNLIMITED_TRIALS = 12
UNLIMITED_SECONDS = 3600.0

Generation = Generator[list[Job], list[Record], None]
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
    survey: list[SurveyRecord] = field(default_factory=list)
    records: dict[str, TrialRecord] = field(default_factory=dict)
    """Last record of each trial, by id."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why each trial was tried."""
    status: str = "complete"
    epoch_seconds: dict[str, float] = field(default_factory=dict)
    """Measured seconds of one forward epoch, by backbone."""
    counted: int = 0
    """Trials so far, baselines left out."""

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
        yield from self._survey_all()
        done = [r for r in self.survey if r.status in ("done", "partial")]
        proposer = Proposer(self.space, self.survey, self._order(done), self._static(done))
        self.space.unknown_values()
        baselines = self._few(proposer.baselines(), 2 * GENERATION)
        self._reserve_finish()
        yield from self._bracket([c for c in baselines if self._fits(c)], count=False)
        yield from self._search(proposer)
        if not any(r.objective is not None for r in self.records.values()):
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
        for _ in range(8 * GENERATION):
            if len(batch) == room:
                break
            candidate = queue.pop(0) if queue else proposer.draw()
            if candidate is None:
                break
            if self._fits(candidate):
                batch.append(candidate)
        return batch

    def _fits(self, candidate: Candidate) -> bool:
        """Return whether a candidate's first rung ends before the deadline; if not, it is refused."""
        cost = self._first_rung_seconds(candidate)
        if time.time() + cost <= self.deadline:
            return True
        heads = self.budget.seconds is not None and self.budget.seconds < HEADS_ONLY
        why = "under 30 s only heads are trained" if heads else f"its first rung takes about {cost:.0f} s, too long"
        self._refuse(f"{candidate.recipe.strategy} on {candidate.recipe.backbone}", why)
        return False

    def _rescue(self, proposer: Proposer) -> Generation:
        """Train one head on as many rows as the time allows: a late small model is better than none."""
        heads = Proposer(self.space, self.survey, proposer.order, proposer.static).guaranteed()
        for candidate in [c for c in heads if self._rungs(c) == (None,)][:1]:
            per_row = self.epoch_seconds.get(candidate.recipe.backbone, 0.0) / max(1, self.profile.train)
            left = max(1.0, 0.8 * (self.deadline - time.time()))
            rows = int(min(self.profile.train, max(32, 0.75 * left / max(per_row, 1e-6))))
            id = self._id(candidate, count=True)
            text = f"trained on {rows} of {self.profile.train} rows: the budget does not reach for more"
            records = yield [RungJob(id=id, recipe=candidate.recipe, final=True, rows=rows)]
            self._take([replace(r, notes=(*r.notes, text)) for r in records])
            self.status = "budget"

    def _reserve_finish(self) -> None:
        """Bring the deadline forward by what scoring the held-out rows will take."""
        dearest = max((r.seconds_per_row for r in self.survey if r.status != "failed"), default=0.0)
        self.deadline -= 1.2 * dearest * self.profile.test

    def _refuse(self, name: str, reason: str) -> None:
        if all(r.name != name for r in self.space.refusals):
            self.space.refusals.append(Refusal(name=name, reason=reason))

    def _bracket(self, batch: Sequence[Candidate], count: bool = True) -> Generation:
        """Run recipes to their rungs; after each the better half of those that move the backbone goes on."""
        if not batch:
            return
        alive = [(self._id(c, count), c) for c in batch]
        alive.sort(key=lambda pair: self._rungs(pair[1]) != (None,))  # heads first: a usable model soon
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
            deadline=self.deadline,
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

    # The survey.

    def _survey_all(self) -> Generation:
        rows = self.profile.train
        specs = [s for s in self.context.specs.values() if s.transfer]
        fixed = [s for s in self.context.specs.values() if not s.transfer]
        first = rows if rows <= FULL_SURVEY and self.budget.seconds is None else min(rows, FIRST_CHUNK)
        began, count = time.time(), first
        budget = SURVEY_SHARE * (self.deadline - began) if self.deadline < float("inf") else float("inf")
        limit = budget * self.workers / max(1, len(specs) + len(fixed))
        jobs: list[Job] = [SurveyJob(backbone=s.id, rows=rows, seconds=limit) for s in fixed]
        jobs += [SurveyJob(backbone=s.id, rows=first, last=first == rows, seconds=limit) for s in specs]
        yield from self._surveyed(jobs)
        while count < rows:
            alive = self._alive(specs)
            count = min(rows, 2 * count)
            if rows > FULL_SURVEY and len(alive) > 2:
                alive = self._halved(alive)
            while len(alive) > 1 and self._rest_seconds(alive, rows) > began + budget - time.time():
                alive = self._without_worst(alive)
            if not alive or self._rest_seconds(alive, rows) > self.deadline - time.time():
                return
            last = count == rows
            yield from self._surveyed([SurveyJob(backbone=s.id, rows=count, last=last) for s in alive])
            specs = alive

    def _surveyed(self, jobs: list[Job]) -> Generation:
        records = yield jobs
        for record in records:
            if isinstance(record, SurveyRecord):
                self.survey = [r for r in self.survey if r.backbone != record.backbone] + [record]
                self.epoch_seconds[record.backbone] = record.seconds_per_row * self.profile.train

    def _alive(self, specs: Sequence[BackboneSpec]) -> list[BackboneSpec]:
        fine = {r.backbone for r in self.survey if r.status in ("done", "partial")}
        return [s for s in specs if s.id in fine]

    def _halved(self, specs: list[BackboneSpec]) -> list[BackboneSpec]:
        """Return the better half, two at least, and the static winner in any case."""
        found = [r for r in self.survey if r.backbone in {s.id for s in specs}]
        keep = set(self._order(found)[: max(2, -(-len(specs) // 2))]) | {self._static(found)}
        for s in specs:
            if s.id not in keep:
                self._note(s.id, "read no further: others were ahead")
        return [s for s in specs if s.id in keep]

    def _without_worst(self, specs: list[BackboneSpec]) -> list[BackboneSpec]:
        """Return the field without its worst, because the time does not reach for all."""
        order = self._order([r for r in self.survey if r.backbone in {s.id for s in specs}])
        self._note(order[-1], "read no further: the budget does not reach for all")
        return [s for s in specs if s.id != order[-1]]

    def _note(self, id: str, text: str) -> None:
        self.survey = [
            replace(r, notes=(*r.notes, text)) if r.backbone == id and text not in r.notes else r for r in self.survey
        ]

    def _rest_seconds(self, specs: Sequence[BackboneSpec], rows: int) -> float:
        """Return predicted wall seconds until these backbones have read everything."""
        total = 0.0
        for r in self.survey:
            if r.backbone in {s.id for s in specs}:
                total += r.seconds_per_row * (rows - r.rows + self.profile.validation)
        return total / self.workers

    def _order(self, found: Sequence[SurveyRecord]) -> list[str]:
        """Return ids of transferring backbones by their survey score, merged by rank with the plugins' estimates."""
        fine = [r for r in found if r.status in ("done", "partial") and self.context.specs[r.backbone].transfer]
        fine.sort(key=lambda r: (r.score if r.score is not None else float("-inf"), r.backbone))
        own = {r.backbone: place / max(1, len(fine) - 1) for place, r in enumerate(fine)}
        extra = self.registry.scores(fine, [self.context.specs[i] for i in own])
        merged = {i: (own[i] + extra[i]) / 2 if i in extra else own[i] for i in own}
        return sorted(merged, key=lambda i: (-merged[i], i))

    def _static(self, found: Sequence[SurveyRecord]) -> str | None:
        """Return the backbone with most parameters: picked blindly, that is hard to beat (arXiv 2510.06448)."""
        fine = [r for r in found if r.status in ("done", "partial") and self.context.specs[r.backbone].transfer]
        return max(fine, key=lambda r: (r.params, r.backbone)).backbone if fine else None

    # Cost.

    def _macs(self, id: str) -> tuple[float, ...]:
        record = next((r for r in self.survey if r.backbone == id), None)
        return tuple(c.macs or 0.0 for c in record.cuts) if record is not None else ()

    def unit_seconds(self, id: str) -> float | None:
        """Return the predicted seconds, on one worker, of a full 10-epoch fine-tune.

        Of this backbone, or of the static winner where that is dearer.
        """
        static = self._static(self.survey)
        dearer = max(self.epoch_seconds.get(i, 0.0) for i in (id, static or id))
        return 3.0 * EPOCHS * dearer or None

    def _first_rung_seconds(self, candidate: Candidate) -> float:
        """Return predicted seconds until a recipe has its first score; 0 under a trial budget, which has no clock."""
        if self.deadline == float("inf"):
            return 0.0
        recipe = candidate.recipe
        per_epoch = self.epoch_seconds.get(recipe.backbone, 0.0)
        passes = share_trained(self._phases(candidate), len(recipe.stages), self._macs(recipe.backbone))
        if passes and self.budget.seconds is not None and self.budget.seconds < HEADS_ONLY:
            return float("inf")
        share = self.profile.validation / max(1, self.profile.train)
        if passes:
            return per_epoch * (passes + share) * RUNGS[0]
        record = next(r for r in self.survey if r.backbone == recipe.backbone)
        return 0.0 if record.status == "done" else per_epoch * (1 + share)

    def _few(self, candidates: list[Candidate], most: int) -> list[Candidate]:
        fine = {r.backbone for r in self.survey if r.status in ("done", "partial")}
        return [c for c in candidates if c.recipe.backbone in fine][:most]


def _earlier(id: str) -> int:
    return -int(id[1:])
