"""One class against all the others at 1 : 50: balanced accuracy with and without what makes classes count alike.

    python benchmarks/data/fetch.py fashion --out data/fashion
    python benchmarks/data/fetch.py glosses --out data/glosses
    python benchmarks/data/fetch.py movies --out data/movies
    python benchmarks/imbalance.py data/fashion:shirt data/glosses/glosses.csv:state data/movies/movies.csv:negative

Of each class a fifth is held out for the test; of the rest, the rare class is cut to one row in fifty. Of these rows a
fifth are for validation. Each recipe is trained with each kind of ``balance`` on the same features, from the same
start; of one training the model is scored as it is and with its shifted logits (``thresholds``), where the validation
rows ask for a shift. One JSON line a model goes to the results file; a cell that is there is not run again. The means
over all lines of the file are printed as a table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autotransfer import weights
from autotransfer.data import Prepared, prepare
from autotransfer.finish import evaluated, winning_network
from autotransfer.pool import at_sizes
from autotransfer.recipes import spec_id
from autotransfer.registry import Registry
from autotransfer.schema import BALANCES, Recipe, TrialRecord
from autotransfer.search.balancing import BALANCE, THRESHOLDS
from autotransfer.search.candidates import Proposer, Space
from autotransfer.search.jobs import Context, RungJob, SurveyJob
from autotransfer.search.trial import Worker
from autotransfer.space import Choice, Domain
from autotransfer.tasks import make_task

RATIO = 50
HELD, VALIDATION = 0.2, 0.2
BACKBONES = {"image": "packs/mobilenetv2", "text": "packs/minilm-l6"}
STRATEGIES = ("core/depths", "core/probe", "core/partial")
CLOSED = ("none", "logits")
"""What a head in closed form knows."""


def skewed(data: str, rare: str, seed: int, registry: Registry) -> Prepared:
    """Return the rows of a data set as two classes, the rare one and the others, 1 : 50 outside the test rows."""
    found = prepare(data, seed=seed, registry=registry)
    rows = np.concatenate([found.train, found.validation, found.test])
    rng = np.random.default_rng(seed)
    rows = rows[rng.permutation(len(rows))]
    is_rare = (found.targets == found.profile.classes.index(rare)).numpy()
    parts: dict[str, list[Any]] = {"train": [], "validation": [], "test": []}
    others, own = rows[~is_rare[rows]], rows[is_rare[rows]]
    for members in (others, own):
        held, rest = np.split(members, [round(HELD * len(members))])
        rest = rest if members is others else rest[: max(5, round((1 - HELD) * len(others) / RATIO))]
        kept, learned = np.split(rest, [round(VALIDATION * len(rest))])
        for name, part in (("train", learned), ("validation", kept), ("test", held)):
            parts[name].append(part)
    joined = {name: rng.permutation(np.concatenate(part)) for name, part in parts.items()}
    found.targets = torch.from_numpy(is_rare.astype(np.int64))
    found.task = make_task("binary", ["another", rare], "balanced_accuracy")
    found.train, found.validation, found.test = (joined[n] for n in ("train", "validation", "test"))
    counts = {"another": int((~is_rare[found.train]).sum()), rare: int(is_rare[found.train].sum())}
    found.profile = replace(
        found.profile,
        task="binary",
        metric=found.task.metric,
        classes=found.task.classes,
        counts=counts,
        imbalance=counts["another"] / counts[rare],
        train=len(found.train),
        validation=len(found.validation),
        test=len(found.test),
        fingerprint=f"{found.profile.fingerprint}-{rare}-{seed}",
    )
    return found


def context_of(prepared: Prepared, size: int, seed: int, registry: Registry, work: Path) -> Context:
    """Return what a worker needs for one backbone of the data's modality."""
    spec = registry.backbone(BACKBONES[prepared.profile.modality])
    if prepared.profile.modality == "image":
        (spec,) = at_sizes([spec], Choice((size,)))
    assert spec.weights is not None
    files = {spec.id: str(weights.fetch(spec.weights, offline=True))}
    store = str(work / "store")
    return Context(
        prepared, registry.manifest(), {spec.id: spec}, files, str(work), seed=seed, store=store, store_bytes=10**10
    )


def recipe_of(context: Context, registry: Registry, record: Any, strategy: str, balance: str, epochs: int) -> Recipe:
    """Return a guaranteed recipe with this balance."""
    (spec,) = context.specs.values()
    given: dict[str, Domain] = {
        n: Choice((v,)) for n, v in ((BALANCE, balance), (THRESHOLDS, True), ("epochs", epochs))
    }
    space = Space(context.prepared.profile, context.specs, registry.strategies(), given, seed=context.seed)
    space.frozen = {spec.id: record.dtype}
    space.moving = {spec.id: "float32"}
    found = Proposer(space, [record], [spec.id], spec.id).guaranteed()
    return next(c.recipe for c in found if c.recipe.strategy == strategy)


def cell(data: str, rare: str, seed: int, given: argparse.Namespace, registry: Registry) -> list[dict[str, Any]]:
    """Return one line for each strategy, balance, and model with and without shifted logits."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        prepared = skewed(data, rare, seed, registry)
        context = context_of(prepared, given.size, seed, registry, Path(folder))
        worker, profile = Worker(context, registry), prepared.profile
        (spec,) = context.specs.values()
        record: Any = worker.run(SurveyJob(backbone=spec.id, rows=profile.train))
        for strategy, balance in itertools.product(given.strategies, BALANCES):
            if strategy == "core/depths" and balance not in CLOSED:
                continue
            recipe = recipe_of(context, registry, record, strategy, balance, given.epochs)
            job = RungJob(
                id=f"{strategy}-{balance}".replace("/", "-"), recipe=recipe, final=True, survey=record.features
            )
            trial = worker.run(job)
            assert isinstance(trial, TrialRecord)
            assert trial.objective is not None, trial.reason
            for shift in (False, True):
                network, _ = winning_network(context, registry, trial if shift else replace(trial, shift=()))
                test = evaluated(context, registry, context.specs[spec_id(recipe)], network, trial.recipe)
                line = {"data": Path(data).stem, "rare": profile.counts[rare], "seed": seed, "strategy": strategy}
                line |= {"balance": balance, "thresholds": shift, "shifted": bool(trial.shift)}
                line |= {"validation": trial.objective, "cpu": trial.cpu_seconds, **test.scores["binary"]}
                lines.append(line)
    return lines


def table(lines: list[dict[str, Any]]) -> list[str]:
    """Return means and standard errors over the seeds, in points."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for one in lines:
        groups.setdefault((one["data"], one["strategy"], one["balance"], str(one["thresholds"])), []).append(one)
    found = [
        "| data | strategy | balance | thresholds | seeds | balanced accuracy | accuracy | macro F1 | CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (data, strategy, balance, thresholds), ones in groups.items():
        told = f"kept {sum(o['shifted'] for o in ones)} times" if thresholds == "True" else "-"
        scores = [_mean([100 * o[n] for o in ones]) for n in ("balanced_accuracy", "accuracy", "f1")]
        cpu = f"{statistics.median(o['cpu'] for o in ones):.1f}"
        found.append(f"| {' | '.join([data, strategy, balance, told, str(len(ones)), *scores, cpu])} |")
    return found


def _mean(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.1f} ± {error:.1f}"


def main() -> None:
    """Measure every cell, and print the table of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="a folder or table, a colon, and the class that is made rare")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--epochs", type=int, default=5, help="of what is fine-tuned; heads see four times as many")
    parser.add_argument("--size", type=int, default=64, help="pixels of an image's side")
    parser.add_argument("--results", type=Path, default=Path("imbalance.jsonl"))
    given, registry = parser.parse_args(), Registry.discover()
    lines = [json.loads(line) for line in given.results.read_text().splitlines()] if given.results.exists() else []
    done = {(line["data"], line["seed"]) for line in lines}
    for seed, named in itertools.product(given.seeds, given.data):
        data, _, rare = named.rpartition(":")
        if (Path(data).stem, seed) not in done:
            new = cell(data, rare, seed, given, registry)
            with given.results.open("a") as file:
                file.write("".join(f"{json.dumps(line)}\n" for line in new))
            lines += new
    print("\n".join(table(lines)))


if __name__ == "__main__":
    main()
