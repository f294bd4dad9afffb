"""What a fit costs as the rows, the backbones or the workers grow, and what memory it takes.

    python -m benchmarks.scale --rows 1000,10000,100000 --budget 120     # cost and peak memory against rows
    python -m benchmarks.scale --backbones 2,4,8,16 --trials 4           # cost against backbones
    python -m benchmarks.scale --workers 1,2 --trials 4                  # wall clock against workers
    python -m benchmarks.scale --report

The rows are synthetic 32 x 32 pictures (noise with a coloured corner), the backbones real packs at 32 to 44 pixels,
so that each costs about the same. CPU seconds and anonymous memory are those of the whole process tree
(``benchmarks/economy/tree.py``). One JSON line a cell is appended; cells that are there are not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from autotransfer.weights import cache_folder
from benchmarks.economy.cells import ROOT, commit, machine
from benchmarks.economy.measure import PLUGIN
from benchmarks.economy.tree import watch
from benchmarks.memory import make_rows

ZOO = tuple(f"{name}-{size}" for size in (32, 36, 40, 44) for name in ("mobilenetv2", "lite0", "nsfw", "lite1"))
"""Sixteen backbones; a cell takes the first so many."""
SETTINGS = ("rows", "backbones", "workers", "budget", "trials", "executor", "seed")


def measure(cell: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of one fit."""
    with tempfile.TemporaryDirectory(prefix="autotransfer-scale-") as place:
        folder = Path(place)
        home, data = folder / "home", folder / "rows"
        home.mkdir()
        data.mkdir()
        (home / "weights").symlink_to(cache_folder().resolve() / "weights", target_is_directory=True)
        make_rows(data, cell["rows"], 32)
        ids = ",".join(f"backbones/{name}" for name in ZOO[: cell["backbones"]])
        command = [sys.executable, "-m", "autotransfer", "fit", str(data), "--plugin", str(PLUGIN), "--json"]
        command += ["--backbones", ids, "--offline", "--out", str(folder / "run")]
        command += ["--max-workers", str(cell["workers"]), "--executor", cell["executor"], "--seed", str(cell["seed"])]
        command += ["--budget", cell["budget"]] if cell["budget"] else ["--trials", str(cell["trials"])]
        roots = [str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")]
        env = {"OMP_NUM_THREADS": "1", "AUTOTRANSFER_HOME": str(home)}
        env["PYTHONPATH"] = os.pathsep.join(r for r in roots if r)
        told, log = folder / "told.json", folder / "log.txt"
        usage = watch(command, log=log, env=env, cwd=ROOT, output=told)
        numbers = {"code": usage.code, "cpu": round(usage.cpu, 1), "wall": round(usage.wall, 1)}
        numbers |= {"peak_mb": usage.peak // 2**20, "largest_mb": usage.largest // 2**20}
        if usage.code:
            return {**numbers, "error": log.read_text(encoding="utf-8", errors="replace")[-1500:]}
        body = json.loads(told.read_text(encoding="utf-8"))
        return {**numbers, **{n: body[n] for n in ("test", "status")}, "ran": body["trials"]}


def finished(path: Path) -> list[dict[str, Any]]:
    """Return the lines of the results, the last one of each cell that went well."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = {_name(line): line for line in map(json.loads, lines) if line["code"] == 0}
    return list(found.values())


def _name(cell: dict[str, Any]) -> str:
    return json.dumps([cell[n] for n in SETTINGS])


def table(lines: list[dict[str, Any]]) -> str:
    """Return what was measured, in Markdown, and each cost and peak over that of the smallest cell of its kind."""
    head = "| rows | backbones | workers | budget | CPU s | wall s | peak MB | trials | CPU, wall, peak / smallest |"
    found = [head, "|" + "---|" * 9]
    for line in sorted(lines, key=lambda one: [one[n] for n in ("rows", "backbones", "workers")]):
        alike = [o for o in lines if _differ(o, line) <= 1 and _limit(o) == _limit(line)]
        least = min(alike, key=lambda one: (one["rows"], one["backbones"], one["workers"]))
        ratios = ", ".join(f"{line[n] / least[n]:.2f}" for n in ("cpu", "wall", "peak_mb"))
        limit = line["budget"] or f"{line['trials']} trials"
        own = f"| {line['rows']} | {line['backbones']} | {line['workers']} | {limit} | {line['cpu']:.0f} |"
        found.append(f"{own} {line['wall']:.0f} | {line['peak_mb']} | {line['ran']} | {ratios} |")
    return "\n".join([*found, "", *sorted({f"Machine: {line['machine']}." for line in lines})])


def _limit(line: dict[str, Any]) -> tuple[Any, Any]:
    return line["budget"], line["trials"]


def _differ(one: dict[str, Any], other: dict[str, Any]) -> int:
    return sum(one[n] != other[n] for n in ("rows", "backbones", "workers"))


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="1000", help="with commas (1000)")
    parser.add_argument("--backbones", default="2", help=f"how many, with commas, up to {len(ZOO)} (2)")
    parser.add_argument("--workers", default="1", help="with commas (1)")
    parser.add_argument("--budget", default="", help="of each fit, such as 120; else --trials")
    parser.add_argument("--trials", type=int, default=4, help="of each fit, where there is no budget (4)")
    parser.add_argument("--executor", default="ray")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("scale.jsonl"))
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    if given.report:
        print(table(finished(given.results)))
        return
    axes = [[int(n) for n in text.split(",")] for text in (given.rows, given.backbones, given.workers)]
    if max(axes[1]) > len(ZOO):
        parser.error(f"there are {len(ZOO)} backbones")
    for rows, backbones, workers in itertools.product(*axes):
        cell = {"rows": rows, "backbones": backbones, "workers": workers, "budget": given.budget}
        cell |= {"trials": 0 if given.budget else given.trials, "executor": given.executor, "seed": given.seed}
        if _name(cell) in {_name(line) for line in finished(given.results)}:
            continue
        numbers = measure(cell)
        with given.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**cell, **numbers, "commit": commit(), "machine": machine()}) + "\n")
        print(json.dumps({**cell, **numbers}), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
