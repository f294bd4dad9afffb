"""The last rung of a fine-tune with augmented rows against the plain one, both from the same checkpoint.

    python benchmarks/data/fetch.py tux --out data/tux
    python benchmarks/finals.py data/tux --rows 300 500 --seeds 0 1 2 3

A training is run to the end of its fifth epoch; from there it goes on to the tenth as it is, and with each kind of
augmentation that the data have, fixed views (``views``) where stages are frozen. Told are the
validation objective (best of all epochs, as the search compares trials), the score on the rows that are left, and the
CPU-seconds of the last rung. One JSON line a training goes to the results file; a cell that is there is not run again.
The means over all lines of the file are printed as a table.
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

from autotransfer import weights
from autotransfer.codec import Scalar
from autotransfer.data import prepare
from autotransfer.data.rows import augmentations
from autotransfer.finish import evaluated, winning_network
from autotransfer.pool import at_sizes
from autotransfer.recipes import AUGMENT, AUGMENT_FROM, spec_id
from autotransfer.registry import Registry
from autotransfer.schema import Recipe, TrialRecord
from autotransfer.search.candidates import Proposer, Space
from autotransfer.search.jobs import Context, RungJob, SurveyJob
from autotransfer.search.prices import RUNGS
from autotransfer.search.trial import Worker
from autotransfer.space import Choice
from autotransfer.spec import has_size, sized_id

STRATEGIES = ("core/full", "core/partial")


def context_of(data: str, backbone: str, size: int, rows: int, seed: int, registry: Registry, work: Path) -> Context:
    """Return what a worker needs for so many training rows, a fourth as many validation rows, and the rest as test."""
    prepared = prepare(data, seed=seed, registry=registry)
    order = np.concatenate([prepared.train, prepared.validation, prepared.test])
    order = order[np.random.default_rng(seed).permutation(len(order))]
    held = rows // 4
    prepared.train, prepared.validation, prepared.test = np.split(order, [rows, rows + held])
    name, test = f"{prepared.profile.fingerprint}-{rows}-{seed}", len(prepared.test)
    prepared.profile = replace(prepared.profile, train=rows, validation=held, test=test, fingerprint=name)
    spec = registry.backbone(backbone)
    if has_size(spec):
        (spec,) = at_sizes([spec], Choice((size,)))
    assert spec.weights is not None
    files = {spec.id: str(weights.fetch(spec.weights))}
    manifest, store = registry.manifest(), str(work / "store")
    return Context(prepared, manifest, {spec.id: spec}, files, str(work), seed=seed, store=store, store_bytes=10**10)


def recipes(context: Context, registry: Registry, worker: Worker) -> tuple[list[Recipe], str]:
    """Return the guaranteed recipes that move the backbone, and the file of its surveyed features."""
    (spec,) = context.specs.values()
    profile = context.prepared.profile
    record: Any = worker.run(SurveyJob(backbone=spec.id, rows=profile.train))
    space = Space(profile, context.specs, registry.strategies(), seed=context.seed)
    space.frozen = {spec.id: record.dtype}
    found = Proposer(space, [record], [spec.id], spec.id).guaranteed()
    return [c.recipe for c in found if c.recipe.strategy in STRATEGIES], record.features


def last_rungs(worker: Worker, recipe: Recipe, features: str) -> dict[str, TrialRecord]:
    """Return the records of each way to go on from the checkpoint before the last rung."""
    name, begins = recipe.strategy.replace("/", "-"), ""
    for rung, until in enumerate(RUNGS[:-1]):
        before = worker.run(RungJob(id=name, recipe=recipe, rung=rung, until=until, survey=features, begins=begins))
        assert isinstance(before, TrialRecord)
        begins = before.checkpoint
    known = augmentations(worker.context.specs[spec_id(recipe)].input)
    kinds = ["none", *(k for k in known if k != "views" or recipe.freeze)]
    worker.live.clear()
    found: dict[str, TrialRecord] = {}
    for kind in kinds:
        extra: dict[str, Scalar] = {} if kind == "none" else {AUGMENT: kind, AUGMENT_FROM: RUNGS[-2]}
        own = replace(recipe, values={**recipe.values, **extra})
        last = len(RUNGS) - 1
        job = RungJob(id=f"{name}-{kind}", recipe=own, rung=last, final=True, survey=features, begins=begins)
        record = worker.run(job)
        assert isinstance(record, TrialRecord)
        assert record.objective is not None, record.reason
        found[kind] = record
    return found


def cell(data: str, backbone: str, size: int, rows: int, seed: int, registry: Registry) -> list[dict[str, Any]]:
    """Return one line for each strategy and kind of augmentation."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        context = context_of(data, backbone, size, rows, seed, registry, Path(folder))
        worker = Worker(context, registry)
        chosen, features = recipes(context, registry, worker)
        for recipe in chosen:
            for kind, record in last_rungs(worker, recipe, features).items():
                network, _ = winning_network(context, registry, record)
                test = evaluated(context, registry, context.specs[spec_id(recipe)], network, record.recipe)
                line = {"data": Path(data).name, "backbone": spec_id(recipe), "rows": rows, "seed": seed}
                line |= {"strategy": recipe.strategy, "augment": kind, "validation": record.objective}
                lines.append(line | {"test": test.value, "cpu": record.cpu_seconds, "best_epoch": record.best_epoch})
    return lines


def table(lines: list[dict[str, Any]]) -> list[str]:
    """Return mean differences to the plain last rung, in points, with their standard errors, and ratios of cost."""
    plain = {_place(one): one for one in lines if one["augment"] == "none"}
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for one in lines:
        if one["augment"] != "none":
            groups.setdefault((one["data"], str(one["rows"]), one["strategy"], one["augment"]), []).append(one)
    found = [
        "| data | training rows | strategy | last rung | pairs | validation | test | CPU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for group, ones in sorted(groups.items()):
        gains = [
            _mean([100 * (one[split] - plain[_place(one)][split]) for one in ones]) for split in ("validation", "test")
        ]
        cost = statistics.median(one["cpu"] / plain[_place(one)]["cpu"] for one in ones)
        found.append(f"| {' | '.join(group)} | {len(ones)} | {' | '.join(gains)} | x {cost:.2f} |")
    return found


def _place(one: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(one[n] for n in ("data", "backbone", "rows", "seed", "strategy"))


def _mean(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):+.2f} ± {error:.2f}"


def main() -> None:
    """Measure every cell, print its lines as they come, and the table at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--rows", type=int, nargs="+", default=[300])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--backbones", nargs="+", default=["packs/mobilenetv2", "packs/efficientnet-lite0"])
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--results", type=Path, default=Path("finals.jsonl"))
    given, registry = parser.parse_args(), Registry.discover()
    lines = [json.loads(line) for line in given.results.read_text().splitlines()] if given.results.exists() else []
    done = {_place(line)[:4] for line in lines}
    for seed, data, rows, backbone in itertools.product(given.seeds, given.data, given.rows, given.backbones):
        name = sized_id(backbone, given.size) if has_size(registry.backbone(backbone)) else backbone
        if (Path(data).name, name, rows, seed) not in done:
            new = cell(data, backbone, given.size, rows, seed, registry)
            with given.results.open("a") as file:
                file.write("".join(f"{json.dumps(line)}\n" for line in new))
            lines += new
    print("\n".join(table(lines)))


if __name__ == "__main__":
    main()
