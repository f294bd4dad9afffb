"""Where jobs lie until a worker takes one: of those that may run, the one whose data its node has already."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from autotransfer.recipes import spec_id
from autotransfer.search.jobs import Job, RungJob


@dataclass(frozen=True)
class Offer:
    """A job as it lies on the desk."""

    key: str
    backbone: str
    trial: str
    """Whose rung it is; empty: of none."""
    text: str
    """The job itself, as a worker reads it."""
    patience: float = float("inf")
    """Seconds after which another worker that has nothing else to do may try it too."""


def offer_of(job: Job, text: str, rows: int = 0) -> Offer:
    """Return a job as it lies on the desk.

    Args:
        job: that is to be done.
        text: of it.
        rows: that it trains on.
    """
    if isinstance(job, RungJob):
        return Offer(job.key, spec_id(job.recipe), job.id, text, _patience(job, rows))
    return Offer(job.key, job.backbone, "", text)


STRAGGLES, SLOWEST, LEAST = 3.0, 0.005, 120.0
"""Times the seconds that a job should take at most, seconds a row where the survey was quicker, and seconds at least,
after which its worker is taken for a straggler."""
BACKWARD = 4.0
"""Passes forward that a step of training costs at most, rows that are looked at afterwards included."""


def _patience(job: RungJob, rows: int) -> float:
    """Return after how many seconds a job takes too long; a worker that is merely busy with it is given thrice that."""
    if not job.row_seconds or not rows:
        return float("inf")
    until = job.until if job.until is not None else int(job.recipe.values.get("epochs") or 1)
    epochs = max(1, until - (job.passed[-1] if job.passed else 0))
    return max(LEAST, STRAGGLES * BACKWARD * epochs * rows * max(job.row_seconds, SLOWEST))


class Desk:
    """Hands each ticket one job, and remembers which node has worked with which backbone.

    It keeps nothing that the next :meth:`offer` does not tell it again, so that one whose process died goes on empty:
    what a ticket had taken may then be done twice, which is harmless.
    """

    late = False
    """Workers take their job themselves, once they run, in place of the searcher for them."""

    def __init__(self) -> None:
        self.offers: dict[str, Offer] = {}
        self.held: dict[str, str] = {}
        self.since: dict[str, float] = {}
        """When each ticket took its job."""
        self.seen: dict[str, set[str]] = {}
        """Backbones, by node."""
        self.ran: dict[str, str] = {}
        """The worker that ran the last rung of a trial, by trial."""
        self.kept: dict[str, tuple[str, str]] = {}

    def offer(self, offers: Sequence[Offer], tickets: Collection[str]) -> dict[str, str]:
        """Let these jobs be taken, and no others; what tickets had taken that count no more is free again.

        Args:
            offers: all jobs that have no record yet, those that were taken included; first come, first served.
            tickets: that count.

        Returns:
            The key of the job that each ticket has taken.
        """
        self.offers = {o.key: o for o in offers}
        self.held = {t: k for t, k in self.held.items() if t in tickets and k in self.offers}
        return dict(self.held)

    def close(self) -> None:
        """Do nothing: there is nothing to end."""

    def taken(self, ticket: str) -> str | None:
        """Return the key of the job that a ticket has taken; None: none."""
        return self.held.get(ticket)

    def take(self, ticket: str, node: str = "", worker: str = "") -> str | None:
        """Return the job of a ticket, always the same; None where all are taken.

        Args:
            ticket: that stands for one job.
            node: where it will run; empty: no matter.
            worker: who will run it.
        """
        if ticket not in self.held:
            taken = list(self.held.values())
            free = [o for o in self.offers.values() if o.key not in taken] or self._overdue()
            if not free:
                return None
            chosen = min(free, key=lambda o: self._distance(o, node, worker)) if node else free[0]
            self.held[ticket] = chosen.key
            self.since[ticket] = time.monotonic()
            if node:
                self.seen.setdefault(node, set()).add(chosen.backbone)
                self.ran[chosen.trial] = worker
        return self.offers[self.held[ticket]].text

    def _overdue(self) -> list[Offer]:
        """Return jobs whose one worker has had them for too long: whoever ends first counts (backup tasks, MapReduce).

        Dean and Ghemawat 2004, section 3.6. A worker that makes no progress at all is killed by its watchdog.
        """
        one = [(t, k) for t, k in self.held.items() if list(self.held.values()).count(k) == 1 and k in self.offers]
        now = time.monotonic()
        return [self.offers[k] for t, k in one if now - self.since[t] > self.offers[k].patience]

    def _distance(self, offer: Offer, node: str, worker: str) -> int:
        """Return how far a job's data are: in the worker's memory, on its node, nowhere yet, on another node."""
        if offer.trial and self.ran.get(offer.trial) == worker:
            return 0
        holders = [n for n, backbones in self.seen.items() if offer.backbone in backbones]
        return 1 if node in holders else 3 if holders else 2

    def keep(self, key: str, node: str, folder: str) -> None:
        """Remember that a node's store has an entry.

        Args:
            key: of the entry.
            node: that has it.
            folder: of the store there.
        """
        self.kept[key] = (node, folder)

    def keeper(self, key: str) -> tuple[str, str] | None:
        """Return the node that has an entry of the store, and the folder there; None: none is known."""
        return self.kept.get(key)
