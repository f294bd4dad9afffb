"""The policy: which jobs to run next, given what came back. It knows neither Ray nor threads.

A generator: it yields generations of jobs and is sent their records, sorted as the jobs were. So every
executor runs the same search, and under a trial budget gives the same answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from autotransfer.budget import Budget
from autotransfer.profiles import Profile
from autotransfer.recipes import spec_id
from autotransfer.schema import Candidate, Recipe, SurveyRecord, TrialRecord
from autotransfer.search import alone, finals, rescue
from autotransfer.search.board import Board, Trial
from autotransfer.search.candidates import AGAIN, FEW_HEADS, MANY_HEADS, Proposer, Space
from autotransfer.search.comparing import compare
from autotransfer.search.costs import Costs
from autotransfer.search.finals import may_have_rivals
from autotransfer.search.jobs import Context, Generation, RungJob
from autotransfer.search.prices import Prices
from autotransfer.search.rounds import Rounds
from autotransfer.search.surrogate import Observation, Surrogate, improvement
from autotransfer.strategy import overrides
from autotransfer.tasks.metrics import ceiling

if TYPE_CHECKING:
    from autotransfer.registry import Registry

GENERATION = 4
"""Recipes chosen at one time; the same whatever the number of workers."""
HEADS_ONLY = 30.0
"""Under this many seconds only heads are trained."""
PRICE = 0.1
"""Skill that one unit of cost must be expected to bring, where the caller set no budget."""
PRICE_OF_TIME = 0.02
"""The same under a clock: the time is given, but nobody likes to wait for nothing."""
HEAD_SHARE = 0.01
"""A head costs next to nothing; it is taken to cost this share of the unit, so that heads do not crowd out the rest."""
STABLE, STABLE_IN_TIME = 3, 8
"""Generations in a row that found nothing better after which the search ends: without a budget, and under a clock."""
UNLIMITED_UNITS = 2.0
"""Where the caller set no budget: units that the search may cost."""
UNLIMITED_SECONDS = 3600.0

Notify = Callable[..., None]


@dataclass(frozen=True)
class Option:
    """Something that could be run next: a new candidate, or the next rung of a paused trial."""

    worth: float
    """Expected improvement in skill for one unit of cost."""
    candidate: Candidate | None = None
    trial: Trial | None = None


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
    past: Sequence[Observation] = ()
    """What earlier runs found; it orders candidates and touches no score."""
    status: str = "complete"
    spent: float = 0.0
    """Cost of all jobs so far: predicted, or seconds as they were where there is a clock."""
    notes: list[str] = field(default_factory=list)
    """What a user should know of its decisions."""

    def __post_init__(self) -> None:
        self.rounds = Rounds(self.context, self.profile, self.registry, self.deadline, self.workers)
        self.told = Costs(self.profile, lambda: self.rounds.records, clock=True)
        self.costs = self.told if self.deadline < float("inf") else replace(self.told, clock=False, measured={})
        self.prices = Prices(self.context, self.profile, self.registry, self.costs)
        self.board = Board(self.context, self.registry)
        self.unit_of: tuple[str, ...] = ()
        self.unit = 0.0
        self.surrogate = Surrogate({}, None, self.profile.validation)

    @property
    def survey(self) -> list[SurveyRecord]:
        """The latest survey record of each backbone."""
        return self.rounds.records

    @property
    def profile(self) -> Profile:
        """The data's profile."""
        return self.space.profile

    @property
    def records(self) -> dict[str, TrialRecord]:
        """Last record of each trial, by id."""
        return self.board.records

    def leader(self) -> TrialRecord | None:
        """Return the record of the best trial so far."""
        return self.board.leader()

    def jobs(self) -> Generation:
        """Yield generations of jobs; expects their records in the same order."""
        yield from self.rounds.jobs()
        self.space.frozen = {r.backbone: r.dtype for r in self.survey}
        order, static = self.rounds.order(), self.rounds.static()
        self.unit_of = (*order[:1], *filter(None, [static]))
        self.unit = self.costs.unit(*self.unit_of)
        self.spent = sum(self.costs.row(r.backbone) * r.rows for r in self.survey)
        heads = MANY_HEADS if self.budget.trials is None else FEW_HEADS
        yield from compare(self, order)
        proposer = Proposer(self.space, self.survey, order, static, heads)
        self.space.unknown_values()
        fine = {r.backbone for r in self.rounds.fine()}
        baselines = [c for c in proposer.baselines() if spec_id(c.recipe) in fine]
        yield from self.visit([self.begin(c, "b") for c in baselines if self._fits(c, 0.0)])
        floor, rows, most = self.board.floor(), self.profile.validation, ceiling(self.profile.metric)
        told = (self.rounds.scores(), floor, rows, self.past, most)
        self.surrogate = Surrogate(*told, phases=self.prices.phases_if_known)
        yield from self._tune(proposer)
        yield from self._last_rung()
        yield from finals.augmented(self, UNLIMITED_UNITS)
        if not any(t.record.objective is not None for t in self.board.trials if t.counted):
            yield from rescue.too_late(self, proposer)
        self.board.close()
        yield from alone.compared(self, UNLIMITED_UNITS)

    def _tune(self, proposer: Proposer) -> Generation:
        queue = proposer.guaranteed()
        known = max((o for o in self.past if o.here), key=self.surrogate.reached, default=None)
        queue += proposer.again_best(known.recipe) if known is not None else []
        idle, guaranteed, best = 0, bool(queue), self.best_skill()
        while batch := self._choose(queue, proposer):
            yield from self.rounds.complete({t.backbone for t in batch if not t.moves})
            yield from self.visit(batch)
            idle = 0 if guaranteed or self.best_skill() > best else idle + 1
            guaranteed, best = bool(queue), self.best_skill()
            if self.budget.trials is None and idle >= (STABLE if self.budget.seconds is None else STABLE_IN_TIME):
                self.notes.append(f"the search ended: {idle} generations in a row found nothing better")
                break
        if self.budget.trials is None and time.time() > self.deadline:
            self.status = "budget"

    def _turn(self, trial: Trial) -> tuple[bool, float]:
        """Heads first: a usable model soon; then, for several workers, the dearest: none is left with it at the end."""
        return trial.moves, -self.prices.rest(trial) if self.workers > 1 else 0.0

    def _known_to_lose(self, candidate: Candidate) -> bool:
        """Return whether earlier runs on these very rows say that a recipe is not worth its price."""
        best = self.surrogate.best_here()
        if best is None or candidate.reason == AGAIN or not self.moves(candidate):
            return False
        (mean,), (spread,) = self.surrogate.predict([candidate.recipe])
        if self.worth(mean, spread, best, self.prices.first(candidate.recipe)) >= self.price:
            return False
        name = f"{candidate.recipe.strategy} on {spec_id(candidate.recipe)} ({candidate.reason})"
        self.notes.append(f"{name} was not run: earlier runs on these data say that it is not worth its price")
        return True

    def _choose(self, queue: list[Candidate], proposer: Proposer) -> list[Trial]:
        """Return the next generation: what is guaranteed, then whatever is worth most for its cost."""
        batch: list[Trial] = []
        planned = 0.0
        while queue and len(batch) < GENERATION and self._room():
            candidate = queue.pop(0)
            if self._fits(candidate, planned) and not self._known_to_lose(candidate):
                batch.append(self.begin(candidate))
                planned += self.prices.first(candidate.recipe)
        if time.time() > self.deadline:
            return batch
        drawn = proposer.draw() if len(batch) < GENERATION and self._room() else []
        while len(batch) < GENERATION:
            option = self._best_option(drawn, batch, planned)
            if option is None:
                break
            if option.trial is not None:
                batch.append(option.trial)
                planned += self.prices.rest(option.trial)
                continue
            assert option.candidate is not None
            drawn.remove(option.candidate)
            whole = proposer.take(option.candidate) if self._fits(option.candidate, planned) else None
            if whole is not None:
                batch.append(self.begin(whole))
                planned += self.prices.first(option.candidate.recipe)
        return batch

    def _best_option(self, drawn: Sequence[Candidate], batch: Sequence[Trial], planned: float) -> Option | None:
        """Return what is worth most for its cost; None where nothing is worth its price."""
        fantasies = [t.candidate.recipe for t in batch if t.done == 0]
        new = self._new(drawn, fantasies) if self._room() else []
        if self.budget == Budget() and self.spent + planned > UNLIMITED_UNITS * self.unit:
            return None
        worthy = [o for o in (*self._promotions(batch), *new) if o.worth >= self.price]
        if self.budget.trials is not None:
            worthy = worthy or new  # of a number of trials all are run, whatever they promise
        return max(worthy, key=lambda o: o.worth, default=None)

    def _new(self, drawn: Sequence[Candidate], fantasies: Sequence[Recipe]) -> list[Option]:
        if not drawn:
            return []
        means, spreads = self.surrogate.predict([c.recipe for c in drawn], fantasies)
        believed = self.surrogate.predict(fantasies)[0] if fantasies else ()
        best = max([self.best_skill(), *believed])  # else the same improvement would be bought several times
        return [
            Option(self.worth(m, s, best, self.prices.weighed(c.recipe)), candidate=c)
            for c, m, s in zip(drawn, means, spreads, strict=True)
        ]

    def worth(self, mean: float, spread: float, best: float, cost: float) -> float:
        """Return the expected improvement for one unit of cost; 0 where the validation rows could not show it."""
        gain = improvement(mean, spread, best, self.surrogate.ceiling)
        return gain / self.share(cost) if gain >= self.surrogate.least else 0.0

    def _promotions(self, batch: Sequence[Trial]) -> list[Option]:
        best, found = self.best_skill(), []
        for trial in (t for t in self.board.paused() if t not in batch):
            cost = self.prices.rest(trial)
            if not self.in_time(trial.backbone, cost + alone.kept_back(self)):
                continue
            mean, spread = self.surrogate.expect(trial.candidate.recipe, trial.objective, len(trial.rungs) - trial.done)
            found.append(Option(self.worth(mean, spread, best, cost), trial=trial))
        return found

    def _last_rung(self) -> Generation:
        """Let the leader run to its end: its last rung is the training of the model that is shipped."""
        if self.board.criterion.informed:  # labelled rows held them back, which do not judge them
            for one in self.board.adapting():
                while one.paused and self.in_time(one.backbone, self.prices.rest(one)):
                    yield from self.visit([one])
        while (trial := self.board.ahead()) is not None and trial.paused:
            cost = self.prices.rest(trial)
            dear = self.budget == Budget() and self.spent + cost > UNLIMITED_UNITS * self.unit
            if not self.in_time(trial.backbone, cost) or (dear and trial is not self.board.leading()):
                return
            yield from self.visit([trial])

    def visit(self, trials: Sequence[Trial]) -> Generation:
        """Run the next rung of each of these trials."""
        if not trials:
            return
        predicted = [self.prices.rest(t) for t in trials]
        for trial in trials:
            if 0 < trial.done == len(trial.rungs) - 1 and may_have_rivals(trial):
                self.board.keep_before(trial)
            self.prices.passed(trial)
        order = sorted(trials, key=self._turn)
        records = dict(zip([t.id for t in order], (yield [self.rung(t) for t in order]), strict=True))
        for trial, cost in zip(trials, predicted, strict=True):
            record = records[trial.id]
            assert isinstance(record, TrialRecord)
            self.spent += record.seconds if self.costs.clock else cost
            self._learn(trial, record)
            self.prices.learn_heads(trial, record)
            before = trial.objective
            self.board.take(trial, record)
            if record.status == "failed" and not record.rung:
                self.space.failed.setdefault((trial.backbone, record.recipe.strategy), []).append(record.reason)
            if trial.moves and record.objective is not None:
                self.space.moving[trial.backbone] = record.recipe.dtype
            if trial.counted and record.objective is not None:
                self.surrogate.observe(record.recipe, record.objective, len(trial.rungs) - trial.done, before)
        self.board.tidy()

    def _learn(self, trial: Trial, record: TrialRecord) -> None:
        """Let the cost model know how fast a rung went; the board has not taken it yet."""
        start, stop = trial.rungs[trial.done - 1] if trial.done else 0, trial.rungs[trial.done]
        plain = not overrides(self.registry.strategy(record.recipe.strategy), "objective")
        if plain and not trial.alone and self.prices.backwards(record.recipe) == 1:  # else an epoch is another one
            self.told.learn(trial.backbone, trial.phases, float(start or 0), stop, record.epoch_seconds)
            self.unit = self.costs.unit(*self.unit_of)

    def begin(self, candidate: Candidate, letter: str = "t") -> Trial:
        """Put a new trial of a candidate on the board."""
        phases, rungs = self.prices.phases(candidate.recipe), self.prices.rungs(candidate.recipe)
        return self.board.begin(candidate, tuple(phases), rungs, moves=self.moves(candidate), letter=letter)

    def rung(self, trial: Trial) -> RungJob:
        """Return the job of a trial's next rung."""
        record = next((r for r in self.survey if r.backbone == trial.backbone), None)
        return RungJob(
            id=trial.id,
            recipe=trial.candidate.recipe,
            rung=trial.done,
            begins=trial.begins,
            passed=trial.passed,
            until=trial.rungs[trial.done],
            final=trial.done == len(trial.rungs) - 1,
            survey=record.features if record is not None else "",
            deadline=self.end(trial.backbone),
            row_seconds=self.row_seconds(trial.backbone),
            rivals=trial.candidate.rivals,
            criterion=self.board.criterion.kind,
            judge=self.board.criterion.judge,
        )

    def gains(self) -> dict[str, float]:
        """Return what each scored trial gained over its backbone's own head, in skill, by id."""
        own = self.rounds.scores()
        return {
            t.id: self.surrogate.skill(t.objective) - self.surrogate.skill(own[t.backbone])
            for t in self.board.trials
            if t.counted and t.objective is not None and t.backbone in own
        }

    def _room(self) -> bool:
        """Return whether another trial may begin."""
        return self.budget.trials is None or self.board.counted < self.budget.trials

    def _fits(self, candidate: Candidate, planned: float) -> bool:
        """Return whether a first rung ends in time, after ``planned`` seconds of others; if not, it is refused."""
        cost = self.prices.first(candidate.recipe)
        heads = self.budget.seconds is not None and self.budget.seconds < HEADS_ONLY and self.moves(candidate)
        if not heads and self.in_time(spec_id(candidate.recipe), cost + alone.kept_back(self), planned):
            return True
        why = "under 30 s only heads are trained" if heads else f"its first rung takes about {cost:.0f} s, too long"
        name = f"{candidate.recipe.strategy} on {spec_id(candidate.recipe)}"
        if cost and not planned and all(r.name != name for r in self.space.refusals):
            self.space.refuse(name, why)
        return False

    def in_time(self, id: str, cost: float, planned: float = 0.0) -> bool:
        """Return whether a training of a backbone ends in time, after ``planned`` seconds of others."""
        if self.deadline == float("inf"):
            return True
        return time.time() + max(cost, (planned + cost) / self.workers) <= self.end(id)

    def end(self, id: str) -> float:
        """Return when training of a backbone must end, so that the rows left out of it can be scored in time."""
        return self.deadline - 1.2 * self.row_seconds(id) * (self.profile.test + self.profile.validation)

    # Cost.

    @property
    def price(self) -> float:
        """Skill that one unit of cost must be expected to bring."""
        return PRICE if self.budget.seconds is None else PRICE_OF_TIME

    def unit_seconds(self, id: str) -> float | None:
        """Return the predicted seconds, on one worker, of a full 10-epoch fine-tune.

        Of this backbone, or of the static winner where that is dearer.
        """
        return self.told.unit(id, self.rounds.static() or id) or None

    def share(self, cost: float) -> float:
        """Return a cost in units, a head's too."""
        return max(HEAD_SHARE, cost / self.unit if self.unit > 0 else 0.0)

    def row_seconds(self, id: str) -> float:
        """Return the measured seconds of one row's forward pass."""
        return next((r.seconds_per_row for r in self.survey if r.backbone == id), 0.0)

    def moves(self, candidate: Candidate) -> bool:
        """Return whether a candidate trains a part of its backbone."""
        return self.prices.moves(candidate.recipe)

    def best_skill(self) -> float:
        """Return the best skill so far; that of the survey's best head before there is any trial."""
        found: Iterable[float] = (t.objective for t in self.board.trials if t.objective is not None)
        return self.surrogate.skill(max(found, default=self.surrogate.top))
