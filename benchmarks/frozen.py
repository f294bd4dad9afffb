"""What each backbone is worth without training it: logistic regression on its frozen, pooled features.

    python benchmarks/frozen.py data/tux
    python benchmarks/frozen.py data/fashion --backbones "packs/*" --json

The rows, their split (by --seed) and the deciding metric are those of a fit. The features of the training rows
are standardised, C is chosen by 3-fold cross-validation on the training rows, and the held-out rows are scored
once a backbone. The last line of the table is raw pixels at 32 x 32 under the same regression.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from autotransfer import weights
from autotransfer.data.prepare import Prepared, prepare
from autotransfer.errors import WeightsError
from autotransfer.registry import Registry
from autotransfer.spec import BackboneSpec, ImageInput
from autotransfer.train.heads import pool_output
from autotransfer.train.network import build_backbone

PIXELS = ImageInput(size=32, crop=1.0, mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="bilinear")
STRENGTHS = tuple(10.0**p for p in range(-5, 2))
BATCH = 32


@torch.inference_mode()
def features(data: Prepared, spec: BackboneSpec, module: torch.nn.Module, indices: np.ndarray) -> np.ndarray:
    """Return pooled features ``float64`` [rows, width]."""
    rows = data.rows(indices, spec.input)
    batches = [range(at, min(at + BATCH, len(rows))) for at in range(0, len(rows), BATCH)]
    return torch.cat([pool_output(module(rows.batch(list(b))), spec.output) for b in batches]).double().numpy()


def pixels(data: Prepared, indices: np.ndarray) -> np.ndarray:
    """Return the pixels of each row as a vector."""
    rows = data.rows(indices, PIXELS)
    return np.stack([rows.batch([i])[0].flatten().double().numpy() for i in range(len(rows))])


def judge(metric: str, seed: int, train: np.ndarray, y: np.ndarray, test: np.ndarray, z: np.ndarray) -> dict[str, Any]:
    """Return the scores of one regression, with the standard error of the deciding one over test rows."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    search = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, scoring=metric, cv=folds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of strengths that separate the rows; rarely chosen
        guess = search.fit(train, y).predict(test)
    recalls, counts = recall_score(z, guess, average=None), np.bincount(z)
    accuracy = accuracy_score(z, guess)
    plain = np.sqrt(accuracy * (1 - accuracy) / len(z))
    balanced = np.sqrt((recalls * (1 - recalls) / counts).sum()) / len(counts)
    scores = {"accuracy": float(accuracy), "balanced_accuracy": float(balanced_accuracy_score(z, guess))}
    error = float(balanced if metric == "balanced_accuracy" else plain)
    return {**scores, "error": error, "cv": float(search.best_score_), **search.best_params_}


def measure(data: Prepared, specs: list[BackboneSpec], registry: Registry, seed: int, offline: bool) -> dict[str, Any]:
    """Return the scores of every backbone that can be had, and of raw pixels."""
    metric = data.profile.metric
    if metric not in ("accuracy", "balanced_accuracy"):
        sys.exit(f"the task is {data.profile.task}, judged by {metric}; this script compares classifiers")
    y, z = (data.targets[torch.from_numpy(i)].numpy() for i in (data.train, data.test))
    found: dict[str, Any] = {}
    for spec in specs:
        begun = time.perf_counter()
        try:
            path = weights.fetch(spec.weights, offline=offline) if spec.weights else None
        except WeightsError as error:
            print(f"{spec.id} is left out: {error}", file=sys.stderr)
            continue
        module = build_backbone(registry.factory(spec), spec, path)
        train, test = (features(data, spec, module, i) for i in (data.train, data.test))
        seconds = time.perf_counter() - begun
        found[spec.id] = {**judge(metric, seed, train, y, test, z), "seconds": seconds}
        print(f"{spec.id} {found[spec.id][metric]:.3f} {seconds:.0f} s", file=sys.stderr)
    begun = time.perf_counter()
    found["pixels"] = judge(metric, seed, pixels(data, data.train), y, pixels(data, data.test), z)
    found["pixels"]["seconds"] = time.perf_counter() - begun
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--backbones", nargs="+", default=["packs/*"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--offline", action="store_true")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output, and nothing else")
    given = parser.parse_args()
    registry = Registry.discover()
    data = prepare(given.data, seed=given.seed, registry=registry)
    found = measure(data, registry.match(given.backbones, "image"), registry, given.seed, given.offline)
    metric, rows = data.profile.metric, {"train": len(data.train), "test": len(data.test)}
    best = max((id for id in found if id != "pixels"), key=lambda id: found[id][metric], default="pixels")
    if given.json:
        print(json.dumps({"data": given.data, "metric": metric, "rows": rows, "best": best, "scores": found}))
        return
    print(f"{given.data}: {rows['train']} training and {rows['test']} held-out rows, judged by {metric}\n")
    print(f"{'backbone':28} {metric:>18} {'accuracy':>9} {'C':>8} {'seconds':>8}")
    for id, one in sorted(found.items(), key=lambda item: (item[0] == "pixels", -item[1][metric])):
        score = f"{one[metric]:.3f} +- {one['error']:.3f}"
        print(f"{id:28} {score:>18} {one['accuracy']:9.3f} {one['logisticregression__C']:8.0e} {one['seconds']:8.0f}")
    print(f"\nbest: {best}")


if __name__ == "__main__":
    main()
