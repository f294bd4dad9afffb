"""One network for several targets against one for each: the same recipe, the same rows, held-out scores by target.

    python benchmarks/data/fetch.py tux --out data/tux
    python benchmarks/data/fetch.py ratings --out data/ratings
    python -m benchmarks.multitask data/tux data/ratings

Of the stamps three targets are asked: the folder that each lies in, the dominant colour and the share of the frame that
is not transparent, both computed from the pixels; of the snippets whether they are for or against, and their rating. A
cell is measured twice: with all labels, and with each training and validation row keeping a third of them (at least
one). Arms: ``equal``, ``uncertainty`` and ``pcgrad`` train one network for all targets, ``alone`` trains one for each,
``frozen`` solves a head for each on the frozen backbone. All train the search's guaranteed recipe "top third" but for
the share of frozen stages. One JSON line an arm and seed goes to the results file; what is there is not run again. The
means over all lines of the file are printed as tables.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from autotransfer import weights
from autotransfer.codec import Scalar
from autotransfer.data import prepare
from autotransfer.finish import evaluated, winning_network
from autotransfer.pool import at_sizes
from autotransfer.recipes import COMBINE, INPUT_SIZE, ONLY, PCGRAD, TASK_WEIGHTS, TOGETHER, UNCERTAINTY, spec_id
from autotransfer.registry import Registry
from autotransfer.schema import Evaluation, Recipe, TrialRecord
from autotransfer.search import alone
from autotransfer.search.candidates import HEAD_START, Space
from autotransfer.search.jobs import Context, RungJob, SurveyJob
from autotransfer.search.prices import RUNGS
from autotransfer.search.trial import Worker
from autotransfer.space import Choice
from autotransfer.tasks import Several
from autotransfer.tasks.metrics import signed
from benchmarks.economy.cells import commit, machine

COLOURS = {"red": 20, "orange": 45, "yellow": 70, "green": 165, "blue": 260, "purple": 340, "red ": 361}
"""Where each hue ends, in degrees."""
GREY, FAINT, OPAQUE = 0.25, 0.3, 128
"""Saturation below which a pixel has no hue; share of hued pixels below which a picture is grey; alpha of a pixel that
is there."""
KEPT = 1 / 3
"""Chance of a label to be kept where labels are scarce."""
SHARED: dict[str, dict[str, Scalar]] = {
    "equal": {},
    "uncertainty": {TASK_WEIGHTS: UNCERTAINTY},
    "pcgrad": {COMBINE: PCGRAD},
}
ARMS = (*SHARED, "alone", "frozen")


def table_of(folder: Path) -> tuple[pd.DataFrame, list[str], str]:
    """Return the rows of a folder, the names of the targets and the backbone."""
    for csv in folder.glob("*.csv"):
        return pd.read_csv(csv), ["label", "rating"], "packs/minilm-l6"
    rows = [stamp(path) for path in sorted(folder.rglob("*.png"))]
    frame = pd.DataFrame(rows)
    common = frame["colour"].value_counts()
    return frame[frame["colour"].isin(common.index[common >= 20])], ["kind", "colour", "area"], "packs/mobilenetv2"


def stamp(path: Path) -> dict[str, Any]:
    """Return the row of a stamp: its folder, its dominant colour and the share of the frame that is there."""
    pixels = np.asarray(Image.open(path).convert("RGBA"))
    there = pixels[..., 3] >= OPAQUE
    rgb = pixels[there][:, :3].astype(float) / 255 if there.any() else np.zeros((1, 3))
    high, low = rgb.max(1), rgb.min(1)
    hued = (high - low > GREY * high) & (high > 0.2)
    colour = "grey"
    if hued.mean() >= FAINT:
        r, g, b = rgb[hued].T
        top, spread = high[hued], (high - low)[hued]
        hue = np.where(top == r, (g - b) / spread % 6, np.where(top == g, (b - r) / spread + 2, (r - g) / spread + 4))
        bins = np.searchsorted(list(COLOURS.values()), hue * 60, side="right")
        names = [n.strip() for n in COLOURS]
        counts = {n: sum(int((bins == i).sum()) for i, m in enumerate(names) if m == n) for n in names}
        colour = max(counts, key=lambda n: counts[n])
    return {"image": str(path.absolute()), "kind": path.parent.name, "colour": colour, "area": float(there.mean())}


def context_of(folder: Path, scarce: bool, seed: int, size: int, rows: int, registry: Registry, work: Path) -> Context:
    """Return what a worker needs: at most so many training rows, with all labels or a third of them."""
    frame, targets, backbone = table_of(folder)
    prepared = prepare(frame, target=targets, seed=seed, registry=registry)
    assert isinstance(prepared.task, Several)
    prepared.train, prepared.validation = prepared.train[:rows], prepared.validation[: rows // 3]
    seen = np.concatenate([prepared.train, prepared.validation])
    if scarce:
        rng = np.random.default_rng(seed)
        kept = rng.random((len(seen), len(targets))) < KEPT
        kept[np.arange(len(seen)), rng.integers(0, len(targets), len(seen))] |= ~kept.any(1)
        for part, own in zip(prepared.task.parts, kept.T, strict=True):
            prepared.targets[torch.from_numpy(seen[~own]), part.columns] = math.nan
    mark = f"{prepared.profile.fingerprint}-{rows}-{seed}-{scarce}"
    counts = {"train": len(prepared.train), "validation": len(prepared.validation)}
    prepared.profile = replace(prepared.profile, fingerprint=mark, **counts)  # type: ignore[arg-type]
    spec = registry.backbone(backbone)
    (spec,) = at_sizes([spec], Choice((size,))) if spec.modality == "image" else [spec]
    assert spec.weights is not None
    files, store = {spec.id: str(weights.fetch(spec.weights, offline=True))}, str(work / "store")
    manifest = registry.manifest()
    return Context(prepared, manifest, {spec.id: spec}, files, str(work), seed=seed, store=store, store_bytes=10**10)


def recipe_of(context: Context, registry: Registry, record: Any, freeze: float) -> Recipe:
    """Return the recipe that all arms share."""
    (spec,) = context.specs.values()
    space = Space(context.prepared.profile, context.specs, registry.strategies(), seed=context.seed)
    values: dict[str, Scalar] = {"freeze_fraction": freeze, "lr": 1e-3, "lr_ratio": 0.3, HEAD_START: True}
    made = space.recipe(replace(spec, stages=record.stages), registry.strategy("core/partial"), values)
    return replace(made, dtype="float32")


def trained(worker: Worker, recipe: Recipe, features: str, name: str) -> tuple[Evaluation, float]:
    """Return the scores on the held-out rows and the CPU-seconds of a training, in the rungs that many rows have."""
    context, registry = worker.context, worker.registry
    job = RungJob(id=name, recipe=recipe, survey=features)
    ends: tuple[int | None, ...] = (*RUNGS[:-1], None) if recipe.freeze is not None else (None,)
    records = []
    for rung, until in enumerate(ends):
        record = worker.run(replace(job, rung=rung, until=until, final=until is None))
        assert isinstance(record, TrialRecord)
        assert record.objective is not None, record.reason
        records.append(record)
    record = records[-1]
    own = alone.context_of(context, job)[0] if ONLY in recipe.values else context
    network, _ = winning_network(own, registry, record)
    test = evaluated(own, registry, own.specs[spec_id(recipe)], network, record.recipe)
    return test, sum(r.cpu_seconds for r in records)


def arms(worker: Worker, shared: Recipe, features: str, wanted: list[str]) -> Iterator[dict[str, Any]]:
    """Yield a line for each arm: scores by target, the mean skill and the cost."""
    task = worker.task
    assert isinstance(task, Several)
    for arm in wanted:
        if arm == "alone":
            values = {n: v for n, v in shared.values.items() if n not in TOGETHER}
            own = [replace(shared, values={**values, ONLY: p.target}) for p in task.parts]
        elif arm == "frozen":
            kept = {n: v for n, v in shared.values.items() if n in ("epochs", INPUT_SIZE)}
            own = [replace(shared, strategy="core/ridge", values=kept, freeze=None)]
        else:
            own = [replace(shared, values={**shared.values, **SHARED[arm]})]
        found = [trained(worker, r, features, f"{arm}-{i}") for i, r in enumerate(own)]
        each = {name: e for test, _ in found for name, e in test.each.items()}
        skills = [p.skill(signed(p.task.metric, {p.task.metric: each[p.target].value})) for p in task.parts]
        scores = {f"{n} {e.metric}": e.value for n, e in each.items()}
        yield {"arm": arm, "scores": scores, "skill": statistics.mean(skills), "cpu": sum(cpu for _, cpu in found)}


def cell(place: dict[str, Any], folder: Path, registry: Registry, wanted: list[str], given: Any) -> Iterator[Any]:
    """Yield the lines of one data set, with all or few labels, and one seed."""
    with tempfile.TemporaryDirectory() as work:
        scarce, seed = place["labels"] == "a third", place["seed"]
        context = context_of(folder, scarce, seed, given.size, given.rows, registry, Path(work))
        worker = Worker(context, registry)
        (spec,) = context.specs
        record: Any = worker.run(SurveyJob(backbone=spec, rows=context.prepared.profile.train))
        shared = recipe_of(context, registry, record, given.freeze)
        counts = {"backbone": spec, "train": len(context.prepared.train), "test": len(context.prepared.test)}
        for line in arms(worker, shared, record.features, wanted):
            yield {**place, **counts, **line, "commit": commit(), "machine": machine()}


def tables(lines: list[dict[str, Any]]) -> list[str]:
    """Return for each data set and share of labels the mean scores of each arm, and what differs from ``alone``."""
    found = []
    for data, labels in sorted({(one["data"], one["labels"]) for one in lines}):
        own = [one for one in lines if (one["data"], one["labels"]) == (data, labels)]
        names, seeds = list(own[0]["scores"]), sorted({one["seed"] for one in own})
        rows = f"{own[0]['train']} training rows, {own[0]['test']} held-out rows, {len(seeds)} seeds"
        found += [f"\n{data}, {labels} of the labels ({own[0]['backbone']}, {rows})\n"]
        found += [
            f"| arm | {' | '.join(names)} | mean skill | minus alone | CPU s |",
            f"|---|{'---|' * (len(names) + 3)}",
        ]
        apart = {one["seed"]: one for one in own if one["arm"] == "alone"}
        for arm in ARMS:
            ones = [one for one in own if one["arm"] == arm]
            if ones:
                scores = [f"{statistics.mean(o['scores'][n] for o in ones):.3f}" for n in names]
                gains = [o["skill"] - apart[o["seed"]]["skill"] for o in ones if o["seed"] in apart]
                cells = [f"{statistics.mean(o['skill'] for o in ones):.3f}", _mean(gains) if arm != "alone" else ""]
                cpu = f"{statistics.mean(o['cpu'] for o in ones):.0f}"
                found.append(f"| {' | '.join([arm, *scores, *cells, cpu])} |")
    return found


def _mean(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan
    return f"{statistics.mean(values):+.3f} +- {error:.3f}" if values else "-"


def main() -> None:
    """Measure every cell, and print the tables at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=450, help="training rows at most")
    parser.add_argument("--size", type=int, default=96, help="pixels")
    parser.add_argument("--freeze", type=float, default=0.55, help="share of the stages that are frozen")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    given, registry = parser.parse_args(), Registry.discover()
    torch.set_num_threads(1)
    lines = [json.loads(line) for line in given.results.read_text().splitlines()] if given.results.exists() else []
    for seed, folder, labels in itertools.product(given.seeds, given.data, ("all", "a third")):
        place = {"data": folder.name, "labels": labels, "seed": seed, "freeze": given.freeze}
        done = {one["arm"] for one in lines if {n: one[n] for n in place} == place}
        wanted = [arm for arm in ARMS if arm not in done]
        for line in cell(place, folder, registry, wanted, given) if wanted else ():
            with given.results.open("a") as file:
                file.write(f"{json.dumps(line)}\n")
            lines.append(line)
            print(json.dumps(line), flush=True)
    print("\n".join(tables(lines)))


if __name__ == "__main__":
    main()
