"""One cell measured: the arm's command under watch, then the held-out score of its model, which costs nothing."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotransfer.weights import cache_folder
from benchmarks.economy.cells import ABLATIONS, ROOT, TRIALS, WHOLE, Cell
from benchmarks.economy.tasks import Layout
from benchmarks.economy.tree import Usage, watch

PLUGIN = Path(__file__).with_name("backbones.py")
AGAIN = "{lr_ratio: [0.05, 0.15, 0.5]}"
"""The new grid of the second run."""
TUNE: Mapping[str, Mapping[str, Any]] = {
    "b": {"scheduler": "asha", "reuse_actors": False},
    "c": {"scheduler": "asha", "reuse_actors": True},
    "d": {"scheduler": "fifo", "reuse_actors": False},
}


@dataclass
class Ledger:
    """Reads what a fit appends to its ledger while it runs, with the time at which it was seen."""

    path: Path
    lines: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    _read: int = 0

    def look(self) -> None:
        """Read whole new lines."""
        if not self.path.exists() or self.path.stat().st_size == self._read:
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        self.lines += [(time.time(), json.loads(line)) for line in whole.splitlines()]


def measure(cell: Cell, layout: Layout, group: Path) -> dict[str, Any]:
    """Return the numbers of one cell.

    Args:
        cell: what to measure.
        layout: its rows.
        group: scratch folder that the arms of one task and seed share; each has its own folder in it.
    """
    scratch = group / cell.arm.replace(":", "-")
    if cell.arm != "f":  # the grid goes on where it stopped
        shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
    if cell.arm.split(":")[0] == "a":
        return _fit(cell, layout, group, scratch)
    _write_settings(cell, layout, scratch)
    name = {"e": "unit", "f": "grid"}.get(cell.arm.split(":")[0], "tune")
    usage = watch(_arm(name, scratch), log=scratch / "log.txt", env=environment(group / "home"), cwd=ROOT)
    numbers = _numbers(usage)
    if usage.code:
        return {**numbers, "error": _tail(scratch / "log.txt")}
    final = json.loads((scratch / "final.json").read_text(encoding="utf-8"))
    events = [json.loads(line) for line in (scratch / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    scores = [(e["at"], e["validation"]) for e in events if e["event"] == "score"]
    if "points" in final:  # those of earlier runs too
        numbers["cpu"] = round(sum(p["cpu"] for p in final["points"]), 2)
    kept = {n: final[n] for n in ("validation", "trials", "failed", "epochs", "oracle", "points") if n in final}
    if "epochs" in kept:
        kept["epochs_run"] = kept.pop("epochs")
    return {**numbers, **kept, "path": path(usage, scores), **_score(cell, scratch)}


def _write_settings(cell: Cell, layout: Layout, scratch: Path) -> None:
    given = {
        "train": str(layout.train),
        "test": str(layout.test),
        "heldout": str(layout.heldout),
        "metric": layout.metric,
        "seed": cell.seed,
        "backbones": [cell.unit_of] if cell.unit_of else list(cell.backbones),
        "epochs": cell.epochs,
        "workers": cell.workers,
        "samples": cell.samples,
        "scratch": str(scratch),
        **TUNE.get(cell.arm, {}),
    }
    (scratch / "settings.json").write_text(json.dumps(given), encoding="utf-8")


def path(usage: Usage, scores: list[tuple[float, float]]) -> list[list[float]]:
    """Return ``[cpu seconds, wall seconds, best validation objective]`` at every better score."""
    found: list[list[float]] = []
    for at, score in sorted(scores):
        if not found or score > found[-1][2]:
            found.append([round(usage.cpu_at(at), 2), round(at - usage.began, 2), score])
    return found


def _fit(cell: Cell, layout: Layout, group: Path, scratch: Path) -> dict[str, Any]:
    """Measure arm a or a variant of it. Each has a cache of its own, but for the second run, which has the first's."""
    first, home = group / "a", scratch / "home"
    again = cell.arm == "a:again"
    if again:
        home = first / "home"
        if not (first / "run" / "model").exists():  # the first run was measured another day: it is run unmeasured
            shutil.rmtree(first, ignore_errors=True)
            first.mkdir(parents=True)
            _run_fit(cell, layout, first, home, ())
    usage, ledger = _run_fit(cell, layout, scratch, home, ("--space", AGAIN) if again else ())
    numbers = _numbers(usage)
    if usage.code:
        return {**numbers, "error": _tail(scratch / "log.txt")}
    told = json.loads((scratch / "told.json").read_text(encoding="utf-8"))
    _write_settings(cell, layout, scratch)
    kept = {n: told[n] for n in ("trials", "status", "share_of_one_fine_tune", "baseline")}
    return {**numbers, **kept, **_from_ledger(usage, ledger, cell.workers), **_score(cell, scratch)}


def _run_fit(
    cell: Cell, layout: Layout, scratch: Path, home: Path, extra: tuple[str, ...]
) -> tuple[Usage, list[tuple[float, dict[str, Any]]]]:
    run = scratch / "run"
    left_out = ABLATIONS.get(cell.arm)
    product = ["benchmarks.economy.ablated", left_out] if left_out else ["autotransfer"]
    command = [sys.executable, "-m", *product, "fit", str(layout.train), "--test", str(layout.test)]
    command += ["--metric", layout.metric]
    command += ["--plugin", str(PLUGIN), "--backbones", ",".join(cell.backbones), "--offline", "--json"]
    command += ["--trials", str(TRIALS)] if cell.arm in (WHOLE, *ABLATIONS) else []
    command += ["--max-workers", str(cell.workers), "--seed", str(cell.seed), "--out", str(run), *extra]
    ledger = Ledger(run / "trials.jsonl")
    usage = watch(
        command,
        log=scratch / "log.txt",
        env=environment(home),
        cwd=ROOT,
        output=scratch / "told.json",
        look=ledger.look,
    )
    return usage, ledger.lines


def _from_ledger(usage: Usage, lines: list[tuple[float, dict[str, Any]]], workers: int) -> dict[str, Any]:
    """Return what the ledger tells: the path, when the survey was over, when there was a first model, and compute.

    Compute is the sum of the seconds that jobs ran; overhead is what the workers had beside it.
    """
    surveys = [(at, line["record"]) for at, line in lines if line["kind"] == "survey"]
    trials = [(at, line["record"]) for at, line in lines if line["kind"] == "trial"]
    scored = [(at, r["objective"]) for at, r in trials if r.get("objective") is not None and r["status"] != "failed"]
    searched = [at for at, r in trials if r["id"].startswith("t")]
    # From the first surveyed backbone on, a run that is stopped trains a head on its features and returns that.
    usable = [at for at, r in surveys if r["status"] == "done" and r.get("score") is not None]
    before = [at for at, _ in surveys if not searched or at <= searched[0]]
    last = {r["backbone"]: r for _, r in surveys}
    survey = sum(r.get("seconds_per_row", 0.0) * r.get("rows", 0) for r in last.values())
    compute = sum(r.get("seconds", 0.0) for _, r in (*surveys, *trials))
    return {
        "validation": max((score for _, score in scored), default=None),
        "path": path(usage, scored),
        "survey_cpu": round(usage.cpu_at(before[-1]), 2) if before else None,
        "survey_seconds": round(survey, 2),
        "first_model_cpu": round(usage.cpu_at(min(usable)), 2) if usable else None,
        "compute_seconds": round(compute, 2),
        "overhead": round((usage.wall * workers - compute) / compute, 4) if compute else None,
        "epochs_run": round(sum(r.get("epochs", 0.0) for _, r in trials), 2),
    }


def _numbers(usage: Usage) -> dict[str, Any]:
    return {
        "code": usage.code if not usage.timed_out else 124,
        "cpu": round(usage.cpu, 2),
        "wall": round(usage.wall, 2),
        "peak_mb": usage.peak // 2**20,
        "largest_mb": usage.largest // 2**20,
        "processes": usage.processes,
        "began": round(usage.began),
    }


def _score(cell: Cell, scratch: Path) -> dict[str, Any]:
    """Return the held-out score and the winner, from a process of its own that is not measured."""
    code = watch(_arm("score", scratch), log=scratch / "score.txt", env=environment(cache_folder()), cwd=ROOT).code
    if code:
        return {"error": _tail(scratch / "score.txt"), "code": code}
    found: dict[str, Any] = json.loads((scratch / "score.json").read_text(encoding="utf-8"))
    return found


def _arm(name: str, scratch: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.economy.arms", name, str(scratch / "settings.json")]


def environment(home: Path) -> dict[str, str]:
    """Return the variables of an arm: one thread, this tree's code, and a cache that shares nothing but weights."""
    if home != cache_folder():
        home.mkdir(parents=True, exist_ok=True)
        if not (home / "weights").is_symlink():
            (home / "weights").symlink_to(cache_folder().resolve() / "weights", target_is_directory=True)
    roots = [str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")]
    return {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(r for r in roots if r),
        "AUTOTRANSFER_HOME": str(home),
    }


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-1500:] if log.exists() else ""
