"""The rounds of the survey: all backbones read the first rows, the better ones read on."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from autotransfer.schema import Profile, SurveyRecord
from autotransfer.search.jobs import Context, Job, Record, SurveyJob
from autotransfer.spec import BackboneSpec

if TYPE_CHECKING:
    from autotransfer.registry import Registry

FIRST_CHUNK = 512
FULL_SURVEY = 4096
"""Without a clock every backbone reads all rows up to this many; above, the field is halved as it reads on."""
SHARE = 0.4
"""Of the seconds there are, that the survey may spend."""

Generation = Generator[list[Job], list[Record], None]


@dataclass
class Rounds:
    """State of a survey."""

    context: Context
    profile: Profile
    registry: Registry
    deadline: float
    """``time.time()`` at which the search ends; infinite where there is no clock."""
    workers: int = 1
    records: list[SurveyRecord] = field(default_factory=list)

    def jobs(self) -> Generation:
        """Yield rounds of survey jobs; expects their records in the same order."""
        rows, timed = self.profile.train, self.deadline < float("inf")
        specs = [s for s in self.context.specs.values() if s.transfer]
        fixed = [s for s in self.context.specs.values() if not s.transfer]
        began = time.time()
        budget = SHARE * (self.deadline - began) if timed else float("inf")
        limit = 0.5 * budget * self.workers / max(1, len(self.context.specs))
        count = rows if rows <= FULL_SURVEY and not timed else min(rows, FIRST_CHUNK)
        first: list[Job] = [SurveyJob(backbone=s.id, rows=rows, seconds=limit) for s in fixed]
        first += [SurveyJob(backbone=s.id, rows=count, last=count == rows, seconds=limit) for s in specs]
        yield from self._run(first)
        while going := self._unfinished():
            count = min(rows, max(2 * count, FIRST_CHUNK))
            going = self._affordable(going, count, began + budget)
            if not going:
                return
            yield from self._run([SurveyJob(backbone=i, rows=count, last=count == rows) for i in going])

    def complete(self, ids: set[str]) -> Generation:
        """Let these backbones read the rest: all heads on one of them share what it has read."""
        rows, left = self.profile.train, max(0.0, self.deadline - time.time())
        going = [r.backbone for r in self.fine() if r.backbone in ids and r.status == "partial"]
        if going:
            yield from self._run([SurveyJob(backbone=i, rows=rows, seconds=left) for i in going])

    def _run(self, jobs: list[Job]) -> Generation:
        records = yield jobs
        for record in records:
            if isinstance(record, SurveyRecord):
                self.records = [r for r in self.records if r.backbone != record.backbone] + [record]

    def _unfinished(self) -> list[str]:
        """Return the better half of the backbones still in the field, two at least, that have rows to read."""
        fine = [r for r in self.records if r.status in ("done", "partial") and not _dropped(r)]
        order = self.order(fine)
        keep = order[: max(2, -(-len(order) // 2))]
        static = self.static(fine)
        keep += [static] if static is not None and static not in keep else []
        for id in order:
            if id not in keep and self.record(id).status == "partial":
                self._drop(id, "it read no further: others were ahead")
        return [i for i in keep if self.record(i).status == "partial"]

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

    def order(self, found: Sequence[SurveyRecord] | None = None) -> list[str]:
        """Return ids of transferring backbones, best first: survey score, merged by rank with plugins' estimates."""
        fine = [r for r in (self.fine() if found is None else found) if self._spec(r).transfer]
        fine.sort(key=lambda r: (r.score if r.score is not None else float("-inf"), r.backbone))
        own = {r.backbone: place / max(1, len(fine) - 1) for place, r in enumerate(fine)}
        extra = self.registry.scores(fine, [self.context.specs[i] for i in own])
        merged = {i: (own[i] + extra[i]) / 2 if i in extra else own[i] for i in own}
        return sorted(merged, key=lambda i: (-merged[i], i))

    def static(self, found: Sequence[SurveyRecord] | None = None) -> str | None:
        """Return the backbone with most parameters: picked blindly, that is hard to beat (arXiv 2510.06448)."""
        fine = [r for r in (self.fine() if found is None else found) if self._spec(r).transfer]
        return max(fine, key=lambda r: (r.params, r.backbone)).backbone if fine else None

    def _spec(self, record: SurveyRecord) -> BackboneSpec:
        return self.context.specs[record.backbone]


def _dropped(record: SurveyRecord) -> bool:
    return any(note.startswith("it read no further") for note in record.notes)
