"""The rounds of the survey: all backbones read the first rows; what may still be the best reads on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from autotransfer.profiles import Profile
from autotransfer.schema import CutReport, SurveyRecord
from autotransfer.search.jobs import Context, GapJob, Generation, Job, SurveyJob
from autotransfer.search.survey import row_losses
from autotransfer.search.transferability import chance_of_best
from autotransfer.spec import BackboneSpec

if TYPE_CHECKING:
    from autotransfer.registry import Registry

FIRST_CHUNK = 512
"""Rows of the first round, or 20 a class where that is more."""
FULL_SURVEY = 1024
"""Up to this many rows all are read in the first round: what pruning could save is less than a round costs."""
SLICE = 8
"""Backbones a worker in the first round before the clock is looked at again."""
SLACK = 1.5
"""Times longer than it was predicted that a later round may take, where the survey's share is over before."""
SHARE = 0.4
"""Of the seconds there are, that the survey may spend."""
HOPELESS = 0.02
"""A backbone whose chance of being the best is smaller reads no further."""
WEIGHTS = {"score": 2.0, "loss": 2.0, "logme": 1.0, "hscore": 1.0, "knn": 1.0}
"""How much each estimate counts in the order of the backbones. Only ranks are merged: their scales differ."""


@dataclass
class Rounds:
    """State of a survey."""

    context: Context
    profile: Profile
    registry: Registry
    deadline: float
    """``time.time()`` at which the search ends; infinite where there is no clock."""
    workers: int = 1
    weights: dict[str, float] = field(default_factory=lambda: dict(WEIGHTS))
    prune: bool = True
    records: list[SurveyRecord] = field(default_factory=list)

    def jobs(self) -> Generation:
        """Yield rounds of survey jobs; expects their records in the same order."""
        rows, timed = self.profile.train, self.deadline < float("inf")
        specs = [s for s in self.context.specs.values() if s.transfer]
        fixed = [s for s in self.context.specs.values() if not s.transfer]
        began = time.time()
        budget = SHARE * (self.deadline - began) if timed else float("inf")
        limit = 0.5 * budget * self.workers / max(1, len(self.context.specs))
        count = rows if rows <= FULL_SURVEY and not timed else min(rows, self._first_chunk())
        # Under a clock many validation rows are left to a later round, which is begun only where they can be read.
        whole = count == rows and (not timed or self.profile.validation <= max(FIRST_CHUNK, count))
        until = began + budget
        first = [SurveyJob(backbone=s.id, rows=rows, seconds=limit, deadline=until) for s in fixed]
        first += [SurveyJob(backbone=s.id, rows=count, last=whole, seconds=limit, deadline=until) for s in specs]
        yield from self._first_round(first, self._foremost(fixed, specs), until)
        while going := self._unfinished():
            count = min(rows, max(2 * count, FIRST_CHUNK))
            going = self._affordable(going, count, until)
            if not going:
                return
            end = max(until, time.time() + SLACK * self._seconds(going, count))
            yield from self._run([SurveyJob(backbone=i, rows=count, last=count == rows, deadline=end) for i in going])

    def complete(self, ids: set[str]) -> Generation:
        """Let these backbones read the rest: all heads on one of them share what it has read."""
        rows, left = self.profile.train, max(0.0, self.deadline - time.time())
        going = [r.backbone for r in self.fine() if r.backbone in ids and r.status == "partial"]
        if going:
            yield from self._run(
                [SurveyJob(backbone=i, rows=rows, seconds=left, deadline=self.deadline) for i in going]
            )

    def gap(self, id: str) -> Generation:
        """Read the unlabeled rows, where there are some, through a backbone that has read all others."""
        if self.profile.unlabeled is None or self.record(id).status != "done":
            return
        yield from self._run([GapJob(backbone=id, known=self.record(id))])

    def _first_chunk(self) -> int:
        most = max([len(self.profile.classes), *(len(t.classes) for t in self.profile.each)])
        return max(FIRST_CHUNK, 20 * most)

    def _foremost(self, fixed: Sequence[BackboneSpec], specs: Sequence[BackboneSpec]) -> set[str]:
        """Return the backbones that are surveyed whatever time it takes: the first ones, and the one of most weights.

        Without a clock they are all.
        """
        if self.deadline == float("inf"):
            return set(self.context.specs)
        largest = max(specs, key=lambda s: s.params or 0, default=None)
        chosen = [*fixed, *specs[: SLICE * self.workers], *([] if largest is None else [largest])]
        return {s.id for s in chosen}

    def _first_round(self, jobs: Sequence[SurveyJob], foremost: set[str], until: float) -> Generation:
        """Run the foremost jobs, then others a few at a time; what is left when the time is up is skipped."""
        left = [j for j in jobs if j.backbone not in foremost]
        yield from self._run([j for j in jobs if j.backbone in foremost])
        while left and time.time() < until:
            size = SLICE * self.workers
            some, left = left[:size], left[size:]
            yield from self._run(list(some))
        why = f"the survey's share of the time was over before its turn, after {len(jobs) - len(left)} backbones"
        self.records += [SurveyRecord(backbone=j.backbone, status="skipped", reason=why) for j in left]
        places = {j.backbone: place for place, j in enumerate(jobs)}
        self.records.sort(key=lambda r: places[r.backbone])

    def _run(self, jobs: list[Job]) -> Generation:
        records = yield jobs
        for record in records:
            if isinstance(record, SurveyRecord):
                before = [r for r in self.records if r.backbone == record.backbone]
                spent = {n: sum(getattr(r, n) for r in (*before, record)) for n in ("seconds", "cpu_seconds")}
                self.records = [r for r in self.records if r not in before] + [replace(record, **spent)]

    def _unfinished(self) -> list[str]:
        """Return the backbones that may still be the best and have rows to read, best first."""
        fine = [r for r in self.records if r.status in ("done", "partial") and not _dropped(r)]
        order = self.order(fine)
        for id, chance in self.chances([r for r in fine if self._spec(r).transfer]).items():
            kept = id in order[:2] or id == self.static(fine) or not self.prune
            if chance < HOPELESS and not kept and self.record(id).status == "partial":
                self._drop(id, f"it read no further: the chance that it is the best is {chance:.1%}")
        return [i for i in order if self.record(i).status == "partial" and not _dropped(self.record(i))]

    def chances(self, found: Sequence[SurveyRecord]) -> dict[str, float]:
        """Return the chance of each backbone to have the least leave-one-out loss, by a bootstrap over their rows.

        Backbones are compared on the rows that all of them have read.
        """
        losses = {r.backbone: t for r in found if (t := row_losses(self.context, r)) is not None}
        if not losses:
            return {}
        rows = min(len(t) for t in losses.values())
        table = torch.stack([t[:rows] for t in losses.values()])
        return dict(zip(losses, chance_of_best(table, seed=self.context.seed).tolist(), strict=True))

    def _affordable(self, ids: list[str], count: int, until: float) -> list[str]:
        """Return those that can read up to ``count`` rows in time; the best one may take more than its share."""
        kept = list(ids)
        while len(kept) > 1 and self._seconds(kept, count) > until - time.time():
            self._drop(kept[-1], "it read no further: the time does not reach for all")
            kept.pop()
        if kept and self._seconds(kept, count) > 0.6 * (self.deadline - time.time()):
            self._drop(kept[0], "it read no further: the time does not reach")
            return []
        return kept

    def _seconds(self, ids: Sequence[str], count: int) -> float:
        """Return predicted wall seconds until these backbones have read ``count`` training rows."""
        each = []
        for id in ids:
            record = self.record(id)
            more = count - record.rows + (self.profile.validation if count == self.profile.train else 0)
            each.append(record.seconds_per_row * more)
        return max(sum(each) / self.workers, max(each, default=0.0))

    def _drop(self, id: str, why: str) -> None:
        self.records = [replace(r, notes=(*r.notes, why)) if r.backbone == id else r for r in self.records]

    def record(self, id: str) -> SurveyRecord:
        """Return the latest record of a backbone."""
        return next(r for r in self.records if r.backbone == id)

    def fine(self) -> list[SurveyRecord]:
        """Return the records of backbones that could be read at all."""
        return [r for r in self.records if r.status in ("done", "partial")]

    def scores(self) -> dict[str, float]:
        """Return the best leave-one-out objective of each transferring backbone that has one."""
        return {r.backbone: r.score for r in self.fine() if r.score is not None and self._spec(r).transfer}

    def order(self, found: Sequence[SurveyRecord] | None = None) -> list[str]:
        """Return ids of transferring backbones, best first: all estimates, plugins' too, merged by rank."""
        fine = [r for r in (self.fine() if found is None else found) if self._spec(r).transfer]
        merged, weight = dict.fromkeys((r.backbone for r in fine), 0.0), 0.0
        for name, share in self.weights.items():
            known = {r.backbone: _best(r, name) for r in fine}
            if share and any(v is not None for v in known.values()):
                merged = {i: merged[i] + share * place for i, place in _places(known).items()}
                weight += share
        own = {i: place / weight if weight else 0.5 for i, place in merged.items()}
        extra = self.registry.scores(fine, [self.context.specs[i] for i in own])
        whole = {i: (own[i] + extra[i]) / 2 if i in extra else own[i] for i in own}
        return sorted(whole, key=lambda i: (-whole[i], i))

    def static(self, found: Sequence[SurveyRecord] | None = None) -> str | None:
        """Return the backbone with most parameters: picked blindly, that is hard to beat (arXiv 2510.06448)."""
        fine = [r for r in (self.fine() if found is None else found) if self._spec(r).transfer]
        return max(fine, key=lambda r: (r.params, r.macs, r.backbone)).backbone if fine else None

    def _spec(self, record: SurveyRecord) -> BackboneSpec:
        return self.context.specs[record.backbone]


def _best(record: SurveyRecord, name: str) -> float | None:
    """Return an estimate over the cuts of a backbone, higher is better: of its last cut, its score of the best."""
    if name == "score":
        return record.score
    last = record.cuts[-1] if record.cuts else CutReport(after="", ok=True)
    value: float | None = getattr(last, name)
    return -value if value is not None and name == "loss" else value


def _places(known: dict[str, float | None]) -> dict[str, float]:
    """Return each id's place as a share, 1 for the best; equal values share a place, unknown ones come last."""
    values = {i: float("-inf") if v is None else v for i, v in known.items()}
    most = max(1, len(values) - 1)
    below = {i: sum(o < v for o in values.values()) for i, v in values.items()}
    equal = {i: sum(o == v for o in values.values()) - 1 for i, v in values.items()}
    return {i: (below[i] + equal[i] / 2) / most for i in values}


def _dropped(record: SurveyRecord) -> bool:
    return any(note.startswith("it read no further") for note in record.notes)
