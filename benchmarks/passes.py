"""What one row costs: passes of each backbone in float32 and in what is chosen, and rows decoded and kept.

    python benchmarks/passes.py data/tux
    python benchmarks/passes.py data/tux --sizes 224 112 --repeats 5 --json
    python benchmarks/passes.py data/tux --scores packs/open-nsfw --rows 200 --size 128

One thread, CPU seconds of this process, both arithmetics in turn, medians over repeats. The first pass of each is
not counted. `--scores` trains a backbone in both arithmetics with the same recipes and tells the validation scores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from autotransfer import weights
from autotransfer.data.prepare import Prepared, prepare
from autotransfer.errors import WeightsError
from autotransfer.registry import Registry
from autotransfer.schema import Phase, Recipe, Training
from autotransfer.spec import BackboneSpec, ImageInput
from autotransfer.store import Store
from autotransfer.train import precision
from autotransfer.train.autocast import mixed
from autotransfer.train.evaluate import arithmetic
from autotransfer.train.job import Job
from autotransfer.train.loop import Trainer
from autotransfer.train.network import TransferNetwork, build_backbone, to_device
from autotransfer.train.stages import find_stages

CPU = torch.device("cpu")
DTYPES = ("float32", "bfloat16")
ROWS = 16


def ready(given: Any, registry: Registry, patterns: list[str]) -> Iterator[tuple[BackboneSpec, Path | None]]:
    """Yield the backbones whose weights can be had."""
    for spec in registry.match(patterns, "image"):
        try:
            yield spec, weights.fetch(spec.weights, offline=given.offline) if spec.weights else None
        except WeightsError as error:
            print(f"{spec.id} is left out: {error}", file=sys.stderr)


def passes(data: Prepared, spec: BackboneSpec, module: torch.nn.Module, repeats: int) -> dict[str, Any]:
    """Return milliseconds a row of a frozen pass and of a training step, in each arithmetic, and the choice."""
    inputs = to_device(data.rows(data.train[:ROWS], spec.input).batch(range(ROWS)), CPU)
    found: dict[str, Any] = {}
    for kind, run in (("frozen", precision.frozen_pass), ("training", precision.training_pass)):
        spent: dict[str, list[float]] = {d: [] for d in DTYPES}
        for repeat in range(repeats + 1):
            for dtype in DTYPES:
                began = time.process_time()
                with mixed(dtype, CPU):
                    run(module, inputs, spec.output)
                spent[dtype] += [(time.process_time() - began) / ROWS * 1e3] if repeat else []
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            chosen = precision.choose(module, inputs, 1, kind, spec=spec, folder=Path(folder))
        found[kind] = {d: statistics.median(t) for d, t in spent.items()} | {
            "range": {d: [min(t), max(t)] for d, t in spent.items()},
            "chosen": chosen.dtype,
            "reason": chosen.reason,
            "asking_seconds": time.process_time() - began,
        }
    return found


def decoding(source: str, registry: Registry, spec: BackboneSpec) -> dict[str, float]:
    """Return milliseconds a row to prepare all rows: without a store, filling one, and from a filled one."""
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name in ("source", "filling", "kept", "source again", "opened anew"):
            if name in ("source", "filling", "opened anew"):
                data = prepare(source, seed=0, registry=registry)
            if name in ("filling", "opened anew"):
                data.keep(Store(Path(folder), 10**10))
            kept = data.kept
            data.kept = None if name.startswith("source") else kept
            rows = data.rows(data.train, spec.input)
            began = time.process_time()
            for at in range(0, len(rows), 32):
                rows.batch(range(at, min(at + 32, len(rows))))
            found[name] = (time.process_time() - began) / len(rows) * 1e3
            data.kept = kept
        return found


def scores(given: Any, data: Prepared, registry: Registry, epochs: int = 6) -> list[dict[str, Any]]:
    """Return the best validation objective of full fine-tunes and of partial ones, in both arithmetics."""
    lines = []
    for spec, path in ready(given, registry, given.scores):
        sized = replace(spec, input=replace(spec.input, size=given.size))
        for seed in range(given.seeds):
            for freeze in (0, len(spec.stages) // 2):
                for dtype in DTYPES:
                    began = time.process_time()
                    with arithmetic(1, dtype, CPU):
                        objective = _trained(given, data, sized, registry, path, freeze, dtype, seed, epochs)
                    seconds = time.process_time() - began
                    lines.append({"backbone": spec.id, "seed": seed, "freeze": freeze, "dtype": dtype})
                    lines[-1] |= {"objective": objective, "cpu_seconds": seconds}
                    print(json.dumps(lines[-1]), file=sys.stderr, flush=True)
    return lines


def _trained(
    given: Any, data: Prepared, spec: BackboneSpec, registry: Registry, path: Path | None, *how: Any
) -> float | None:
    freeze, _dtype, seed, epochs = how
    module = build_backbone(registry.factory(spec), spec, path)
    train, held = data.rows(data.train[: given.rows], spec.input), data.rows(data.validation, spec.input)
    stages = find_stages(module, train.batch([0, 1]), declared=spec.stages, output=spec.output)
    head: Any = data.task.head(spec.output, stages.width)
    recipe = Recipe(backbone=spec.id, strategy="", training=Training(), seed=seed, dtype="float32")  # one order
    network = TransferNetwork(module, head)
    phases = [Phase(epochs=epochs, lr=3e-3, lr_ratio=0.1, freeze=freeze)]
    strategy: Any = registry.strategy("core/partial")
    job = Job(network, stages, data.task, strategy, phases, recipe, train, held)
    trainer = Trainer(job)
    trainer.run()
    return trainer.best[1] if trainer.best else None


def main() -> None:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--backbones", nargs="+", default=["packs/*"])
    parser.add_argument("--sizes", nargs="+", type=int, help="pixels beside each card's own size")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scores", nargs="+", help="train these backbones instead")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--offline", action="store_true")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output, and nothing else")
    given = parser.parse_args()
    torch.set_num_threads(1)
    registry = Registry.discover()
    data = prepare(given.data, seed=0, registry=registry)
    if given.scores:
        with tempfile.TemporaryDirectory() as folder:
            data.keep(Store(Path(folder), 10**10))
            print(json.dumps(scores(given, data, registry)))
        return
    found: dict[str, Any] = {}
    for spec, path in ready(given, registry, given.backbones):
        module = build_backbone(registry.factory(spec), spec, path)
        assert isinstance(spec.input, ImageInput)
        for size in dict.fromkeys([spec.input.size, *(given.sizes or [])]):
            try:
                sized = replace(spec, input=replace(spec.input, size=size))
                one = found[f"{spec.id} {size}"] = passes(data, sized, module, given.repeats)
            except (RuntimeError, AssertionError) as error:
                print(f"{spec.id} does not run at {size} pixels: {error}", file=sys.stderr)
                continue
            for kind, of in one.items() if not given.json else ():
                print(
                    f"{spec.id:26} {size:4} {kind:9} float32 {of['float32']:7.1f}  bfloat16 {of['bfloat16']:7.1f}"
                    f"  chosen {of['chosen']:9} ({of['reason']}; asked in {of['asking_seconds']:.1f} s)",
                    flush=True,
                )
    cost = decoding(given.data, registry, spec)
    print(json.dumps({"passes": found, "decoding": cost}) if given.json else f"decoding, ms a row: {cost}")


if __name__ == "__main__":
    main()
