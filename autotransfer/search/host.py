"""What an engine on a cluster's head does for its client: takes files, runs, tells, gives files back, and goes.

Ray is not loaded here: :mod:`autotransfer.search.client` makes an actor of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib.metadata
import os
import platform
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotransfer.errors import AutotransferError
from autotransfer.registry import Registry
from autotransfer.search.nodes import PLACE, unseen

RUN, PLUGINS, DATA = "run", "plugins", "data"
"""Folders of a host: of the run, of single-file plugins, and of the client's files."""
PREFIX, ALIVE = "autotransfer-client-", ".alive"
"""How a host's folder is called, and the file in it that the host holds locked as long as it lives."""
LEDGER = "trials.jsonl"
TOLD = ("profile.json", "plugins.json", "plan.json")
"""Files of the run that the client gets whenever they change; of the ledger it gets what is new."""
NEWS = 1.0
"""Seconds that a client waits for news in one call."""
SILENCE, BEFORE = 12, 300
"""Seconds without a call after which a client is taken to be gone: while it runs, and before (rows are being sent)."""
STOPPING = 5.0
"""Seconds that a run without a client has to end by itself."""


@dataclass(frozen=True)
class Part:
    """A piece of a file on its way."""

    name: str
    """Path under the host's folder."""
    at: int
    """Its first byte in the file."""
    body: bytes


@dataclass(frozen=True)
class Outcome:
    """How a run ended: with a model in its folder, or with an error."""

    error: str = ""
    """Class name of what was raised."""
    text: str = ""
    trace: str = ""


@dataclass(frozen=True)
class News:
    """What has happened since the last call."""

    events: Sequence[tuple[str, Mapping[str, Any]]]
    ledger: bytes
    """Whole lines."""
    files: Mapping[str, bytes]
    outcome: Outcome | None = None


class _Run(threading.Thread):
    """A run in a thread of its own."""

    def __init__(self, engine: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.engine = engine
        self.outcome: Outcome | None = None

    def run(self) -> None:
        """Run the engine; whatever it raises, an interruption too, is its outcome."""
        try:
            self.engine()
            outcome = Outcome()
        except BaseException as error:
            outcome = Outcome(type(error).__name__, str(error), traceback.format_exc())
        self.outcome = outcome

    def stop(self) -> None:
        """Raise KeyboardInterrupt in this thread, as Ctrl-C does in a main one."""
        if self.outcome is None and self.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident), ctypes.py_object(KeyboardInterrupt))


class Host:
    """Runs one engine in a folder of its own, which goes with it; ends where its client falls silent.

    Args:
        shared: folder that every node sees; empty: what ``AUTOTRANSFER_SHARED`` names here, or TMPDIR.
    """

    def __init__(self, shared: str = "") -> None:
        given = shared or os.environ.get(PLACE) or tempfile.gettempdir()
        _sweep(Path(given))
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=given)).resolve()
        self.lock = (self.folder / ALIVE).open("w", encoding="utf-8")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.running: _Run | None = None
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.sent: dict[str, tuple[int, int]] = {}
        self.silent = 0
        self.closed = False
        threading.Thread(target=self._watch, daemon=True).start()

    def place(self) -> str:
        """Return the folder's path."""
        return str(self.folder)

    def faults(self, version: str, manifest: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return how autotransfer and its plugins here differ from the client's."""
        here, name = importlib.metadata.version("autotransfer"), platform.node()
        if here != version:
            return [f"the head {name} has autotransfer {here}, this machine has {version}; install the same on both"]
        try:
            Registry.from_manifest(self._there(manifest), name)
        except AutotransferError as error:
            return [f"{error} (that is this machine); install the same versions on both"]
        return []

    def sees(self, files: Sequence[tuple[str, int]]) -> bool:
        """Return whether files lie here too, as large as the client has them."""
        return not unseen(files)

    def take(self, parts: Sequence[Part]) -> None:
        """Write pieces of files under the folder."""
        for part in parts:
            path = self.folder / part.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("r+b" if path.exists() else "wb") as file:
                file.seek(part.at)
                file.write(part.body)
        self.silent = 0

    def run(
        self,
        engine: Callable[..., None],
        settings: Any,
        prepared: Any,
        manifest: Sequence[Mapping[str, Any]],
        offline: bool,
    ) -> None:
        """Run an engine to its end, in a thread that can be interrupted.

        Args:
            engine: called with settings, rows, plugins and whom to tell.
            settings: of the run, as they are here.
            prepared: rows of the client.
            manifest: plugins of the client.
            offline: no plugin may touch the network.
        """
        (self.folder / "tmp").mkdir()
        tempfile.tempdir = str(self.folder / "tmp")  # so that no temporary file outlives the folder
        registry = Registry.from_manifest(self._there(manifest))
        registry.offline = offline
        self.running = _Run(lambda: engine(settings, prepared, registry, self._tell))
        self.running.start()
        self.running.join()

    def listen(self, ledger: int, stop: bool) -> News:
        """Return what is new, at once or within a second.

        Args:
            ledger: bytes of the ledger that the client has.
            stop: end the run as Ctrl-C does.
        """
        self.silent = 0
        if stop and self.running is not None:
            self.running.stop()
        until = time.monotonic() + NEWS
        while True:
            # Asked first: what a run leaves is complete once it has ended.
            outcome = self.running.outcome if self.running is not None else None
            news = News(self._events(), self._ledger(ledger), self._files(), outcome)
            if news.events or news.ledger or news.files or outcome is not None or time.monotonic() > until:
                return news
            time.sleep(0.05)

    def files(self, folder: str) -> list[tuple[str, int]]:
        """Return the files in and under a folder by their paths there, and their bytes."""
        root = self.folder / folder
        found = [p for p in sorted(root.rglob("*")) if p.is_file()]
        return [(p.relative_to(root).as_posix(), p.stat().st_size) for p in found]

    def read(self, name: str, at: int, most: int) -> bytes:
        """Return a piece of a file of the folder."""
        self.silent = 0
        with (self.folder / name).open("rb") as file:
            file.seek(at)
            return file.read(most)

    def close(self) -> None:
        """Remove the folder; there is nothing to watch any more."""
        self.closed = True
        self.lock.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _there(self, manifest: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return the plugins with the files that they have here."""
        here = self.folder / PLUGINS
        return [{**r, "path": str(here / Path(r["path"]).name)} if r["path"] else r for r in manifest]

    def _tell(self, event: str, **facts: Any) -> None:
        self.events.append((event, facts))

    def _events(self) -> list[tuple[str, Mapping[str, Any]]]:
        found, self.events = self.events, []
        return found

    def _ledger(self, have: int) -> bytes:
        file = self.folder / RUN / LEDGER
        if not file.exists() or file.stat().st_size <= have:
            return b""
        with file.open("rb") as opened:
            opened.seek(have)
            new = opened.read()
        return new[: new.rfind(b"\n") + 1]

    def _files(self) -> dict[str, bytes]:
        found = {}
        for name in TOLD:
            file = self.folder / RUN / name
            with contextlib.suppress(FileNotFoundError):
                now = file.stat()
                mark = (now.st_mtime_ns, now.st_size)
                if self.sent.get(name) != mark:
                    found[name], self.sent[name] = file.read_bytes(), mark
        return found

    def _watch(self) -> None:
        """End the process where nobody has called for too long; seconds count in which this thread could run."""
        while self.silent < (SILENCE if self.running is not None else BEFORE):
            time.sleep(1)
            self.silent += 1
            if self.closed:
                return
        if self.running is not None:
            self.running.stop()
            self.running.join(STOPPING)
        self.close()
        os._exit(1)


def _sweep(place: Path) -> None:
    """Remove the folders of hosts that were killed."""
    for old in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (old / ALIVE).open("r+", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old, ignore_errors=True)
