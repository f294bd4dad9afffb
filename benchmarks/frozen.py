"""What each backbone is worth without training it: logistic regression on its frozen, pooled features.

    python benchmarks/frozen.py data/tux
    python benchmarks/frozen.py data/fashion --backbones "packs/*" --json
    python benchmarks/frozen.py data/drums/drums.csv --target kind --groups kit

The rows, their split (by --seed) and the deciding metric are those of a fit. The features of the training rows
are standardised, C is chosen by 3-fold cross-validation on the training rows, and the held-out rows are scored
once a backbone. Of groups the folds hold each whole. The last lines of the table are the features of the plugins'
baselines for this kind of data (pixels at 32 x 32, log-mel statistics, tf-idf) under the same regression.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from autotransfer import weights
from autotransfer.data.modalities import modality, open_tools
from autotransfer.data.prepare import Prepared, prepare
from autotransfer.errors import WeightsError
from autotransfer.protocols import FittedModule
from autotransfer.registry import Registry
from autotransfer.spec import BackboneSpec
from autotransfer.train.network import build_backbone, pooled_call
from autotransfer.train.ragged import trimmed

STRENGTHS = tuple(10.0**p for p in range(-5, 2))
BATCH = 32


@torch.inference_mode()
def features(
    data: Prepared, spec: BackboneSpec, module: torch.nn.Module, indices: np.ndarray, tools: Any
) -> np.ndarray:
    """Return pooled features ``float64`` [rows, width]."""
    rows = data.rows(indices, spec.input, tools)
    batches = [range(at, min(at + BATCH, len(rows))) for at in range(0, len(rows), BATCH)]
    inputs = (trimmed(rows.batch(list(b))) for b in batches)
    return torch.cat([pooled_call(module, i, spec.output) for i in inputs]).double().numpy()


def built(data: Prepared, spec: BackboneSpec, registry: Registry, offline: bool) -> tuple[torch.nn.Module, Any]:
    """Return a backbone with its weights, fitted where it is a fitted one, and what makes its inputs."""
    path = weights.fetch(spec.weights, offline=offline) if spec.weights else None
    module, tools = build_backbone(registry.factory(spec), spec, path), open_tools(spec, registry, path)
    if isinstance(module, FittedModule):
        rows = data.rows(data.train, spec.input, tools)
        starts = range(0, len(rows), BATCH)
        inputs = (rows.batch(range(at, min(at + BATCH, len(rows)))) for at in starts)
        module.restore(module.fit(inputs, rows.targets))
    return module, tools


def judge(
    metric: str,
    seed: int,
    train: np.ndarray,
    y: np.ndarray,
    test: np.ndarray,
    z: np.ndarray,
    groups: np.ndarray | None,
) -> dict[str, Any]:
    """Return the scores of one regression, with the standard error of the deciding one over test rows."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    folds = kind(3, shuffle=True, random_state=seed)
    search = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, scoring=metric, cv=folds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of strengths that separate the rows; rarely chosen
        guess = search.fit(train, y, groups=groups).predict(test)
    present = np.unique(z)
    recalls, counts = recall_score(z, guess, average=None, labels=present), np.bincount(z)[present]
    accuracy = accuracy_score(z, guess)
    plain = np.sqrt(accuracy * (1 - accuracy) / len(z))
    balanced = np.sqrt((recalls * (1 - recalls) / counts).sum()) / len(counts)
    scores = {"accuracy": float(accuracy), "balanced_accuracy": float(balanced_accuracy_score(z, guess))}
    error = float(balanced if metric == "balanced_accuracy" else plain)
    return {**scores, "error": error, "cv": float(search.best_score_), **search.best_params_}


def measure(data: Prepared, specs: list[BackboneSpec], registry: Registry, seed: int, offline: bool) -> dict[str, Any]:
    """Return the scores of every backbone that can be had, and of the baselines' features."""
    metric = data.profile.metric
    if metric not in ("accuracy", "balanced_accuracy"):
        sys.exit(f"the task is {data.profile.task}, judged by {metric}; this script compares classifiers")
    y, z = (data.targets[torch.from_numpy(i)].numpy() for i in (data.train, data.test))
    groups = None if data.groups is None else data.groups[data.train]
    kind, found = modality(data.profile.modality), dict[str, Any]()
    for card in specs:
        spec = replace(card, input=kind.adjusted(card.input, data.profile.facts))
        begun = time.perf_counter()
        try:
            module, tools = built(data, spec, registry, offline)
        except WeightsError as error:
            print(f"{spec.id} is left out: {error}", file=sys.stderr)
            continue
        train, test = (features(data, spec, module, i, tools) for i in (data.train, data.test))
        seconds = time.perf_counter() - begun
        found[spec.id] = {**judge(metric, seed, train, y, test, z, groups), "seconds": seconds}
        print(f"{spec.id} {found[spec.id][metric]:.3f} {seconds:.0f} s", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--backbones", nargs="+", default=["packs/*"])
    parser.add_argument("--target")
    parser.add_argument("--groups")
    parser.add_argument("--test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--offline", action="store_true")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output, and nothing else")
    given = parser.parse_args()
    registry = Registry.discover()
    options = {n: getattr(given, n) for n in ("target", "groups", "test", "seed")}
    data = prepare(given.data, registry=registry, **options)
    kind = data.profile.modality
    named = [s for s in registry.match(given.backbones, kind) if s.transfer]
    fixed = [s for s in registry.backbones(kind) if not s.transfer and "majority" not in s.id]
    found = measure(data, [*named, *fixed], registry, given.seed, given.offline)
    metric, rows = data.profile.metric, {"train": len(data.train), "test": len(data.test)}
    baselines = {s.id for s in fixed}
    best = max((id for id in found if id not in baselines), key=lambda id: found[id][metric], default="none")
    if given.json:
        print(json.dumps({"data": given.data, "metric": metric, "rows": rows, "best": best, "scores": found}))
        return
    print(f"{given.data}: {rows['train']} training and {rows['test']} held-out rows, judged by {metric}\n")
    print(f"{'backbone':28} {metric:>18} {'accuracy':>9} {'C':>8} {'seconds':>8}")
    for id, one in sorted(found.items(), key=lambda item: (item[0] in baselines, -item[1][metric])):
        score = f"{one[metric]:.3f} +- {one['error']:.3f}"
        print(f"{id:28} {score:>18} {one['accuracy']:9.3f} {one['logisticregression__C']:8.0e} {one['seconds']:8.0f}")
    print(f"\nbest: {best}")


if __name__ == "__main__":
    main()
