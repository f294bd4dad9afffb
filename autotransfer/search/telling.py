"""From records to events that a progress display understands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autotransfer.schema import SurveyRecord


class Telling:
    """Counts the records of a search and tells them as ``survey`` and ``trial``; other events pass through.

    Args:
        notify: whom to tell.
        backbones: how many are surveyed.
        trials: how many will be tried; None: not known.
    """

    def __init__(self, notify: Callable[..., None], backbones: int, trials: int | None) -> None:
        self.notify = notify
        self.backbones = backbones
        self.trials = trials
        self.surveyed: set[str] = set()
        self.tried: set[str] = set()

    def __call__(self, event: str, **facts: Any) -> None:
        """Tell an event."""
        if event != "record":
            self.notify(event, **facts)
            return
        record = facts["record"]
        if isinstance(record, SurveyRecord):
            self.surveyed.add(record.backbone)
            self.notify("survey", record=record, done=len(self.surveyed), total=self.backbones)
            return
        if record.id.startswith("t"):
            self.tried.add(record.id)
        self.notify("trial", record=record, done=len(self.tried), total=self.trials)
