"""Which epoch of a training is kept: rules by the validation rows, scored on rows that no training saw.

    python -m benchmarks.epochs --tasks tux,fashion,digits,movies,fortunes,glosses --rows 200 --seeds 0,1

Three fine-tunes of one backbone a task are trained for their ten epochs; after each the validation rows and up to 500
of the held-out rows are answered. One JSON line a training goes to the results file; a training that is there is not
run again. The table tells each rule's mean held-out score over all trainings, and its gain over the first epoch of the
highest score, with the standard error over trainings.
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

import numpy as np

from autotransfer.codec import Scalar, digest
from autotransfer.schema import Recipe, TrialRecord
from autotransfer.search.candidates import HEAD_START, Proposer
from autotransfer.search.jobs import SurveyJob
from autotransfer.search.judging import with_loss
from autotransfer.tasks.judged import scores_of
from autotransfer.train.evaluate import arithmetic, predict
from benchmarks.economy.cells import Results
from benchmarks.economy.tasks import TASKS, lay_out
from benchmarks.economy.work import Bench
from benchmarks.strategies import BACKBONES

RESULTS, HELD = Path(__file__).with_name("epochs.jsonl"), 500
RECIPES: Mapping[str, tuple[str, Mapping[str, Scalar]]] = {
    "full": ("core/full", {"lr": 1e-3, "lr_ratio": 0.1, "layer_decay": 0.75, HEAD_START: True}),
    "top third": ("core/partial", {"freeze_fraction": 0.67, "lr": 1e-3, "lr_ratio": 0.1, HEAD_START: True}),
    "high rate": ("core/partial", {"freeze_fraction": 0.67, "lr": 3e-3, "lr_ratio": 0.3, HEAD_START: False}),
}
WITHIN = (0.25, 0.5, 1.0)


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
    worker, empty = bench.worker, TrialRecord(id="", recipe=recipe, status="done")
    held = worker.context.prepared.test
    order = np.random.default_rng(0).permutation(len(held))[:HELD]
    rows, task = worker.prepared(held[np.sort(order)], worker.context.specs[recipe.backbone]), worker.task
    found: dict[str, list[float]] = {"validation": [], "loss": [], "test": []}
    with arithmetic(recipe.threads, recipe.dtype, worker.device):
        trainer = worker.trainer(recipe, worker.context.path(features))
        assert trainer.job.validation is not None
        targets = (trainer.job.validation.targets, trainer.job.train.targets)
        epochs = int(sum(p.epochs for p in trainer.job.phases))
        for epoch in range(1, epochs + 1):
            trainer.run(None if epoch == epochs else epoch)
            found["validation"].append(trainer.curve[-1].objective)
            found["loss"].append(with_loss(empty, task, trainer.outputs(), *targets).calibrated_loss or 0.0)
            answers = predict(trainer.job.network, rows, lambda: None)
            found["test"].append(scores_of(task, answers, rows.targets)[task.name][task.metric])
    return {"code": 0, "few": len(targets[0]), **{n: [round(v, 5) for v in own] for n, own in found.items()}}


def kept(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the held-out score of the epoch that each rule keeps."""
    score, loss, test = (np.array(line[n]) for n in ("validation", "loss", "test"))
    best = score.max()
    error = float(np.sqrt(max(0.0, best * (1 - best)) / line["few"]))
    near = {k: np.flatnonzero(score >= best - k * error - 1e-9) for k in (0.0, *WITHIN)}
    rules = {"the first of the highest score": near[0.0][0], "the last of the highest score": near[0.0][-1]}
    rules |= {f"the last within {k:g} standard errors": near[k][-1] for k in WITHIN}
    rules |= {f"the least loss within {k:g} standard errors": near[k][loss[near[k]].argmin()] for k in WITHIN}
    rules |= {"the last": len(test) - 1, "the least loss": loss.argmin(), "the best, by hindsight": test.argmax()}
    return {name: float(test[at]) for name, at in rules.items()}


def table(results: Results) -> str:
    """Return the rules' means in Markdown."""
    lines = list(results.latest().values())
    parts = []
    for rows in sorted({line["rows"] for line in lines}):
        own = [kept(line) for line in lines if line["rows"] == rows]
        parts += [f"| {rows} rows, {len(own)} trainings | held-out score | gain, points |", "|---|---|---|"]
        for name in own[0]:
            gains = [100 * (o[name] - o["the first of the highest score"]) for o in own]
            error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
            mean = statistics.mean(o[name] for o in own)
            parts.append(f"| {name} | {mean:.4f} | {statistics.mean(gains):+.2f} +- {error:.2f} |")
        parts.append("")
    return "\n".join(parts)


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
