"""The queue: which cells are wanted, which are there already, and what runs next.

    python -m benchmarks.cluster                                           # all of it; goes on where it stopped
    python -m benchmarks.cluster --kills driver=2,worker=2,node=2          # some kills, after one undisturbed run
    python -m benchmarks.cluster --faults disk,storage --speedup 5 --overhead 200
    python -m benchmarks.cluster --spaces 3                                # nodes in network namespaces of their own
    python -m benchmarks.cluster --report                                  # the tables, from what was measured

A cell of the same settings that is in the results file already is not run again. Needs root for the small file system
and the namespaces.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cluster.cells import RESULTS, Cell
from benchmarks.cluster.fits import digits, measure
from benchmarks.cluster.networks import network
from benchmarks.cluster.nodes import Cluster
from benchmarks.cluster.report import report
from benchmarks.economy.cells import ROOT, Results

ALL = {"kills": "driver=20,worker=10,node=10", "faults": "disk,storage", "speedup": 5, "overhead": 200, "spaces": 3}
SPACED = ("spaces", "client")
UNDISTURBED = 3
ROWS, TRIALS = 900, 6
HEAVY_ROWS, HEAVY_TRIALS = 1500, 12


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and print the tables."""
    given = _parsed(arguments)
    results = Results(given.results)
    if not given.report:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster is ended too
        _run([c for c in _wanted(given) if given.rerun or c.key not in results.latest()], results)
    print(report(results))


def _run(cells: list[Cell], results: Results) -> None:
    for cell in [c for c in cells if c.kind == "overhead"]:
        _tell(cell, results, _overhead(cell))
    spaced = [c for c in cells if c.kind in SPACED]
    if spaced:
        with network(3) as net, Cluster(2, net) as cluster:
            for cell in spaced:
                _tell(cell, results, measure(cell, cluster, 1))
    fits = [c for c in cells if c.kind != "overhead" and c.kind not in SPACED]
    if not fits:
        return
    with Cluster(2) as cluster:
        for cell in fits:
            _tell(cell, results, measure(cell, cluster, usual(results, cell)))


def usual(results: Results, cell: Cell) -> int:
    """Return the jobs of an undisturbed fit of a cell's size."""
    same = (cell.rows, cell.trials, cell.workers)
    lines = [line for line in results.latest().values() if line["kind"] == "undisturbed"]
    jobs = [int(line["jobs"]) for line in lines if (line["rows"], line["trials"], line["workers"]) == same]
    return min(jobs, default=1)


def _tell(cell: Cell, results: Results, numbers: dict[str, Any]) -> None:
    results.add(cell, numbers)
    shown = {n: v for n, v in numbers.items() if n not in ("winner", "machine", "tail") or numbers["code"]}
    print(f"{cell.kind} {cell.number}: {json.dumps(shown)}", file=sys.stderr, flush=True)


def _overhead(cell: Cell) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="atb-") as folder:
        data = digits(Path(folder, "digits"), cell.rows)
        command = [sys.executable, "-m", "benchmarks.cluster.overhead", str(data), str(cell.trials), str(cell.workers)]
        env = {**os.environ, "AUTOTRANSFER_PLUGINS": "core=autotransfer_strategies", "AUTOTRANSFER_HOME": folder}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"code": done.returncode, "errors": done.stderr.splitlines()[-3:]}
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {"code": 0, "load": round(os.getloadavg()[0], 1), **{n: v for n, v in told.items() if n != "trials"}}


def _wanted(given: argparse.Namespace) -> list[Cell]:
    """Return the cells in the order of running; those that are compared run close together."""
    kills = dict(part.split("=") for part in given.kills.split(",") if part)
    if unknown := set(kills) - {"driver", "worker", "node"}:
        sys.exit(f"nothing is killed that is called {', '.join(sorted(unknown))}; known: driver, worker, node")
    size = {"rows": given.rows, "trials": TRIALS, "workers": 2}
    faults = [f for f in given.faults.split(",") if f]
    cells = [Cell(kind="overhead", number=0, rows=100, trials=given.overhead, workers=2)] if given.overhead else []
    for number in range(given.spaces):
        cells += [Cell(kind=k, number=number, **size) for k in SPACED]
    if kills or faults:
        cells += [Cell(kind="undisturbed", number=n, **size) for n in range(given.undisturbed)]
    for number in range(max(map(int, kills.values()), default=0)):  # of each kind in turn: a short queue has all
        cells += [Cell(kind=k, number=number, **size) for k, count in kills.items() if number < int(count)]
    cells += [Cell(kind=k, number=0, **size) for f in faults for k in (f, f"{f}-stays")]
    heavy = {"rows": given.heavy, "trials": HEAVY_TRIALS}
    for number in range(given.speedup):
        cells += [Cell(kind=k, number=number, workers=n, **heavy) for k, n in (("one", 1), ("two", 2))]
    return cells


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", help="WHAT=COUNT with commas: driver, worker, node")
    parser.add_argument("--faults", help="with commas: disk, storage")
    parser.add_argument("--speedup", type=int, help="pairs of one worker and two")
    parser.add_argument("--overhead", type=int, help="trivial trials")
    parser.add_argument("--spaces", type=int, help="fits on nodes in network namespaces, and as many by ray://")
    parser.add_argument("--undisturbed", type=int, default=UNDISTURBED, help="fits that the others are compared with")
    parser.add_argument("--rows", type=int, default=ROWS, help="of a disturbed fit")
    parser.add_argument("--heavy", type=int, default=HEAVY_ROWS, help="rows of a fit for the speedup")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--rerun", action="store_true", help="run cells that are there once more; the latest counts")
    parser.add_argument("--report", action="store_true", help="print the tables and run nothing")
    given = parser.parse_args(arguments)
    whole = all(getattr(given, n) is None for n in ALL)
    for name, value in ALL.items():
        if getattr(given, name) is None:
            setattr(given, name, value if whole else type(value)())
    return given
