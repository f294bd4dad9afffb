"""Progress of a run on the error stream: live where it is a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from autotransfer.profiles import Profile
from autotransfer.recipes import ONLY, spec_id
from autotransfer.report.words import clock, data_line, frozen, metric_of, score, size
from autotransfer.schema import Refusal, SurveyRecord, TrialRecord

if TYPE_CHECKING:
    from rich.text import Text

Notify = Callable[..., None]
"""Called as ``notify(event, **facts)``; the events are the methods of :class:`Progress` that begin with ``on_``."""


class Progress:
    """Keeps what a run has told, and says it nowhere: the silent kind.

    Args:
        budget: seconds that the search may take, where they were given.
        now: a clock in seconds.
    """

    def __init__(self, budget: float | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self.budget = budget
        self.now = now
        self.began = now()
        self.paused = 0.0
        """Seconds of downloads: they are no part of the budget."""
        self.metric = ""
        self.best: tuple[float, str] | None = None
        self.running: list[str] = []
        self.stage = "reading the data"
        self._download_began: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __call__(self, event: str, **facts: Any) -> None:
        """Take note of an event of the run."""
        if self._download_began is not None:
            self.paused += self.now() - self._download_began
            self._download_began = None
        getattr(self, f"on_{event}")(**facts)

    def say(self, line: str) -> None:
        """Say one line that stays."""

    def on_profile(self, profile: Profile) -> None:
        """The data were read."""
        self.metric = profile.metric
        self.stage = "choosing backbones"
        self.say(f"data     {data_line(profile)}")
        for issue in profile.issues:
            self.say(f"         {issue.text}")

    def on_pool(self, ids: Sequence[str], refusals: Sequence[Refusal]) -> None:
        """The backbones were chosen."""
        self.stage = f"survey 0/{len(ids)}"
        self.say(f"pool     {len(ids)} backbones: {', '.join(ids)}")
        for refusal in refusals:
            self.say(f"         without {refusal.name}: {refusal.reason}")

    def on_download(self, id: str, bytes: int | None = None) -> None:
        """Weights are being fetched."""
        self.stage = f"fetching {id}"
        self.say(f"fetch    {id}" + (f", {size(bytes)}" if bytes else ""))
        self._download_began = self.now()

    def on_survey(self, record: SurveyRecord, done: int, total: int) -> None:
        """A backbone was surveyed."""
        self.stage = f"survey {done}/{total}"
        if record.status in ("failed", "skipped"):
            self.say(f"survey   {done}/{total}   {record.backbone} {record.status}: {record.reason}")
            return
        found = metric_of(record.score, self.metric)
        self.say(f"survey   {done}/{total}   {record.backbone} closed-form probe {score(found)}")

    def on_trial(self, record: TrialRecord, done: int, total: int | None = None) -> None:
        """A trial, or one rung of it, is over."""
        count = f"{done}/{total}" if total else str(done)
        self.stage = f"search {count}"
        name = " ".join(
            p for p in (record.id, spec_id(record.recipe), record.recipe.strategy, frozen(record.recipe)) if p
        )
        if record.objective is None or record.status == "failed":
            self.say(f"trial    {count}   {name} {record.status}: {record.reason}")
            return
        apart = ONLY in record.recipe.values
        first = not apart and (self.best is None or record.objective > self.best[0])
        if first:
            self.best = (record.objective, name)
        value = score(metric_of(record.objective, self.metric))
        told = f" (for {record.recipe.values[ONLY]!r} alone)" if apart else " (best so far)" if first else ""
        self.say(f"trial    {count}   {name} {self.metric} {value}{told}")

    def on_running(self, jobs: Sequence[str]) -> None:
        """These jobs are running now."""
        self.running = list(jobs)

    def on_waiting(self, text: str) -> None:
        """Nothing runs: workers wait for resources."""
        self.say(f"waiting  {text}")

    def on_finish(self, text: str) -> None:
        """The search is over; the winner is being finished."""
        self.stage, self.running = text, []
        self.say(f"finish   {text}")

    def on_saved(self, path: str) -> None:
        """The model lies on disk."""
        self.say(f"saved    {path}")

    def used(self) -> float:
        """Return the seconds used so far, downloads left out."""
        running = self.now() - self._download_began if self._download_began is not None else 0.0
        return self.now() - self.began - self.paused - running

    def status(self) -> str:
        """Return where the run stands: stage, time used and left, the best so far, and what is running."""
        left = "" if self.budget is None else f", left {clock(self.budget - self.used())}"
        lines = [f"{self.stage}   used {clock(self.used())}{left}"]
        if self.best is not None:
            lines.append(f"best     {score(metric_of(self.best[0], self.metric))} {self.best[1]}")
        lines += [f"running  {job}" for job in self.running]
        return "\n".join(lines)


class Lines(Progress):
    """One plain line an event."""

    def __init__(self, stream: TextIO, budget: float | None = None, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(budget, now)
        self.stream = stream

    def say(self, line: str) -> None:
        """Print the line with the time used."""
        print(f"{clock(self.used()):>7}  {line}", file=self.stream, flush=True)


class Live(Progress):
    """Lines that stay, and below them a few that are redrawn twice a second."""

    def __init__(self, stream: TextIO, budget: float | None = None, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(budget, now)
        from rich.console import Console
        from rich.live import Live as Display

        self.console = Console(file=stream, highlight=False)
        self.display = Display(get_renderable=self._drawn, console=self.console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        self.display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.display.stop()

    def say(self, line: str) -> None:
        """Print the line above the live part."""
        self.console.print(line, markup=False, soft_wrap=True)

    def _drawn(self) -> Text:
        from rich.text import Text

        return Text(self.status(), overflow="ellipsis", no_wrap=True)


def progress(stream: TextIO | None = None, budget: float | None = None, plain: bool = True) -> Progress:
    """Return what shows a run's progress on a stream, by default the error stream.

    Args:
        stream: where to.
        budget: seconds that the search may take, where they were given.
        plain: where the stream is no terminal, print plain lines; else nothing.
    """
    to = sys.stderr if stream is None else stream
    if to.isatty():
        return Live(to, budget)
    return Lines(to, budget) if plain else Progress(budget)
