"""The queue: which cells are wanted, which are there already, and what runs next.

    python -m benchmarks.economy --tasks tux --seeds 0 --arms a,e,b,c      # some cells of the table
    python -m benchmarks.economy                                           # the whole table; goes on where it stopped
    python -m benchmarks.economy --quick                                   # about ten minutes
    python -m benchmarks.economy --report                                  # the ratios, from what was measured

The arms of one task and seed run one after the other, so that a machine that slows down slows all of them.
A cell of the same settings that is in the results file already is not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import fnmatch
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotransfer.codec import digest
from benchmarks.economy.backbones import NAMES, POOLS, static
from benchmarks.economy.cells import ARMS, RESULTS, Cell, Results
from benchmarks.economy.measure import measure
from benchmarks.economy.report import report
from benchmarks.economy.tasks import TASKS, home, lay_out

QUICK = {"tasks": "digits", "seeds": "0", "arms": "a,e,b,c", "rows": 150, "samples": 8}
QUICK_POOL = "lite0-96,mobilenetv2-96,nsfw-96"
TABLE = (
    ("tux,fashion,digits", "0,1,2", "a,a:again,e,e:static,b,c"),
    ("emoji,fortunes,prompts", "0,1,2", "a,e,e:static"),
)
"""Tasks, seeds and arms of the whole table, beside the expensive arms and the ablations."""
EXTRA = (("tux,digits", "0", "d,f"), ("tux,digits", "0", "a:trials,a:no-*,a:single-score,a:random-order"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, or print the report."""
    given = _parsed(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the arm that runs is ended too
    results = Results(given.results)
    if given.report:
        print(report(results, given.rows))
        return
    cells = _chosen(given)
    if given.list:
        known = results.latest()
        for cell in cells:
            told = _resolved(cell, results)
            state = "waits for arm a" if told is None else "there" if told.key in known else "missing"
            print(f"{cell.task:10} {cell.seed:3d} {cell.arm:16} {state}")
        return
    _run(cells, results, keep=given.keep, again=given.rerun)
    print(report(results, given.rows))


def _run(cells: list[Cell], results: Results, *, keep: bool, again: bool) -> None:
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.task, cell.seed), []).append(cell)
    for (task, seed), members in groups.items():
        group = home() / "cells" / f"{task}-{seed}-{members[0].rows}-{digest(str(results.path.resolve()), 8)}"
        with _held(group) as free:
            if not free:
                print(f"{task} seed {seed}: another run with these results is at it", file=sys.stderr)
                continue
            _group(members, results, group, again=again)
            if not keep:
                shutil.rmtree(group, ignore_errors=True)


@contextlib.contextmanager
def _held(group: Path) -> Iterator[bool]:
    """Hold a scratch folder for this process; give False where another has it."""
    group.parent.mkdir(parents=True, exist_ok=True)
    with group.with_name(f".{group.name}.lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _group(members: list[Cell], results: Results, group: Path, *, again: bool) -> None:
    """Run the cells of one task and seed that are missing, one right after the other."""
    for cell in members:
        told = _resolved(cell, results)
        if told is None:
            print(
                f"{cell.task} seed {cell.seed} {cell.arm}: waits for arm a, which tells the backbone", file=sys.stderr
            )
        elif _same_as_winner(told, cell, results):
            print(
                f"{cell.task} seed {cell.seed} {cell.arm}: the winner's backbone is the static choice", file=sys.stderr
            )
        elif again or told.key not in results.latest():
            _one(told, results, group)


def _one(cell: Cell, results: Results, group: Path) -> None:
    print(f"{cell.task} seed {cell.seed} {cell.arm} {cell.unit_of} ...", file=sys.stderr, flush=True)
    numbers = measure(cell, lay_out(cell.task, cell.seed, cell.rows), group)
    results.add(cell, numbers)
    test = f"test {numbers['test']:.4f}" if "test" in numbers else f"failed: {numbers.get('error', '')}"
    line = f"  {numbers['cpu']:.0f} CPU s, {numbers['wall']:.0f} s, {numbers['peak_mb']} MB, {test}"
    print(line, file=sys.stderr, flush=True)


def _resolved(cell: Cell, results: Results) -> Cell | None:
    """Return the cell with its unit's backbone named; None where arm a has to tell it first."""
    if cell.unit_of or not cell.arm.startswith("e"):
        return cell
    if cell.arm == "e:static":
        return replace(cell, unit_of=static(cell.backbones))
    first: dict[str, Any] | None = results.latest().get(replace(cell, arm="a").key)
    return None if first is None else replace(cell, unit_of=_transferring(first["backbone"], cell.backbones))


def _same_as_winner(told: Cell, cell: Cell, results: Results) -> bool:
    """Return whether arm e has measured this very unit already."""
    if cell.arm != "e:static":
        return False
    winner = _resolved(replace(cell, arm="e"), results)
    return winner is not None and winner.unit_of == told.unit_of


def _transferring(winner: str, ids: Sequence[str]) -> str:
    """Return the winner, or the static choice where a no-transfer baseline has won: it has no fine-tune."""
    return winner if winner in ids else static(ids)


def _chosen(given: argparse.Namespace) -> list[Cell]:
    """Return the wanted cells in the order of running."""
    blocks = [(given.tasks, given.seeds, given.arms)]
    if not (given.tasks or given.seeds or given.arms):
        blocks = [*TABLE, *EXTRA] if given.extra else list(TABLE)
    found: dict[tuple[str, int, str], Cell] = {}
    for tasks, seeds, arms in blocks:
        wanted = _names(arms or "a,e,b,c", ARMS)
        for task in _names(tasks or "tux,fashion,digits", TASKS):
            for seed in [int(s) for s in (seeds or "0,1,2").split(",")]:
                for arm in [a for a in ARMS if a in wanted]:
                    found[task, seed, arm] = Cell(
                        task=task,
                        seed=seed,
                        arm=arm,
                        rows=given.rows,
                        backbones=_pool(given.backbones, task),
                        samples=given.samples,
                        epochs=given.epochs,
                        workers=given.workers,
                        unit_of=f"backbones/{given.unit_of}" if given.unit_of and arm == "e" else "",
                    )
    kept = [c for n, c in found.items() if fnmatch.fnmatchcase(f"{n[0]}/{n[1]}/{n[2]}", given.cells)]
    places = {arm: place for place, arm in enumerate(ARMS)}
    order = {n: place for place, n in enumerate(dict.fromkeys((c.task, c.seed) for c in kept))}
    return sorted(kept, key=lambda c: (order[c.task, c.seed], places[c.arm]))


def _pool(named: str, task: str) -> tuple[str, ...]:
    names = named.split(",") if named else POOLS[TASKS[task].modality]
    return tuple(f"backbones/{n}" for n in names)


def _names(patterns: str, known: Any) -> list[str]:
    found: dict[str, None] = {}
    for pattern in patterns.split(","):
        fits = [n for n in known if fnmatch.fnmatchcase(n, pattern)]
        if not fits:
            sys.exit(f"nothing is called {pattern!r}; known: {', '.join(known)}")
        found |= dict.fromkeys(fits)
    return list(found)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.economy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arms = "; ".join(f"{n}: {text}" for n, text in ARMS.items())
    parser.add_argument("--tasks", default="", help=f"with commas, of {', '.join(TASKS)}")
    parser.add_argument("--seeds", default="", help="with commas; 0,1,2")
    parser.add_argument("--arms", default="", help=f"with commas, patterns allowed. {arms}")
    parser.add_argument("--cells", default="*", help="pattern of TASK/SEED/ARM: only these")
    parser.add_argument("--extra", action="store_true", help="the whole table with arms d and f and the ablations")
    parser.add_argument("--rows", type=int, help="rows that a search is given (300)")
    parser.add_argument("--backbones", help=f"NAME-SIZE with commas, of {', '.join(NAMES)} (a pool a modality)")
    parser.add_argument("--samples", type=int, help="trials of Ray Tune's arms (32)")
    parser.add_argument("--epochs", type=int, default=10, help="of a full training (10)")
    parser.add_argument("--workers", type=int, default=1, help="trials at once, in every arm (1)")
    parser.add_argument("--unit-of", default="", help="NAME-SIZE of the unit, in place of arm a's winner")
    parser.add_argument("--results", type=Path, help=f"file of the results ({RESULTS.name} beside this module)")
    parser.add_argument("--quick", action="store_true", help="one task, one seed, three small backbones, 8 trials")
    parser.add_argument("--list", action="store_true", help="say which of the wanted cells are there")
    parser.add_argument("--report", action="store_true", help="print the ratios and run nothing")
    parser.add_argument("--rerun", action="store_true", help="run cells that are there once more; the latest counts")
    parser.add_argument("--keep", action="store_true", help="keep the folders of models and logs")
    given = parser.parse_args(arguments)
    if given.quick:
        for name, value in QUICK.items():
            setattr(given, name, getattr(given, name) or value)
    given.rows, given.samples = given.rows or 300, given.samples or 32
    given.backbones = given.backbones or (QUICK_POOL if given.quick else "")
    given.results = given.results or (home() / "quick.jsonl" if given.quick else RESULTS)
    return given
