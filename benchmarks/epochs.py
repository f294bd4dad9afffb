"""Which epoch of a training is kept, and at which learning rate: fine-tunes scored on rows that no training saw.

    python -m benchmarks.epochs --tasks tux,fashion,digits,movies,fortunes,glosses --rows 200,1000 --seeds 0,1

Fine-tunes of one backbone a task are trained as a search trains them, rung by rung, each with its own schedule; after
each epoch the validation rows and up to 600 of the held-out rows are answered. One JSON line a training goes to the
results file; a training that is there is not run again. The tables tell each rule's mean held-out score over all
trainings, and its gain over the last of the highest scores, with the standard error over trainings; and the held-out
score by the backbone's learning rate, where all stages are trained at one.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from autotransfer.codec import Scalar, digest
from autotransfer.schema import Recipe
from autotransfer.search.candidates import HEAD_START, Proposer
from autotransfer.search.jobs import SurveyJob
from autotransfer.search.prices import RUNGS
from autotransfer.tasks.judged import scores_of
from autotransfer.train.evaluate import arithmetic, predict
from benchmarks.economy.cells import Results
from benchmarks.economy.tasks import TASKS, lay_out
from benchmarks.economy.work import Bench
from benchmarks.strategies import BACKBONES

RESULTS, HELD = Path(__file__).with_name("epochs.jsonl"), 600
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
RECIPES: Mapping[str, tuple[str, Mapping[str, Scalar]]] = {
    "full": ("core/full", {"lr": 1e-3, "lr_ratio": 0.1, "layer_decay": 0.75, HEAD_START: True}),
    "full, high rate": ("core/full", {"lr": 3e-3, "lr_ratio": 0.3, "layer_decay": 0.75, HEAD_START: True}),
    "top third": ("core/partial", {"freeze_fraction": 0.67, "lr": 1e-3, "lr_ratio": 0.1, HEAD_START: True}),
    "top third, high rate": ("core/partial", {"freeze_fraction": 0.67, "lr": 3e-3, "lr_ratio": 0.3, HEAD_START: False}),
    "top three quarters": ("core/partial", {"freeze_fraction": 0.25, "lr": 3e-3, "lr_ratio": 0.3, HEAD_START: True}),
    "averaged": ("core/averaged", {"lr": 1e-3, "lr_ratio": 0.3, HEAD_START: True}),
    **{
        f"rate {rate:g}": ("core/full", {"lr": 3e-3, "lr_ratio": rate / 3e-3, "layer_decay": 1.0, HEAD_START: True})
        for rate in RATES
    },
}
WITHIN = (0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training."""

    task: str
    rows: int
    seed: int
    recipe: str

    @property
    def key(self) -> str:
        """A hash of these settings."""
        return digest(json.dumps(dataclasses.asdict(self), sort_keys=True))


def measure(task: str, rows: int, seed: int, wanted: list[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Yield each wanted cell with its scores and losses, epoch by epoch."""
    layout, id = lay_out(task, seed, rows), BACKBONES[TASKS[task].modality]
    given = {"train": str(layout.train), "heldout": str(layout.heldout), "metric": layout.metric, "seed": seed}
    bench = Bench.open(given, [id], test="heldout")
    with tempfile.TemporaryDirectory() as work:
        bench.worker.context = replace(bench.worker.context, work=work, store=f"{work}/store", store_bytes=10**10)
        survey: Any = bench.worker.run(SurveyJob(backbone=id, rows=bench.ready.prepared.profile.train))
        for cell in wanted:
            yield cell, _trained(bench, _recipe(bench, survey, cell.recipe), survey.features)


def _recipe(bench: Bench, survey: Any, name: str) -> Recipe:
    id, space = survey.backbone, bench.ready.space
    space.frozen = {id: survey.dtype}
    proposer = Proposer(space, [survey], [id], id)
    strategy, values = RECIPES[name]
    spec = proposer.specs[id]
    (own,) = [s for s in space.suited(spec) if s.id == strategy]
    domains = space.domains(own, spec)
    made = {**proposer._middle(own, spec), **{n: v for n, v in values.items() if n in domains}}
    return bench.worker.measured(space.recipe(spec, own, made))


def _trained(bench: Bench, recipe: Recipe, features: str) -> dict[str, Any]:
    worker = bench.worker
    held = worker.context.prepared.test
    order = np.random.default_rng(0).permutation(len(held))[:HELD]
    rows, task = worker.prepared(held[np.sort(order)], worker.context.specs[recipe.backbone]), worker.task
    found: list[float] = []
    with arithmetic(recipe.threads, recipe.dtype, worker.device):
        trainer = worker.trainer(recipe, worker.context.path(features))
        own = trainer.evaluate

        def evaluate(*, annealed: bool = True) -> None:
            own(annealed=annealed)
            now = trainer._trained_now() if trainer.average else {}
            trainer.load(trainer.average)
            answers = predict(trainer.job.network, rows, lambda: None)
            trainer.load(now)
            found.append(scores_of(task, answers, rows.targets)[task.name][task.metric])

        with patch.object(trainer, "evaluate", evaluate):
            for until in (*RUNGS[:-1], None):
                trainer.run(until)
    assert trainer.job.validation is not None
    scores = {"validation": [p.objective for p in trainer.curve], "test": found}
    rounded = {n: [round(v, 4) for v in scores[n]] for n in scores}
    return {"code": 0, "few": len(trainer.job.validation), **rounded}


def kept(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the held-out score of the epoch that each rule keeps."""
    score, test = np.array(line["validation"]), line["test"]
    best = score.max()
    error = float(np.sqrt(max(0.0, best * (1 - best)) / line["few"]))
    near = {k: np.flatnonzero(score >= best - k * error - 1e-9) for k in (0.0, *WITHIN)}
    ends = np.array(RUNGS) - 1
    rules = {"the last of the highest score": near[0.0][-1], "the first of the highest score": near[0.0][0]}
    rules |= {f"the last within {k:g} standard errors": near[k][-1] for k in WITHIN}
    rules |= {
        "the best end of a rung, the later of equal ones": ends[np.flatnonzero(score[ends] == score[ends].max())[-1]],
        "the last": len(test) - 1,
        "the best, by hindsight": int(np.argmax(test)),
    }
    return {name: float(test[at]) for name, at in rules.items()}


def table(results: Results) -> str:
    """Return the rules' means, and the scores by learning rate, in Markdown."""
    lines = [x for x in results.latest().values() if x["recipe"] not in _rates()[3:]]  # far too high is no training
    parts = []
    for rows in sorted({line["rows"] for line in lines}):
        own = [kept(line) for line in lines if line["rows"] == rows]
        parts += [f"| {rows} rows, {len(own)} trainings | held-out score | gain, points |", "|---|---|---|"]
        for name in own[0]:
            gains = [100 * (o[name] - o["the last of the highest score"]) for o in own]
            error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
            mean = statistics.mean(o[name] for o in own)
            parts.append(f"| {name} | {mean:.4f} | {statistics.mean(gains):+.2f} +- {error:.2f} |")
        parts.append("")
    return "\n".join([*parts, *_by_rate(list(results.latest().values()))])


def _rates() -> list[str]:
    return [f"rate {rate:g}" for rate in RATES]


def _by_rate(lines: list[dict[str, Any]]) -> list[str]:
    """Return a table of cells and rates: after two epochs, and the best end of a rung."""
    found: dict[tuple[str, int, int], dict[str, Any]] = {}
    for line in lines:
        if line["recipe"] in _rates():
            found.setdefault((line["task"], line["rows"], line["seed"]), {})[line["recipe"]] = line
    if not found:
        return []
    parts = [f"| task, rows, seed | {' | '.join(_rates())} |", "|---" * (len(RATES) + 1) + "|"]
    for (task, rows, seed), own in sorted(found.items()):
        shown = [
            f"{own[r]['test'][RUNGS[0] - 1]:.3f}, {kept(own[r])['the best end of a rung, the later of equal ones']:.3f}"
            if r in own
            else ""
            for r in _rates()
        ]
        parts.append(f"| {task}, {rows}, {seed} | {' | '.join(shown)} |")
    return parts


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="tux,fashion,digits,movies,fortunes,glosses")
    parser.add_argument("--rows", default="200")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    results = Results(given.results)
    known = {line["key"] for line in results.lines()}
    for rows, seed, task in itertools.product(*(x.split(",") for x in (given.rows, given.seeds, given.tasks))):
        cells = [Cell(task=task, rows=int(rows), seed=int(seed), recipe=name) for name in RECIPES]
        for cell, numbers in measure(task, int(rows), int(seed), [c for c in cells if c.key not in known]):
            results.add(cell, numbers)
    print(table(results))


if __name__ == "__main__":
    main()
