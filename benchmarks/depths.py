"""One head on the features of all depths: against the last output alone, and with only the best features kept.

    python benchmarks/depths.py data/tux --backbone packs/efficientnet-lite0 --rows 300
    python benchmarks/depths.py data/movies/movies.csv --backbone packs/minilm-l6 --rows 600

Ridge regression in closed form, its penalty by leave-one-out, as the strategies ``core/ridge`` and ``core/depths``
fit it. Head2Toe (Evci et al. 2022, arXiv 2201.03529, section 4) keeps a share of the features, those with the largest
weights; told is the accuracy on up to 400 other rows for each share, and the share that 5-fold cross-validation on
the training rows chooses (features are ranked anew in each fold).
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import RidgeCV

from autotransfer import weights
from autotransfer.data import prepare
from autotransfer.registry import Registry
from autotransfer.search.jobs import Context, SurveyJob
from autotransfer.search.survey import load_features
from autotransfer.search.trial import Worker
from autotransfer.train.depths import concatenated
from autotransfer_strategies.closed_form import PENALTIES, solution

SHARES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
MOST = 400
FOLDS = 5
Array = np.ndarray[Any, Any]


def depths_of(data: str, backbone: str, rows: int, seed: int) -> tuple[list[Array], list[Array], Array, Array]:
    """Return the features of training and of other rows by depth, and their class numbers."""
    registry = Registry.discover()
    spec, prepared = registry.backbone(backbone), prepare(data, seed=seed, registry=registry)
    order = np.concatenate([prepared.train, prepared.validation, prepared.test])
    order = order[np.random.default_rng(seed).permutation(len(order))]
    prepared.train, prepared.validation = order[:rows], order[rows : rows + MOST]
    name = f"{prepared.profile.fingerprint}-{rows}-{seed}"
    prepared.profile = replace(prepared.profile, train=rows, validation=len(prepared.validation), fingerprint=name)
    files = {spec.id: str(weights.fetch(spec.weights))} if spec.weights else {}
    with tempfile.TemporaryDirectory() as work:
        context = Context(prepared, registry.manifest(), {spec.id: spec}, files, work, seed=seed)
        worker = Worker(context, registry)
        record: Any = worker.run(SurveyJob(backbone=spec.id, rows=rows))
        assert record.status == "done", record.reason
        parts = load_features(Path(work) / record.features)
        split = {
            name: [parts[f"{name}/{depth}"].double().numpy() for depth in range(len(record.cuts))]
            for name in ("train", "validation")
        }
        targets = [worker.rows(spec, name).targets.numpy() for name in split]
    return split["train"], split["validation"], targets[0], targets[1]


def accuracies(x: Array, y: Array, others: Array, truth: Array) -> dict[float, float]:
    """Return the accuracy on other rows for each share of the features [N, D] that is kept."""
    middle, spread = x.mean(0), x.std(0)
    scale = np.where(spread > 1e-9, 1.0 / np.maximum(spread, 1e-9), 0.0)
    x, others, shares = (x - middle) * scale, (others - middle) * scale, np.eye(int(y.max()) + 1)[y]
    ranked = np.argsort(-np.linalg.norm(_weights(x, shares), axis=0))
    found = {}
    for share in SHARES:
        kept = ranked[: max(8, int(share * x.shape[1]))]
        outputs = others[:, kept] @ _weights(x[:, kept], shares).T + shares.mean(0)
        found[share] = float((outputs.argmax(1) == truth).mean())
    return found


def _weights(x: Array, shares: Array) -> Array:
    penalty = float(RidgeCV(alphas=PENALTIES * len(x)).fit(x, shares).alpha_)
    return solution(x, shares, penalty)[0]


def chosen(x: Array, y: Array) -> float:
    """Return the share that cross-validation chooses; of equal ones the larger."""
    folds = np.arange(len(x)) % FOLDS
    each = [accuracies(x[folds != k], y[folds != k], x[folds == k], y[folds == k]) for k in range(FOLDS)]
    return max(SHARES, key=lambda share: (sum(e[share] for e in each), share))


def main() -> None:
    """Print one line of a table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--backbone", default="packs/efficientnet-lite0")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"| data | backbone | rows | last output | {' | '.join(f'best {s:.0%}' for s in SHARES)} | chosen |")
    print("|" + "---|" * (5 + len(SHARES)))
    for data in given.data:
        train, other, y, truth = depths_of(data, given.backbone, given.rows, given.seed)
        x, xs = (concatenated_arrays(parts) for parts in (train, other))
        last, every = accuracies(train[-1], y, other[-1], truth)[1.0], accuracies(x, y, xs, truth)
        told = " | ".join(f"{every[s]:.3f}" for s in SHARES)
        print(f"| {Path(data).stem} | {given.backbone} | {len(y)} | {last:.3f} | {told} | {chosen(x, y):.0%} |")


def concatenated_arrays(parts: list[Array]) -> Array:
    """Return the features of all depths side by side, each row of each depth of unit norm."""
    import torch

    joined: Array = concatenated([torch.from_numpy(p) for p in parts]).double().numpy()
    return joined


if __name__ == "__main__":
    main()
