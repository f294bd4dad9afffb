"""By what the winner should be chosen: trained networks, and thousands of small validation sets drawn for them.

    python -m benchmarks.choosing --tasks tux,movies,fortunes --seeds 0,1     # trains what is missing, prints the table

Of each task some 50 recipes are trained once on 240 of its 300 rows (heads and fine-tunes on each backbone of
``economy/backbones.py``), and answer all rows that are held out. Then so many of these rows are drawn as validation
rows, and 14 of the recipes; each rule chooses one of these by the validation rows, and gets its score on the others
(of uneven classes balanced accuracy).
Outputs lie in autotransfer's cache folder, so that other rules can be tried on them.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotransfer.finish import answered, winning_network
from autotransfer.schema import Recipe, Training, TrialRecord
from autotransfer.search.candidates import Proposer
from autotransfer.search.jobs import RungJob, SurveyJob
from autotransfer.search.judging import with_loss
from autotransfer.tasks import make_task
from autotransfer.tasks.metrics import EVEN
from autotransfer.train.evaluate import arithmetic
from benchmarks.economy.backbones import POOLS
from benchmarks.economy.tasks import TASKS, home, lay_out
from benchmarks.economy.work import Bench

ROWS, RECIPES, DRAWS, CHOICES = 300, 14, 60, 10
VALIDATION = (60, 200, 600)
WINDOWS = (0.0, 0.5, 1.0, 2.0)
"""Standard errors of the best score within which the loss decides."""
HEADS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("core/depths", {}),
    ("core/probe", {"lr": 3e-3, "weight_decay": 0.1}),
    ("core/probe", {"lr": 1e-3, "weight_decay": 0.01}),
    ("core/ridge", {}),
    ("core/knn", {}),
)
MOVING: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("core/partial", {"freeze_fraction": 0.67, "lr": 1e-3, "lr_ratio": 0.1, "head_start": True}),
    ("core/partial", {"freeze_fraction": 0.67, "lr": 1e-3, "lr_ratio": 0.3, "head_start": True}),
    ("core/full", {"lr": 1e-3, "lr_ratio": 0.1, "layer_decay": 0.75, "head_start": True}),
    ("core/lora", {"freeze_fraction": 0.0, "lr": 3e-3, "lr_ratio": 0.3, "head_start": True}),
    ("core/lora", {"freeze_fraction": 0.5, "lr": 3e-3, "lr_ratio": 0.3, "head_start": False}),
)


def outputs(task: str, seed: int) -> Path:
    """Return the file of all recipes' outputs on the held-out rows of a task, made the first time."""
    file = home() / "choosing" / f"{task}-{seed}.npz"
    if file.exists():
        return file
    layout = lay_out(task, seed, ROWS)
    ids = [f"backbones/{name}" for name in POOLS[TASKS[task].modality]]
    given = {n: str(getattr(layout, n)) for n in ("train", "test", "heldout")} | {"metric": layout.metric, "seed": seed}
    bench, work = Bench.open(given, ids, test="heldout"), tempfile.mkdtemp()
    bench.worker.context = replace(bench.worker.context, work=work, store=f"{work}/store", store_bytes=10**10)
    found: dict[str, Any] = {"metric": np.array(layout.metric)}
    try:
        for number, (recipe, features) in enumerate(_recipes(bench, ids)):
            held = _trained(bench, recipe, features, f"t{number:03d}")
            if held is not None:
                found[str(number)] = held.outputs.float().cpu().numpy()
                found["targets"] = held.targets.cpu().numpy()
                print(task, seed, recipe.backbone, recipe.strategy, flush=True)
    finally:
        shutil.rmtree(work)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **found)
    return file


def _recipes(bench: Bench, ids: list[str]) -> Iterator[tuple[Recipe, str]]:
    """Yield recipes with the file of their backbone's features."""
    space = bench.ready.space
    for id in ids:
        record: Any = bench.worker.run(SurveyJob(backbone=id, rows=bench.ready.prepared.profile.train))
        space.frozen = {**space.frozen, id: record.dtype}
        proposer = Proposer(space, [record], [id], id)
        spec = proposer.specs[id]
        suited = {s.id: s for s in space.suited(spec)}
        for name, values in (*HEADS, *MOVING):
            if name in suited:
                domains = space.domains(suited[name], spec)
                own = {n: v for n, v in values.items() if n in domains}
                yield space.recipe(spec, suited[name], {**proposer._middle(suited[name], spec), **own}), record.features


def _trained(bench: Bench, recipe: Recipe, features: str, id: str) -> Any:
    """Return the held-out rows with the answers of a recipe; None where its training failed."""
    worker, registry = bench.worker, bench.ready.registry
    trial = worker.run(RungJob(id=id, recipe=recipe, final=True, until=None, rung=0, survey=features))
    if not isinstance(trial, TrialRecord) or trial.objective is None:
        return None
    network, _ = winning_network(worker.context, registry, trial)
    with arithmetic(recipe.threads, recipe.dtype, worker.device):
        return answered(worker.context, registry, worker.context.specs[recipe.backbone], network, recipe)


def table(file: Path) -> list[str]:
    """Return a line for each number of validation rows: what each rule's choice scores on the rows that are left."""
    held = np.load(file)
    targets = torch.from_numpy(held["targets"])
    answers = [torch.from_numpy(held[n]) for n in held.files if n not in ("targets", "metric")]
    labels, metric = [int(t) for t in targets], str(held["metric"])
    task = make_task("multiclass" if len(set(labels)) > 2 else "binary", labels, metric)
    right = np.array([(a.argmax(1) == targets).numpy() for a in answers])
    training = Training(balance="logits" if metric in EVEN else "none")  # as the search's first choice has it
    empty = TrialRecord(id="", recipe=Recipe(backbone="", strategy="", training=training), status="done")
    rng, lines = _rng(), []
    for count in (n for n in VALIDATION if 2 * n <= len(labels)):
        found: dict[float, list[float]] = {w: [] for w in WINDOWS}
        most: list[float] = []
        for _ in range(DRAWS):
            rows = rng.permutation(len(labels))
            own, rest = rows[:count], rows[count:]
            losses = np.array(
                [with_loss(empty, task, a[own], targets[own], targets[own]).calibrated_loss for a in answers]
            )
            score, test = right[:, own].mean(1), right[:, rest].mean(1)
            for _ in range(CHOICES):
                some = rng.choice(len(answers), min(RECIPES, len(answers) * 3 // 4), replace=False)
                best = score[some].max()
                error = (best * (1 - best) / count) ** 0.5
                most.append(test[some].max())
                for window in WINDOWS:
                    alike = some[score[some] >= best - window * error - 1e-9]
                    found[window].append(test[alike[losses[alike].argmin()]])
        cells = [f"{np.mean(v):.4f}" for v in found.values()]
        lines.append(f"| {file.stem} | {len(answers)} | {count} | {' | '.join(cells)} | {np.mean(most):.4f} |")
    return lines


def _scores(right: Any, targets: Tensor, rows: Any, metric: str) -> Any:
    """Return the score of each recipe on these rows: accuracy, or the mean over classes where they count alike."""
    if metric not in EVEN:
        return right[:, rows].mean(1)
    classes = [rows[(targets[rows] == c).numpy()] for c in targets[rows].unique()]
    return np.mean([right[:, own].mean(1) for own in classes], axis=0)


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="tux,movies,fortunes")
    parser.add_argument("--seeds", default="0")
    given = parser.parse_args()
    within = " | ".join(f"within {w:g} standard errors" for w in WINDOWS)
    print(f"| task, seed | recipes | validation rows | {within} | best of them |\n{'|---' * (len(WINDOWS) + 4)}|")
    for task in given.tasks.split(","):
        for seed in map(int, given.seeds.split(",")):
            print(*table(outputs(task, seed)), sep="\n", flush=True)


if __name__ == "__main__":
    main()
