"""The arms that run in one process of their own: one plain fine-tune, the grid, and the score of a final model.

    python -m benchmarks.economy.arms unit settings.json

``settings.json`` holds ``train``, ``test``, ``heldout``, ``metric``, ``seed``, ``backbones``, ``epochs``, ``workers``,
``samples`` and ``scratch``. An arm appends to ``scratch/events.jsonl`` and leaves ``scratch/final.json``.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import process_time
from typing import Any

from benchmarks.economy.work import PLUGIN, Bench, keep_final, read_final, say

DEFAULT = {"freeze_fraction": 0.0, "lr": 1e-3, "lr_ratio": 0.1, "layer_decay": 0.75}
"""One plain full fine-tune: what one would do without a search."""
GRID: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "probe": {"freeze_fraction": (1.0,), "lr": (1e-3, 3e-3), "weight_decay": (0.1,)},
    "partial": {"freeze_fraction": (0.4, 0.7), "lr": (1e-3, 3e-3), "lr_ratio": (0.1, 0.3)},
    "full": {"freeze_fraction": (0.0,), "lr": (1e-3, 3e-3), "lr_ratio": (0.1, 0.3), "layer_decay": (0.75,)},
}
"""Points of the exhaustive grid on each backbone: 14."""


def unit(given: Mapping[str, Any]) -> None:
    """Train everything for all epochs once; this cost is the unit."""
    scratch = Path(given["scratch"])
    bench = Bench.open(given, given["backbones"])
    recipe = bench.recipe({**DEFAULT, "backbone": given["backbones"][0], "epochs": given["epochs"]})
    best = float("nan")
    for epoch, _, best in bench.train(recipe, scratch / "best.safetensors"):
        say(scratch / "events.jsonl", "score", validation=best, epoch=epoch, trial="unit")
    keep_final(scratch / "final.json", recipe, best, scratch / "best.safetensors", trials=1)


def grid(given: Mapping[str, Any]) -> None:
    """Train every point of the grid for all epochs and score each on the held-out rows: the oracle.

    It takes hours, so it goes on after the last point that is in its events, where a run was stopped.
    """
    scratch = Path(given["scratch"])
    events = scratch / "events.jsonl"
    bench = Bench.open(given, given["backbones"], test="heldout")
    lines = events.read_text(encoding="utf-8").splitlines() if events.exists() else []
    found = [e for e in map(json.loads, lines) if e["event"] == "point"]
    points = list(_points(given["backbones"], given["epochs"]))
    for number, config in list(enumerate(points))[len(found) :]:
        recipe, file, best, began = bench.recipe(config), scratch / "tried.safetensors", float("nan"), process_time()
        for epoch, _, best in bench.train(recipe, file):
            say(events, "score", validation=best, epoch=epoch, trial=number)
        spent = round(process_time() - began, 3)
        test = bench.score(recipe, file)[given["metric"]]
        if best > max((f["validation"] for f in found), default=float("-inf")):
            os.replace(file, scratch / "best.safetensors")
            keep_final(scratch / "final.json", recipe, best, scratch / "best.safetensors")
        found.append({**config, "validation": best, "test": test, "cpu": spent})
        say(events, "point", **found[-1])
    _, body = read_final(scratch / "final.json")
    kept = [{n: v for n, v in f.items() if n not in ("at", "event")} for f in found]
    body |= {"trials": len(found), "oracle": max(f["test"] for f in found), "points": kept}
    (scratch / "final.json").write_text(json.dumps(body), encoding="utf-8")


def _points(backbones: list[str], epochs: int) -> Iterator[dict[str, Any]]:
    for backbone, values in itertools.product(backbones, GRID.values()):
        for point in itertools.product(*values.values()):
            yield {"backbone": backbone, "epochs": epochs, **dict(zip(values, point, strict=True))}


def score(given: Mapping[str, Any]) -> None:
    """Print the held-out scores of the model that an arm ended with; no part of what is measured."""
    scratch, metric = Path(given["scratch"]), given["metric"]
    if (scratch / "final.json").exists():
        recipe, body = read_final(scratch / "final.json")
        bench = Bench.open(given, [recipe.backbone], test="heldout")
        scores = bench.score(recipe, Path(body["tensors"]))
    else:
        import autotransfer

        model = autotransfer.load(scratch / "run", plugins=[str(PLUGIN)])
        recipe, scores = model.recipe, model.score(given["heldout"])
    found = {"metric": metric, "test": scores[metric], "backbone": recipe.backbone, "strategy": recipe.strategy}
    (scratch / "score.json").write_text(json.dumps({**found, "freeze": recipe.freeze, "scores": scores}))


def tuned(given: Mapping[str, Any]) -> None:
    """Search with plain Ray Tune; imported here, for the other arms need no Ray."""
    from benchmarks.economy.plain_tune import run

    run(given)


ARMS: Mapping[str, Callable[[Mapping[str, Any]], None]] = {"unit": unit, "grid": grid, "score": score, "tune": tuned}

if __name__ == "__main__":
    ARMS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
