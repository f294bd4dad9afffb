"""Which of the heads that are trained together is kept: by the highest score, or by the rule among trials.

    python -m benchmarks.families --tasks tux,fashion,digits,movies,fortunes,glosses --seeds 0,1

On the frozen features of one backbone a task, 18 heads (three learning rates, three weight decays, with and without a
head start) are trained on four fifths of 200 rows, drawn eight times; one is chosen by the other fifth and scored on
the rows that are held out. The rule: of the heads within one standard error of the highest score (binomial) the one
with the least calibrated loss.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autotransfer import engine, weights
from autotransfer.config import Settings
from autotransfer.schema import Recipe, Training, TrialRecord
from autotransfer.search.criterion import plain
from autotransfer.search.jobs import Context, SurveyJob
from autotransfer.search.judging import with_loss
from autotransfer.search.survey import head_features
from autotransfer.search.trial import Worker
from autotransfer.tasks.judged import deciding, scores_of
from autotransfer.tasks.metrics import EVEN
from autotransfer.train.fused import HeadSetting, fit_heads
from benchmarks.economy.tasks import TASKS, lay_out
from benchmarks.economy.work import PLUGIN
from benchmarks.strategies import BACKBONES

ROWS, DRAWS, EPOCHS, BATCH = 200, 8, 40, 8
RATES, DECAYS = (3e-4, 1e-3, 3e-3), (0.0, 0.01, 0.1)
NAMES = ("highest score", "rule", "least loss", "mean of all", "best of all")


def worker_of(task: str, seed: int, work: str) -> Worker:
    """Return a worker whose training rows are those of a cell, and whose validation rows all that are held out."""
    layout = lay_out(task, seed, ROWS)
    settings = Settings(
        data=str(layout.train),
        validation=str(layout.heldout),
        test=str(layout.test),
        metric=layout.metric,
        backbones=[BACKBONES[TASKS[task].modality]],
        plugins=(str(PLUGIN),),
        seed=seed,
        offline=True,
    )
    ready = engine.make_ready(settings.check(), engine.silent)
    specs = {s.id: s for s in ready.pool.specs if s.transfer}
    files = {i: str(weights.fetch(s.weights, offline=True)) for i, s in specs.items() if s.weights is not None}
    context = Context(
        prepared=ready.prepared, manifest=ready.registry.manifest(), specs=specs, weights=files, work=work, seed=seed
    )
    return Worker(context, ready.registry)


def measure(task: str, seed: int) -> Iterator[list[float]]:
    """Yield for each draw the held-out scores by :data:`NAMES`, and how far the first two validation scores flatter."""
    with tempfile.TemporaryDirectory() as work:
        worker = worker_of(task, seed, work)
        (id,) = worker.context.specs
        record: Any = worker.run(SurveyJob(backbone=id, rows=worker.context.prepared.profile.train))
        found = head_features(Path(work, record.features))
        assert found is not None
        (own, held), own_targets = found, worker.rows(worker.context.specs[id], "train").targets
        held_targets = worker.rows(worker.context.specs[id], "validation").targets
    rng = np.random.default_rng(seed)
    for draw in range(DRAWS):
        order = rng.permutation(len(own))
        order = order[np.argsort(own_targets.numpy()[order], kind="stable")]
        few = order[draw % 5 :: 5]
        rest = np.setdiff1d(order, few)
        yield _chosen(worker, (own[rest], own[few], held), (own_targets[rest], own_targets[few], held_targets), draw)


def _chosen(worker: Worker, rows: tuple[Any, Any, Any], targets: tuple[Any, Any, Any], seed: int) -> list[float]:
    task, profile = worker.task, worker.context.prepared.profile
    start: Any = worker.registry.strategy("core/ridge").head(rows[0], targets[0])
    training = Training(balance="logits" if task.metric in EVEN else "none")
    settings = [
        HeadSetting(lr=lr, weight_decay=decay, dropout=0.0, label_smoothing=0.0, balance=training.balance, start=first)
        for lr, decay, first in itertools.product(RATES, DECAYS, (None, start))
    ]
    heads = fit_heads(
        rows[0],
        targets[0],
        rows[1],
        targets[1],
        settings,
        task,
        epochs=EPOCHS,
        batch_size=BATCH,
        warmup=0.1,
        seed=seed,
        judge=partial(deciding, task),
        tick=lambda: None,
        deadline=float("inf"),
    )
    empty = TrialRecord(id="", recipe=Recipe(backbone="", strategy="", training=training), status="done")
    score = np.array([h.objective for h in heads])
    answers = [[r @ h.state.weight.T + h.state.bias for h in heads] for r in rows[1:]]
    test = np.array([scores_of(task, a, targets[2])[task.name][task.metric] for a in answers[1]])
    loss = np.array([with_loss(empty, task, a, targets[1], targets[0]).calibrated_loss for a in answers[0]])
    criterion = replace(plain(profile), rows=len(targets[1]))
    alike = np.flatnonzero(score >= score.max() - criterion.slack(float(score.max())))
    kept = (int(score.argmax()), int(alike[loss[alike].argmin()]), int(loss.argmin()))
    return [*(float(test[k]) for k in kept), test.mean(), test.max(), *(float(score[k] - test[k]) for k in kept[:2])]


def main() -> None:
    """Print a line for each cell, and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="tux,fashion,digits,movies,fortunes,glosses")
    parser.add_argument("--seeds", default="0,1")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| task, seed | {' | '.join(NAMES)} | flattered by, highest | by, rule |", flush=True)
    print("|---" * (3 + len(NAMES)) + "|")
    lines = []
    for task, seed in itertools.product(given.tasks.split(","), given.seeds.split(",")):
        lines.append(np.mean(list(measure(task, int(seed))), axis=0))
        print(f"| {task} {seed} | {' | '.join(f'{v:.4f}' for v in lines[-1])} |", flush=True)
    print(f"| mean | {' | '.join(f'{v:.4f}' for v in np.mean(lines, axis=0))} |")


if __name__ == "__main__":
    main()
