"""Every strategy on the same backbone and rows, and whether the search picks a good one: a resumable queue.

    python -m benchmarks.strategies                                   # the whole table; goes on where it stopped
    python -m benchmarks.strategies --tasks tux,movies --seeds 0 --strategies core/probe,core/lora
    python -m benchmarks.strategies --report

A cell is one ``autotransfer fit`` of one strategy (three trials: its guaranteed or best expected values; without the
baselines, which would compete), or of all of them (``search``: no budget, as a user calls it; ``search of three``: the
same with a probe, partial and full fine-tuning alone), on one backbone of the task's modality, with a cache of its own.
A strategy that does not apply has an empty cell.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotransfer.codec import digest
from autotransfer.registry import Registry
from benchmarks.economy.cells import ROOT, Results
from benchmarks.economy.measure import PLUGIN, environment
from benchmarks.economy.tasks import TASKS, Layout, home, lay_out
from benchmarks.economy.tree import watch

RESULTS = Path(__file__).with_name("strategies.jsonl")
BACKBONES = {"image": "backbones/lite0-96", "text": "backbones/minilm-32", "audio": "backbones/dvector-1"}
"""By modality: small inputs, so that an epoch is cheap."""
ALL = ("tux", "fashion", "digits", "movies", "fortunes", "glosses", "prompts", "names")
LARGE = ("fashion-large", "glosses-large")
SIZES = {200: ALL, 1000: ("fashion", "digits", "movies", "fortunes", "glosses"), 5000: LARGE}
"""Rows, and the tasks that have so many and some to hold out."""
SEARCH, THREE = "search", "search of three"
SEARCHES = {SEARCH: "", THREE: "core/probe,core/partial,core/full"}
"""Strategies of a search; empty: all."""
SIX = ("core/surgical", "core/partial", "core/averaged", "core/depths", "core/lora", "core/lpft")
"""The best at 200 rows, by their mean rank."""
FEWER = {1000: SIX, 5000: ("core/probe", "core/partial", "core/full")}
"""Rows at which not all strategies are run."""
TRIALS = 3


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement."""

    task: str
    rows: int
    seed: int
    strategy: str
    backbone: str
    trials: int | None

    @property
    def key(self) -> str:
        """A hash of these settings."""
        return digest(json.dumps(dataclasses.asdict(self), sort_keys=True))


def measure(cell: Cell, layout: Layout) -> dict[str, Any]:
    """Return the numbers of a cell; the held-out rows are those of the fit's own one score."""
    scratch = home() / "strategies" / f"{cell.key}-{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    command = [sys.executable, "-m", "autotransfer", "fit", str(layout.train), "--test", str(layout.heldout)]
    command += ["--metric", layout.metric, "--plugin", str(PLUGIN), "--backbones", cell.backbone, "--offline", "--json"]
    command += ["--executor", "serial", "--seed", str(cell.seed), "--out", str(scratch / "run")]
    env = environment(scratch / "home")
    if cell.strategy in SEARCHES:
        command += ["--strategies", SEARCHES[cell.strategy]] if SEARCHES[cell.strategy] else []
    else:
        env["AUTOTRANSFER_DISABLE"] = ",".join(filter(None, [os.environ.get("AUTOTRANSFER_DISABLE"), "baselines"]))
        command += ["--strategies", cell.strategy, "--trials", str(cell.trials)]
    told = scratch / "told.json"
    usage = watch(command, log=scratch / "log.txt", env=env, cwd=ROOT, output=told)
    numbers: dict[str, Any] = {"code": usage.code, "cpu": round(usage.cpu, 2), "peak_mb": usage.peak // 2**20}
    if usage.code:
        numbers["error"] = (scratch / "log.txt").read_text(encoding="utf-8", errors="replace")[-600:]
    else:
        found = json.loads(told.read_text(encoding="utf-8"))
        names = ("test", "test_interval", "validation", "baseline")
        numbers |= {n: found[n] for n in names} | {"winner": found["strategy"], "metric": layout.metric}
        numbers["counted"] = _counted(scratch / "run" / "trials.jsonl")
    shutil.rmtree(scratch, ignore_errors=True)
    return numbers


def _counted(ledger: Path) -> float:
    """Return the seconds of the trials alone, baselines and the survey left out."""
    lines = [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()]
    trials = [line["record"] for line in lines if line["kind"] == "trial"]
    return round(sum(float(r["cpu_seconds"]) for r in trials if not r["id"].startswith("b")), 2)


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    """Yield the wanted cells: one task, size and seed after the other, all strategies of it in one go."""
    strategies = [s.id for s in Registry.discover([str(PLUGIN)]).strategies() if not s.baseline]
    for seed in map(int, _listed(given.seeds)):
        for rows in map(int, _listed(given.rows)):
            wanted = _listed(given.strategies) or [*FEWER.get(rows, strategies), *SEARCHES]
            for task in _listed(given.tasks) or SIZES[rows]:
                for name in wanted:
                    trials = None if name in SEARCHES else TRIALS
                    backbone = BACKBONES[TASKS[task].modality]
                    yield Cell(task=task, rows=rows, seed=seed, strategy=name, backbone=backbone, trials=trials)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, or print the table."""
    given = _parsed(arguments)
    results = Results(given.results)
    for cell in () if given.report else cells(given):
        if cell.key in {line["key"] for line in results.lines()}:
            continue  # a strategy that does not apply fails once, and that is its result
        print(f"{cell.task} {cell.rows} seed {cell.seed} {cell.strategy} ...", file=sys.stderr, end=" ", flush=True)
        numbers = measure(cell, lay_out(cell.task, cell.seed, cell.rows))
        results.add(cell, numbers)
        print(numbers.get("test", "failed"), f"{numbers['cpu']} CPU s", file=sys.stderr, flush=True)
    print(report(results))


def report(results: Results) -> str:
    """Return a table for each number of rows, in Markdown: medians over seeds; cells that are missing are empty."""
    lines = list(results.latest().values())
    parts = []
    for rows in sorted({line["rows"] for line in lines}):
        found = [line for line in lines if line["rows"] == rows]
        tasks = [t for t in (*ALL, *LARGE) if any(line["task"] == t for line in found)]
        names = sorted({line["strategy"] for line in found}, key=lambda n: (n in SEARCHES, n))
        parts += [f"| {rows} rows | {' | '.join(tasks)} | CPU s of its trials |", "|---" * (len(tasks) + 2) + "|"]
        for name in names:
            own = [line for line in found if line["strategy"] == name]
            shown = [_score([line for line in own if line["task"] == t]) for t in tasks]
            parts.append(f"| {name} | {' | '.join(shown)} | {statistics.median(x['counted'] for x in own):.1f} |")
        parts += ["", _picked(found), ""]
    return "\n".join(parts)


def _score(lines: Sequence[Mapping[str, Any]]) -> str:
    if not lines:
        return ""
    half = statistics.median((x["test_interval"][1] - x["test_interval"][0]) / 2 for x in lines)
    return f"{statistics.median(x['test'] for x in lines):.3f} +- {half:.3f} ({len(lines)})"


def _picked(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return what a search's choice is worth beside the strategies one by one, in sentences."""
    groups: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["task"], line["seed"]), {})[line["strategy"]] = line
    searched = [g for g in groups.values() if SEARCH in g and len(g.keys() - SEARCHES.keys()) > 1]
    if not searched:
        return "The search was not run beside the strategies yet."
    apart = [{n: x for n, x in g.items() if n not in SEARCHES} for g in searched]
    best = [max(own.values(), key=lambda x: float(x["test"])) for own in apart]
    errors = [(x["test_interval"][1] - x["test_interval"][0]) / (2 * 1.96) for x in best]
    near = sum(g[SEARCH]["test"] >= x["test"] - e for g, x, e in zip(searched, best, errors, strict=True))
    cost = statistics.median(
        g[SEARCH]["cpu"] / sum(x["cpu"] for x in own.values()) for g, own in zip(searched, apart, strict=True)
    )
    everywhere = set.intersection(*(set(own) for own in apart))
    fixed = max(everywhere, key=lambda n: _mean(own[n] for own in apart))
    means = {
        "the search": _mean(g[SEARCH] for g in searched),
        "the strategy with the highest validation score": _mean(
            max(own.values(), key=lambda x: float(x["validation"])) for own in apart
        ),
        f"{fixed}, the best one strategy for all of them": _mean(own[fixed] for own in apart),
        "the best of each, which only hindsight knows": _mean(best),
    }
    told = [
        "The search's model is within one standard error of the row's best strategy, on the held-out rows, in "
        f"{near} of {len(searched)} cells; it costs {cost:.2f} of all strategies one by one.",
        f"Mean test score of these cells: {', '.join(f'{n} {v:.3f}' for n, v in means.items())}.",
    ]
    both = [g for g in groups.values() if SEARCH in g and THREE in g]
    if both:
        ratio = statistics.median(g[SEARCH]["cpu"] / g[THREE]["cpu"] for g in both)
        more = 100 * (_mean(g[SEARCH] for g in both) - _mean(g[THREE] for g in both))
        told.append(f"Over a search of three strategies it costs {ratio:.2f} and scores {more:+.1f} points.")
    return " ".join(told)


def _mean(lines: Iterable[Mapping[str, Any]]) -> float:
    return statistics.mean(float(x["test"]) for x in lines)


def _listed(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="", help=f"of {', '.join(TASKS)}; all that have the rows")
    parser.add_argument("--rows", default="200", help=f"of {', '.join(map(str, SIZES))}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--strategies", default="", help=f"ids, and for all at once {SEARCH}, or {THREE}")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="only print the table")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
