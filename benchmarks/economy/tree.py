"""CPU seconds and memory of a whole process tree, children that died and daemons that were re-parented included.

The command gets a mark in its environment, which all of its descendants inherit; every fifth of a second each
marked process's CPU time is read, and the last value that was seen of a process that is gone still counts.
``getrusage`` would miss processes that nobody waited for (Ray's daemons and workers are such).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

EVERY = 0.2
"""Seconds between samples."""
MARK = "AUTOTRANSFER_BENCHMARK_MARK"
_LOOKS = 10
"""Looks at an unmarked process before it is taken for someone else's: between fork and exec it shows old values."""
_TICK = os.sysconf("SC_CLK_TCK")
_GRACE = 15.0
"""Seconds that what is left of a tree has to end by itself."""


@dataclass
class Usage:
    """What a command used."""

    code: int = 0
    timed_out: bool = False
    began: float = 0.0
    """``time.time()``."""
    wall: float = 0.0
    samples: list[tuple[float, float]] = field(default_factory=list)
    """``time.time()`` and CPU seconds of the tree so far."""
    peak: int = 0
    """Bytes of anonymous memory of all processes together, at the worst moment."""
    largest: int = 0
    """The same of the largest process."""
    processes: int = 0

    @property
    def cpu(self) -> float:
        """CPU seconds of the whole tree."""
        return self.samples[-1][1] if self.samples else 0.0

    def cpu_at(self, moment: float) -> float:
        """Return CPU seconds of the tree until ``time.time()`` was ``moment``, between samples on a line."""
        before = (self.began, 0.0)
        for at, cpu in self.samples:
            if at >= moment:
                share = (moment - before[0]) / max(at - before[0], 1e-9)
                return before[1] + max(0.0, share) * (cpu - before[1])
            before = (at, cpu)
        return before[1]


class Tree:
    """The marked processes of this machine."""

    def __init__(self, mark: str) -> None:
        self.needle = f"{MARK}={mark}".encode()
        self.seconds: dict[tuple[int, int], float] = {}
        """CPU seconds by process id and start time, of the dead too."""
        self._looks: dict[tuple[int, int], int] = {}

    def sample(self) -> tuple[float, int, int]:
        """Return CPU seconds so far, and anonymous bytes now: of all, and of the largest process."""
        sizes = [0]
        for pid, start, seconds, _ in self._marked():
            self.seconds[pid, start] = seconds
            sizes.append(_anonymous(pid))
        return sum(self.seconds.values()), sum(sizes), max(sizes)

    def alive(self) -> list[int]:
        """Return ids of marked processes that run."""
        return [pid for pid, _, _, state in self._marked() if state != "Z"]

    def _marked(self) -> Iterator[tuple[int, int, float, str]]:
        """Yield id, start time, CPU seconds and state; a zombie that is known still tells its last seconds."""
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                found = _stat(int(entry))
                if found is not None and self._ours(int(entry), found[0]):
                    yield int(entry), *found

    def _ours(self, pid: int, start: int) -> bool:
        if (pid, start) in self.seconds:
            return True
        looks = self._looks.get((pid, start), 0)
        if looks >= _LOOKS or pid == os.getpid():
            return False
        self._looks[pid, start] = looks + 1
        try:
            return self.needle in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # gone, or another user's
            return False


def _stat(pid: int) -> tuple[int, float, str] | None:
    """Return start time, CPU seconds and state of a process; None where it is gone."""
    try:
        rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # Fields 3, 14, 15 and 22 of proc(5): state, utime, stime, starttime.
    return int(rest[19]), (int(rest[11]) + int(rest[12])) / _TICK, rest[0]


def _anonymous(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def watch(
    command: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: Path | None = None,
    timeout: float = 6 * 3600.0,
    look: Callable[[], None] = lambda: None,
) -> Usage:
    """Run a command to its end and return what its whole tree used.

    Args:
        command: program and arguments.
        log: file of its standard error (and output).
        env: variables beside those of this process.
        cwd: its folder.
        output: file of its standard output, where that is wanted alone.
        timeout: seconds after which it is ended.
        look: called at every sample.
    """
    mark = uuid.uuid4().hex
    tree, usage = Tree(mark), Usage(began=time.time())
    with contextlib.ExitStack() as files:
        errors = files.enter_context(log.open("ab"))
        out = files.enter_context(output.open("wb")) if output is not None else errors
        child = subprocess.Popen(
            list(command),
            env={**os.environ, **(env or {}), MARK: mark},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            start_new_session=True,
        )
        try:
            while child.poll() is None:
                _take(tree, usage)
                look()
                if time.time() - usage.began > timeout:
                    usage.timed_out = True
                    break
                time.sleep(EVERY)
        finally:
            _end(tree, usage, timed_out=child.poll() is None)
            usage.code = child.wait()
            look()
    return usage


def _take(tree: Tree, usage: Usage) -> None:
    cpu, anonymous, largest = tree.sample()
    usage.samples.append((time.time(), cpu))
    usage.peak, usage.largest = max(usage.peak, anonymous), max(usage.largest, largest)
    usage.processes = len(tree.seconds)


def _end(tree: Tree, usage: Usage, timed_out: bool) -> None:
    """Wait for what is left of the tree (Ray's daemons linger), then end it; only marked processes are touched."""
    _take(tree, usage)
    usage.wall = time.time() - usage.began
    until = time.time() + (0.0 if timed_out else _GRACE)
    while tree.alive() and time.time() < until:
        time.sleep(EVERY)
        _take(tree, usage)
    for pid in tree.alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
