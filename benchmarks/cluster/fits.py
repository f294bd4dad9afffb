"""One fit on the cluster, watched: what disturbs it, what it used, what it left."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.cluster.cells import Cell
from benchmarks.cluster.nodes import Cluster, Workers
from benchmarks.economy.cells import ROOT
from benchmarks.economy.tree import EVERY, MARK, Tree

PLUGIN = Path(__file__).with_name("nets.py")
DOWN, AWAY = 5.0, 10.0
"""Seconds until a node is started anew, and that a folder is away or full."""
LATEST = 4.0
"""Seconds at most between the end of a job and the disturbance."""
LINGER = 90.0
"""Seconds in which Ray's own processes end after a driver was killed."""
LIMIT = 900.0
FULL = 48
"""Megabytes of the small file system."""


@dataclass
class Watched:
    """What the driver and the workers of one cell used."""

    cluster: Cluster
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    disturbed: float | None = None
    """Seconds after the start at which something was killed."""

    def __post_init__(self) -> None:
        self.driver = Tree(self.mark)
        self.trees = [Workers(n.mark) for n in self.cluster.nodes]
        for tree in self.trees:
            tree.sample()
        self.before = sum(sum(t.seconds.values()) for t in self.trees)

    @property
    def cpu(self) -> float:
        """CPU seconds of the driver and of all workers since the beginning."""
        return sum(self.driver.seconds.values()) + sum(sum(t.seconds.values()) for t in self.trees) - self.before

    def run(self, command: Sequence[str], log: Path, look: Callable[[subprocess.Popen[bytes], float], None]) -> int:
        """Run a driver to its end, and return its exit code.

        Args:
            command: of the driver.
            log: its error stream; its output goes to ``told.json`` beside it.
            look: called five times a second, with the seconds since the start.
        """
        with log.open("ab") as errors, log.with_name("told.json").open("wb") as told:
            env = {**self.cluster.environment(), MARK: self.mark}
            child = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=told, stderr=errors, cwd=ROOT, start_new_session=True
            )
            began = time.monotonic()
            try:
                while child.poll() is None and time.monotonic() - began < LIMIT:
                    self.sample()
                    look(child, time.monotonic() - began)
                    time.sleep(EVERY)
            finally:
                child.kill()
                child.wait()
            self.sample()
        return child.returncode

    def sample(self) -> None:
        """Take note of what everything has used so far."""
        for tree in (self.driver, *self.trees):
            tree.sample()


def digits(folder: Path, rows: int) -> Path:
    """Lay out scikit-learn's digits as folders of pictures of 32 x 32."""
    if not folder.exists():
        found = load_digits()
        for number, (image, label) in enumerate(zip(found.images[:rows], found.target[:rows], strict=True)):
            place = folder / str(label)
            place.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray((image * 15.9).astype("uint8")).resize((32, 32), Image.Resampling.BILINEAR)
            picture.convert("RGB").save(place / f"{number:04}.png")
    return folder


def measure(cell: Cell, cluster: Cluster, usual: int) -> dict[str, Any]:
    """Return the numbers of one cell.

    Args:
        cell: what to measure.
        cluster: where.
        usual: jobs of an undisturbed fit; the moment is some seconds after one of them.
    """
    scratch = Path(cluster.folder, f"{cell.kind}-{cell.number}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    data = digits(Path(cluster.folder, f"digits-{cell.rows}"), cell.rows)
    out = scratch / "place" / "run"
    out.parent.mkdir()
    small = cell.kind.startswith("disk")
    if small:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={FULL}m", "none", str(out.parent)], check=True)
    try:
        return _measured(cell, cluster, usual, data, out, scratch)
    finally:
        if small:
            subprocess.run(["umount", "-l", str(out.parent)], check=False)
        shutil.rmtree(scratch, ignore_errors=True)


def _measured(cell: Cell, cluster: Cluster, usual: int, data: Path, out: Path, scratch: Path) -> dict[str, Any]:
    draw = random.Random(f"{cell.kind} {cell.number}")
    watched = Watched(cluster)
    disturb = Disturbance(cell.kind, draw.randrange(usual), draw.uniform(0.0, LATEST), draw, watched, out)
    began, load = time.monotonic(), os.getloadavg()[0]
    code, log = watched.run(_fit(cell, cluster, data, out), scratch / "log.txt", disturb.look), scratch / "log.txt"
    first = code
    disturb.end()
    if code and cell.kind in ("driver", "disk-stays", "storage-stays"):
        resumes = draw.random() < 0.5 and (out / "run.yaml").exists()
        command = _resume(cluster, out) if resumes else _fit(cell, cluster, data, out)
        code = watched.run(command, log, lambda *_: None)
    wall = time.monotonic() - began
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return {
        "code": code,
        "first_code": first,
        "errors": [line[:300] for line in lines if line.startswith(("error:", "Traceback"))],
        "moment": round(disturb.done, 2) if disturb.done is not None else None,
        "wall": round(wall, 2),
        "cpu": round(watched.cpu, 2),
        "load": round(load, 1),
        **_told(scratch / "told.json", out),
        "left": _left(out, cluster),
        **_orphans(watched),
        "tail": lines[-3:] if code else [],
    }


def _fit(cell: Cell, cluster: Cluster, data: Path, out: Path) -> list[str]:
    nets = "nets/heavy,nets/heavier" if cell.kind in ("one", "two") else "nets/small,nets/wide"
    flags = ["--plugin", str(PLUGIN), "--backbones", nets, "--trials", str(cell.trials), "--seed", "1", "--json"]
    flags += ["--max-workers", str(cell.workers), "--strategies", "core/probe,core/full,core/partial"]
    client = cell.kind == "client"
    flags += ["--address", cluster.far if client else cluster.address, "--out", str(out), "--offline"]
    return cluster.driver([sys.executable, "-m", "autotransfer", "fit", str(data), *flags], client=client)


def _resume(cluster: Cluster, out: Path) -> list[str]:
    return cluster.driver([sys.executable, "-m", "autotransfer", "resume", str(out), "--json"])


def _told(file: Path, out: Path) -> dict[str, Any]:
    """Return who won, and what the ledger holds."""
    found: dict[str, Any] = {"winner": None}
    with contextlib.suppress(OSError, ValueError):
        told = json.loads(file.read_text(encoding="utf-8"))
        history = json.loads((out / "model" / "history.json").read_text(encoding="utf-8"))
        found = {"winner": [history["winner"], told["recipe"]], "validation": told["validation"], "test": told["test"]}
    with contextlib.suppress(OSError):
        lines = [json.loads(line) for line in (out / "trials.jsonl").read_text(encoding="utf-8").splitlines()]
        records = [line["record"] for line in lines]
        found |= {"jobs": len(lines), "again": len(lines) - len({line["job"] for line in lines})}
        found["failed"] = [r["reason"][:200] for r in records if r["status"] == "failed"]
    return found


def _left(out: Path, cluster: Cluster) -> list[str]:
    """Return what should not be there any more."""
    wanted = {"run.yaml", "profile.json", "plan.json", "plugins.json", "trials.jsonl", "model", "report.html", ".lock"}
    there = [p.name for p in out.iterdir() if p.name not in wanted] if out.exists() else []
    return [*there, *(p.name for p in Path(cluster.folder, "tmp").glob("autotransfer-*"))]


def _orphans(watched: Watched) -> dict[str, Any]:
    """Return which processes of the run live on, and how long it took until none did."""
    began = time.monotonic()

    def alive() -> list[int]:
        return [*watched.driver.alive(), *(w for n in watched.cluster.nodes for w in n.workers())]

    while alive() and time.monotonic() - began < LINGER:
        time.sleep(EVERY)
    found = alive()
    for pid in watched.driver.alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return {"orphans": len(found), "gone_after": round(time.monotonic() - began, 1)}


class Disturbance:
    """Kills, fills or hides at its moment, and mends it later."""

    def __init__(self, kind: str, jobs: int, later: float, draw: random.Random, watched: Watched, out: Path) -> None:
        self.kind = kind
        self.jobs = jobs
        self.later = later
        self.moment = float("inf")
        self.draw = draw
        self.watched = watched
        self.out = out
        self.away = out.with_name("away")
        self.filler = out.with_name("filler")
        self.done: float | None = None
        self.mend: Callable[[], None] | None = None
        self.mend_at = float("inf")

    def look(self, child: subprocess.Popen[bytes], seconds: float) -> None:
        """Do what is due."""
        if self.mend is not None and seconds > self.mend_at:
            self.end()
        if self.moment == float("inf") and self._jobs() >= self.jobs:
            self.moment = seconds + self.later
        if self.done is None and seconds >= self.moment and self._disturb(child):
            self.done = seconds
            after = DOWN if self.kind == "node" else AWAY
            self.mend_at = float("inf") if self.kind.endswith("stays") else seconds + after

    def _jobs(self) -> int:
        """Return how many jobs have ended; -1 before there is a run folder."""
        ledger = self.out / "trials.jsonl"
        if ledger.exists():
            return ledger.read_bytes().count(b"\n")
        return 0 if self.out.exists() else -1

    def end(self) -> None:
        """Mend what is broken."""
        if self.mend is not None:
            mend, self.mend = self.mend, None
            mend()

    def _disturb(self, child: subprocess.Popen[bytes]) -> bool:
        """Return whether it could be done now."""
        kind = self.kind.removesuffix("-stays")
        if kind == "driver":
            child.kill()
        elif kind == "worker":
            found = [w for n in self.watched.cluster.nodes for w in n.workers()]
            if not found:
                return False
            os.kill(self.draw.choice(found), signal.SIGKILL)
        elif kind == "node":
            node = self.draw.choice(self.watched.cluster.nodes)
            node.kill()
            self.mend = node.start
        elif kind == "storage":
            self.out.rename(self.away)
            self.mend = self._come_back
        elif kind == "disk":
            self._fill()
            self.mend = self.filler.unlink
        return kind not in ("undisturbed", "one", "two")

    def _come_back(self) -> None:
        self.away.rename(self.out)

    def _fill(self) -> None:
        with self.filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(65536))
