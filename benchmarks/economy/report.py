"""The table of ratios: each taken within a cell of one task and seed, then medians over tasks."""

from __future__ import annotations

import functools
import random
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.economy.backbones import static
from benchmarks.economy.cells import ABLATIONS, WHOLE, Results
from benchmarks.economy.tasks import TASKS

Lines = Mapping[str, dict[str, Any]]
"""The latest line of each arm, of one task and seed."""
SHARE = 0.99
"""Of plain ASHA's final validation score, that is to be reached."""
NEVER = float("inf")


@dataclass(frozen=True)
class Ratio:
    """A row of the table."""

    title: str
    target: str
    of: Callable[[Lines], float | None]
    mean: bool = False
    """The mean and the worst cell count, not the median."""


def unit(arms: Lines) -> float | None:
    """Return the unit's CPU seconds: of the winner's backbone, or of the static choice where that is dearer.

    None as long as one of the two has not been run.
    """
    if "e" not in arms:
        return None
    own: float = arms["e"]["cpu"]
    if arms["e"]["unit_of"] == static(arms["e"]["backbones"]):
        return own
    return max(own, arms["e:static"]["cpu"]) if "e:static" in arms else None


def _of_unit(name: str, winner: bool = False) -> Callable[[Lines], float | None]:
    def ratio(arms: Lines) -> float | None:
        one = (arms["e"]["cpu"] if "e" in arms else None) if winner else unit(arms)
        top = arms.get("a", {}).get(name)
        return None if one is None or top is None else top / one

    return ratio


def _time_to(rival: str) -> Callable[[Lines], float | None]:
    """Return our CPU seconds to 99 % of plain ASHA's final score over the rival's own."""

    def ratio(arms: Lines) -> float | None:
        if not {"a", "b", rival} <= set(arms):
            return None
        goal = SHARE * arms["b"]["validation"]
        ours, theirs = _reached(arms["a"], goal), _reached(arms[rival], goal)
        if theirs == NEVER:  # with reused actors other trials may be stopped: its whole cost is less than it would need
            theirs = arms[rival]["cpu"]
        return ours / theirs

    return ratio


def _reached(line: Mapping[str, Any], goal: float) -> float:
    return next((cpu for cpu, _, score in line["path"] if score >= goal), NEVER)


def _regret(name: str) -> Callable[[Lines], float | None]:
    def points(arms: Lines) -> float | None:
        return 100 * (arms["f"][name] - arms["a"]["test"]) if {"a", "f"} <= set(arms) else None

    return points


@functools.cache
def _replayed(points: tuple[tuple[float, float, float]], samples: int) -> tuple[float, float]:
    """Return mean CPU seconds and test score of a random search over the grid's own points, best by validation.

    Args:
        points: CPU seconds, validation and test score of each point that arm f trained.
        samples: how many of them a search draws, without replacement; the mean is over 2,000 searches.
    """
    draws, costs, scores = random.Random(0), [], []
    for _ in range(2000):
        drawn = draws.sample(points, min(samples, len(points)))
        costs.append(sum(cpu for cpu, _, _ in drawn))
        scores.append(max(drawn, key=lambda p: p[1])[2])
    return statistics.fmean(costs), statistics.fmean(scores)


def _replay(of: Callable[[dict[str, Any], float, float], float]) -> Callable[[Lines], float | None]:
    def ratio(arms: Lines) -> float | None:
        if not {"a", "f"} <= set(arms):
            return None
        points = tuple((p["cpu"], p["validation"], p["test"]) for p in arms["f"]["points"])
        return of(arms["a"], *_replayed(points, arms["f"]["samples"]))

    return ratio


def _share(arm: str, key: str, of: str, of_key: str) -> Callable[[Lines], float | None]:
    return lambda arms: arms[arm][key] / arms[of][of_key] if {arm, of} <= set(arms) else None


def _gain(rival: str, ours: str = "a") -> Callable[[Lines], float | None]:
    return lambda arms: 100 * (arms[ours]["test"] - arms[rival]["test"]) if {ours, rival} <= set(arms) else None


RATIOS = (
    Ratio("survey / unit (with the start of Python and Ray)", "<= 0.40", _of_unit("survey_cpu")),
    Ratio("survey / unit (seconds of the passes alone)", "<= 0.40", _of_unit("survey_seconds")),
    Ratio("whole search / unit", "<= 2.0", _of_unit("cpu")),
    Ratio("whole search / one fine-tune of the winner itself", "", _of_unit("cpu", winner=True)),
    Ratio("time to 99 % of ASHA / ASHA's own", "<= 0.10", _time_to("b")),
    Ratio("time to 99 % of ASHA / ASHA with reused actors", "<= 0.20", _time_to("c")),
    Ratio("regret to the grid's best test score, points", "<= 0.5 (1.5)", _regret("oracle"), mean=True),
    Ratio("regret to the grid's choice by validation, points", "", _regret("test"), mean=True),
    Ratio("overhead: (wall x workers - compute) / compute", "<= 0.10", lambda arms: arms.get("a", {}).get("overhead")),
    Ratio("second run, new lr_ratio grid / first run", "<= 0.15", _share("a:again", "cpu", "a", "cpu")),
    Ratio("a usable model after / whole search", "<= 0.25", _share("a", "first_model_cpu", "a", "cpu")),
    Ratio("test score over ASHA's, points", "", _gain("b"), mean=True),
    Ratio("test score over random search's, points", "", _gain("d"), mean=True),
    Ratio("whole search / ASHA's", "", _share("a", "cpu", "b", "cpu")),
    Ratio("whole search / random search's", "", _share("a", "cpu", "d", "cpu")),
    Ratio(
        "test score over random search's, points (*replay* of the grid)",
        "",
        _replay(lambda a, _, test: 100 * (a["test"] - test)),
        mean=True,
    ),
    Ratio("whole search / random search's (*replay* of the grid)", "", _replay(lambda a, cpu, _: a["cpu"] / cpu)),
    *(Ratio(f"cost of {arm} / cost of {WHOLE}", "", _share(arm, "cpu", WHOLE, "cpu")) for arm in ABLATIONS),
    *(Ratio(f"test score of {WHOLE} over {arm}, points", "", _gain(arm, WHOLE), mean=True) for arm in ABLATIONS),
)


def report(results: Results, rows: int) -> str:
    """Return the table of ratios, then what was measured, in Markdown; cells that are missing are empty."""
    groups, lines = _groups(results, rows), list[str]()
    for modality in dict.fromkeys(TASKS[task].modality for task, _ in groups):
        alike = {name: arms for name, arms in groups.items() if TASKS[name[0]].modality == modality}
        head = f"| {modality}, {rows} rows: ratio | target | median over tasks | least to most | cells |"
        lines += [head, "|---|---|---|---|---|", *(_row(ratio, alike) for ratio in RATIOS), ""]
    lines += ["| task | seed | arm | CPU s | wall s | peak MB | validation | test | winner | commit |"]
    lines += ["|---|---|---|---|---|---|---|---|---|---|"]
    for (task, seed), arms in sorted(groups.items()):
        lines += [f"| {task} | {seed} | {arm} | {_numbers(line)} |" for arm, line in arms.items()]
    machines = sorted({line["machine"] for arms in groups.values() for line in arms.values()})
    return "\n".join([*lines, "", *(f"Machine: {m}." for m in machines)])


def _groups(results: Results, rows: int) -> dict[tuple[str, int], dict[str, dict[str, Any]]]:
    """Return the latest good line of each arm by task and seed; those of other pools or workers are kept apart.

    Raises:
        ValueError: the file holds cells of several settings with these rows, which no one table can show.
    """
    fine = [line for line in results.latest().values() if line["rows"] == rows]
    kinds = {(line["task"], tuple(line["backbones"]), line["epochs"], line["workers"]) for line in fine}
    if len(kinds) > len({line["task"] for line in fine}):
        raise ValueError(f"{results.path} holds cells of several pools, epochs or workers: use a file for each")
    groups: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for line in fine:
        groups.setdefault((line["task"], line["seed"]), {})[line["arm"]] = line
    return groups


def _row(ratio: Ratio, groups: Mapping[tuple[str, int], Lines]) -> str:
    by_task: dict[str, list[float]] = {}
    for (task, _), arms in groups.items():
        value = ratio.of(arms)
        if value is not None:
            by_task.setdefault(task, []).append(value)
    every = [v for values in by_task.values() for v in values]
    if not every:
        return f"| {ratio.title} | {ratio.target} | | | |"
    if ratio.mean:
        middle = f"{statistics.fmean(every):.2f} (worst {_worst(ratio, every):.2f})"
    else:
        middle = _shown(statistics.median(statistics.median(values) for values in by_task.values()))
    cells = f"{len(every)} of {len(by_task)} tasks"
    return f"| {ratio.title} | {ratio.target} | {middle} | {_shown(min(every))} to {_shown(max(every))} | {cells} |"


def _worst(ratio: Ratio, every: list[float]) -> float:
    return max(every) if ratio.title.startswith("regret") else min(every)


def _shown(value: float) -> str:
    return "never" if value == NEVER else f"{value:.3g}"


def _numbers(line: Mapping[str, Any]) -> str:
    winner = f"{line['backbone'].removeprefix('backbones/')} {line['strategy']}"
    shown = (f"{line['cpu']:.0f}", f"{line['wall']:.0f}", line["peak_mb"], f"{line['validation']:.3f}")
    return " | ".join(map(str, (*shown, f"{line['test']:.4f}", winner, line["commit"])))
