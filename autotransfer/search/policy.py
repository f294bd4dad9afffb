"""The policy: which jobs to run next, given what came back. It knows neither Ray nor threads.

A generator: it yields generations of jobs and is sent their records, sorted as the jobs were. So every
executor runs the same search, and under a trial budget gives the same answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autotransfer.recipes import AUGMENT, spec_id
from autotransfer.schema import Budget, Candidate, Profile, Recipe, Refusal, SurveyRecord, TrialRecord
from autotransfer.search import alone, rescue
from autotransfer.search.board import Board, Trial
from autotransfer.search.candidates import AGAIN, FEW_HEADS, MANY_HEADS, Proposer, Space, phases_of
from autotransfer.search.costs import EPOCHS, Costs
from autotransfer.search.finals import GAIN, SPREAD, begins_at, may_have_rivals, rival, verdict
from autotransfer.search.jobs import Context, Generation, RungJob
from autotransfer.search.rounds import Rounds
from autotransfer.search.surrogate import Observation, Surrogate, improvement

if TYPE_CHECKING:
    from autotransfer.registry import Registry

GENERATION = 4
"""Recipes chosen at one time; the same whatever the number of workers."""
RUNGS = (2, 5, EPOCHS)
"""Epochs at which recipes that move the backbone are compared."""
HEADS_ONLY = 30.0
"""Under this many seconds only heads are trained."""
PRICE = 0.1
"""Skill that one unit of cost must be expected to bring, where the caller set no budget."""
PRICE_OF_TIME = 0.02
"""The same under a clock: the time is given, but nobody likes to wait for nothing."""
HEAD_SHARE = 0.01
"""A head costs next to nothing; it is taken to cost this share of the unit, so that heads do not crowd out the rest."""
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
        self.costs = Costs(self.profile, lambda: self.rounds.records, clock=self.deadline < float("inf"))
        self.board = Board(self.context, self.registry)
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
        self.unit = self.costs.unit(*order[:1], *filter(None, [static]))
        self.spent = sum(self.costs.row(r.backbone) * r.rows for r in self.survey)
        heads = MANY_HEADS if self.budget.trials is None else FEW_HEADS
        proposer = Proposer(self.space, self.survey, order, static, heads)
        self.space.unknown_values()
        fine = {r.backbone for r in self.rounds.fine()}
        baselines = [c for c in proposer.baselines() if spec_id(c.recipe) in fine]
        yield from self.visit([self.begin(c, "b") for c in baselines if self._fits(c, 0.0)])
        self.surrogate = Surrogate(self.rounds.scores(), self._floor(), self.profile.validation, self.past)
        yield from self._tune(proposer)
        yield from self._last_rung()
        yield from self._finals()
        if not any(t.record.objective is not None for t in self.board.trials if t.counted):
            yield from rescue.too_late(self, proposer)
        self.board.close()
        yield from alone.compared(self, UNLIMITED_UNITS)

    def _floor(self) -> float | None:
        """Return the objective of the constant predictor: the worst of the baselines that were scored."""
        found = [t.record.objective for t in self.board.trials if t.record.objective is not None]
        return min(found, default=None)

    def _tune(self, proposer: Proposer) -> Generation:
        queue = proposer.guaranteed()
        known = max((o for o in self.past if o.here), key=self.surrogate.reached, default=None)
        queue += proposer.again_best(known.recipe) if known is not None else []
        while batch := self._choose(queue, proposer):
            heads = [t for t in batch if not t.moves]
            yield from self.rounds.complete({t.backbone for t in heads})
            yield from self.visit(heads)  # heads first: a usable model soon
            yield from self.visit([t for t in batch if t.moves])
        if self.budget.trials is None and time.time() > self.deadline:
            self.status = "budget"

    def _known_to_lose(self, candidate: Candidate) -> bool:
        """Return whether earlier runs on these very rows say that a recipe is not worth its price."""
        best = self.surrogate.best_here()
        if best is None or candidate.reason == AGAIN or not self.moves(candidate):
            return False
        (mean,), (spread,) = self.surrogate.predict([candidate.recipe])
        if self._worth(mean, spread, best, self._first(candidate)) >= self._price:
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
                planned += self._first(candidate)
        if time.time() > self.deadline:
            return batch
        drawn = proposer.draw() if len(batch) < GENERATION and self._room() else []
        while len(batch) < GENERATION:
            option = self._best_option(drawn, batch)
            if option is None:
                break
            if option.trial is not None:
                batch.append(option.trial)
                continue
            assert option.candidate is not None
            drawn.remove(option.candidate)
            if self._fits(option.candidate, planned):
                batch.append(self.begin(proposer.take(option.candidate)))
                planned += self._first(option.candidate)
        return batch

    def _best_option(self, drawn: Sequence[Candidate], batch: Sequence[Trial]) -> Option | None:
        """Return what is worth most for its cost; None where nothing is worth its price."""
        fantasies = [t.candidate.recipe for t in batch if t.done == 0]
        new = self._new(drawn, fantasies) if self._room() else []
        if self.budget == Budget() and self.spent > UNLIMITED_UNITS * self.unit:
            return None
        worthy = [o for o in (*self._promotions(batch), *new) if o.worth >= self._price]
        if self.budget.trials is not None:
            worthy = worthy or new  # of a number of trials all are run, whatever they promise
        return max(worthy, key=lambda o: o.worth, default=None)

    def _new(self, drawn: Sequence[Candidate], fantasies: Sequence[Recipe]) -> list[Option]:
        if not drawn:
            return []
        means, spreads = self.surrogate.predict([c.recipe for c in drawn], fantasies)
        best = self._best_skill()
        return [
            Option(self._worth(m, s, best, self._first(c)), candidate=c)
            for c, m, s in zip(drawn, means, spreads, strict=True)
        ]

    def _worth(self, mean: float, spread: float, best: float, cost: float) -> float:
        """Return the expected improvement for one unit of cost; 0 where the validation rows could not show it."""
        gain = improvement(mean, spread, best)
        return gain / self._share(cost) if gain >= self.surrogate.least else 0.0

    def _promotions(self, batch: Sequence[Trial]) -> list[Option]:
        best, found = self._best_skill(), []
        for trial in self.board.paused():
            cost = self._rest(trial)
            if trial in batch or not self._in_time(trial.backbone, cost + alone.kept_back(self)):
                continue
            mean, spread = self.surrogate.expect(trial.candidate.recipe, trial.objective, len(trial.rungs) - trial.done)
            found.append(Option(self._worth(mean, spread, best, cost), trial=trial))
        return found

    def _last_rung(self) -> Generation:
        """Let the leader run to its end: its last rung is the training of the model that is shipped."""
        while (trial := self.board.leading()) is not None and trial.paused:
            if not self._in_time(trial.backbone, self._rest(trial)):
                return
            yield from self.visit([trial])

    def _finals(self) -> Generation:
        """Run the leader's last rung again with augmented rows, where that is worth its price."""
        plain = self.board.leading()
        if plain is None or not may_have_rivals(plain) or plain.done < len(plain.rungs):
            return
        chosen: list[Trial] = []
        planned = 0.0
        for kind in self.space.finals(self.context.specs[plain.backbone]):
            candidate = rival(plain, kind)
            phases = phases_of(self.registry, self.context, self.profile, candidate.recipe)
            cost = self.costs.training(plain.backbone, phases, float(begins_at(plain)), None)
            why = self._not_worth(plain, cost, planned)
            trial = None if why else self.begin(candidate, "f")
            if trial is not None and self.board.go_on_from(trial, plain):
                chosen.append(trial)
                planned += cost
            elif trial is not None:
                self.board.trials.remove(trial)
                why = "its checkpoint could not be kept"
            if why:
                self.notes.append(f"the last rung of {plain.id} was not tried with augmented rows ({kind}): {why}")
        yield from self.visit(chosen)
        self.notes += [verdict(plain, chosen)] if chosen else []

    def _not_worth(self, plain: Trial, cost: float, planned: float) -> str:
        """Return why the leader's last rung is not run again at this cost; empty: it is."""
        best = self._best_skill()
        if AUGMENT not in self.space.given and self._worth(best + GAIN, SPREAD, best, cost) < self._price:
            return f"the {GAIN:.3g} skill that it is expected to gain is not worth {self._share(cost):.2g} units"
        if self.budget == Budget() and self.spent + planned + cost > UNLIMITED_UNITS * self.unit:
            return f"the search would cost more than {UNLIMITED_UNITS:g} units"
        return "" if self._in_time(plain.backbone, cost, planned) else f"it takes about {cost:.0f} s, too long"

    def visit(self, trials: Sequence[Trial]) -> Generation:
        """Run the next rung of each of these trials."""
        if not trials:
            return
        predicted = [self._rest(t) for t in trials]
        for trial in trials:
            if 0 < trial.done == len(trial.rungs) - 1 and may_have_rivals(trial):
                self.board.keep_before(trial)
            self.costs.passed(trial.backbone, trial.phases)
        records = yield [self.rung(t) for t in trials]
        for trial, record, cost in zip(trials, records, predicted, strict=True):
            assert isinstance(record, TrialRecord)
            self.spent += record.seconds if self.costs.clock else cost
            before = trial.objective
            self.board.take(trial, record)
            if trial.moves and record.objective is not None:
                self.space.moving[trial.backbone] = record.recipe.dtype
            if trial.counted and record.objective is not None:
                self.surrogate.observe(record.recipe, record.objective, len(trial.rungs) - trial.done, before)
        self.board.tidy()

    def begin(self, candidate: Candidate, letter: str = "t") -> Trial:
        """Put a new trial of a candidate on the board."""
        phases = phases_of(self.registry, self.context, self.profile, candidate.recipe)
        moves = self.moves(candidate)
        total = sum(p.epochs for p in phases)
        rungs = (*(r for r in RUNGS[:-1] if r < total), None) if moves else (None,)
        return self.board.begin(candidate, tuple(phases), rungs, moves=moves, letter=letter)

    def rung(self, trial: Trial) -> RungJob:
        """Return the job of a trial's next rung."""
        record = next((r for r in self.survey if r.backbone == trial.backbone), None)
        return RungJob(
            id=trial.id,
            recipe=trial.candidate.recipe,
            rung=trial.done,
            until=trial.rungs[trial.done],
            final=trial.done == len(trial.rungs) - 1,
            survey=record.features if record is not None else "",
            deadline=self.end(trial.backbone),
            rivals=trial.candidate.rivals,
        )

    def gains(self) -> dict[str, float]:
        """Return what each scored trial gained over its backbone's own head, in skill, by id."""
        own = self.rounds.scores()
        return {
            t.id: self.surrogate.skill(t.objective) - self.surrogate.skill(own[t.backbone])
            for t in self.board.trials
            if t.counted and t.objective is not None and t.backbone in own
        }

    # Budget.

    def _room(self) -> bool:
        """Return whether another trial may begin."""
        return self.budget.trials is None or self.board.counted < self.budget.trials

    def _fits(self, candidate: Candidate, planned: float) -> bool:
        """Return whether a first rung ends in time, after ``planned`` seconds of others; if not, it is refused."""
        cost = self._first(candidate)
        heads = self.budget.seconds is not None and self.budget.seconds < HEADS_ONLY and self.moves(candidate)
        if not heads and self._in_time(spec_id(candidate.recipe), cost + alone.kept_back(self), planned):
            return True
        why = "under 30 s only heads are trained" if heads else f"its first rung takes about {cost:.0f} s, too long"
        name = f"{candidate.recipe.strategy} on {spec_id(candidate.recipe)}"
        if cost and not planned and all(r.name != name for r in self.space.refusals):
            self.space.refusals.append(Refusal(name=name, reason=why))
        return False

    def _in_time(self, id: str, cost: float, planned: float = 0.0) -> bool:
        if self.deadline == float("inf"):
            return True
        return time.time() + max(cost, (planned + cost) / self.workers) <= self.end(id)

    def end(self, id: str) -> float:
        """Return when training of a backbone must end, so that the held-out rows can be scored in time."""
        return self.deadline - 1.2 * self.row_seconds(id) * self.profile.test

    # Cost.

    @property
    def _price(self) -> float:
        return PRICE if self.budget.seconds is None else PRICE_OF_TIME

    def unit_seconds(self, id: str) -> float | None:
        """Return the predicted seconds, on one worker, of a full 10-epoch fine-tune.

        Of this backbone, or of the static winner where that is dearer.
        """
        seconds = Costs(self.profile, lambda: self.rounds.records, clock=True)
        return seconds.unit(id, self.rounds.static() or id) or None

    def _share(self, cost: float) -> float:
        return max(HEAD_SHARE, cost / self.unit if self.unit > 0 else 0.0)

    def row_seconds(self, id: str) -> float:
        """Return the measured seconds of one row's forward pass."""
        return next((r.seconds_per_row for r in self.survey if r.backbone == id), 0.0)

    def moves(self, candidate: Candidate) -> bool:
        """Return whether a candidate trains a part of its backbone."""
        recipe = candidate.recipe
        return self.costs.moves(spec_id(recipe), phases_of(self.registry, self.context, self.profile, recipe))

    def _first(self, candidate: Candidate) -> float:
        """Return the predicted cost until a recipe has its first score."""
        recipe = candidate.recipe
        phases = phases_of(self.registry, self.context, self.profile, recipe)
        if not self.costs.moves(spec_id(recipe), phases):
            return self.costs.remaining(spec_id(recipe))
        return self.costs.training(spec_id(recipe), phases, 0.0, RUNGS[0])

    def _rest(self, trial: Trial) -> float:
        """Return the predicted cost of a trial's next rung."""
        if not trial.moves:
            return self.costs.remaining(trial.backbone)
        start = trial.rungs[trial.done - 1] if trial.done else 0
        return self.costs.training(trial.backbone, trial.phases, float(start or 0), trial.rungs[trial.done])

    def _best_skill(self) -> float:
        """Return the best skill so far; that of the survey's best head before there is any trial."""
        found: Iterable[float] = (t.objective for t in self.board.trials if t.objective is not None)
        return self.surrogate.skill(max(found, default=self.surrogate.top))
