"""The end of a worker that hangs, and the note by which the driver learns what became of a job."""

from __future__ import annotations

import contextlib
import faulthandler
import os
from pathlib import Path
from typing import IO

from autotransfer.search import trial


class Watchdog:
    """Kills its process when no batch has ended for too long; works while native code holds the interpreter.

    There is one for a worker's whole life: trainings that it keeps between jobs go on telling it of their batches.

    Args:
        seconds: without a batch.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.file: IO[str] | None = None

    def watch(self, note: Path) -> None:
        """Begin with a job.

        Args:
            note: file that is there as long as the job runs, and after it where its process died; where it hung, with
                what each thread did.
        """
        self.file = note.open("w", encoding="utf-8")
        self.tick()

    def tick(self) -> None:
        """Begin to count anew."""
        if self.file is not None:
            faulthandler.dump_traceback_later(self.seconds, exit=True, file=self.file)

    def rest(self) -> None:
        """Stop counting: the process waits for work."""
        faulthandler.cancel_dump_traceback_later()
        if self.file is not None:
            self.file.close()
            with contextlib.suppress(OSError):
                Path(self.file.name).unlink()
        self.file = None


def take_note(note: Path) -> str | None:
    """Return where a worker hung, and remove its note; empty: it died in its job; None: it had not begun it."""
    try:
        text = note.read_text(encoding="utf-8")
        note.unlink()
    except OSError:
        return None
    return _innermost(text) if "Timeout" in text else ""


def _innermost(dump: str) -> str:
    """Return where the thread that ran the job was, from a dump of all threads, innermost call first."""
    blocks = [b for b in dump.split("\n\n") if os.path.basename(trial.__file__) in b] or [dump]
    return next((line.strip() for line in blocks[0].splitlines() if line.strip().startswith("File")), "unknown")
