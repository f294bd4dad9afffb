"""Linear heads trained together against heads trained one by one: CPU-seconds of one thread.

    python benchmarks/heads.py
    python benchmarks/heads.py --heads 8 32 64 --repeats 5 --json

Both sides fit the same random features with the same settings, batches and schedule, and score the validation
rows after each epoch by the task's deciding metric. The sides take turns; a speed-up is the median over the turns of
the ratio of seconds a head. The separate heads are nn.Linear with autograd and torch.optim.AdamW (foreach).
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from autotransfer.tasks import make_task
from autotransfer.tasks.metrics import deciding
from autotransfer.train.fused import HeadSetting, fit_heads
from autotransfer.train.heads import LinearHead
from autotransfer.train.sampling import batches, epoch_order, steps_per_epoch, stream
from autotransfer.train.schedule import Segment, rate

BATCH = 64
Pair = tuple[Tensor, Tensor]
"""Features [rows, width] and class numbers."""


def rows(count: int, width: int, classes: int, seed: int) -> Pair:
    """Return features [count, width] and class numbers that a linear map of them gives, with noise."""
    truth = torch.randn(width, classes, generator=torch.Generator().manual_seed(0))
    draws = torch.Generator().manual_seed(seed)
    features = torch.randn(count, width, generator=draws)
    return features, (features @ truth + 10 * torch.randn(count, classes, generator=draws)).argmax(1)


def settings(count: int) -> list[HeadSetting]:
    """Return settings over four decades of rate and five decays, without dropout."""
    return [
        HeadSetting(lr=10 ** (-4 + 3 * k / max(1, count - 1)), weight_decay=10.0 ** (k % 5 - 4)) for k in range(count)
    ]


def separate(train: Pair, held: Pair, one: HeadSetting, task: Any, epochs: int) -> float:
    """Train one head alone; return its best objective."""
    features, targets = train
    head = LinearHead("vector", features.shape[1], task.outputs)
    head.standardise(features[:512])
    whole, best, step = Segment(0, 0, epochs * steps_per_epoch(len(features), BATCH)), float("-inf"), 0
    decayed = {"params": [head.linear.weight], "weight_decay": one.weight_decay}
    optimizer = torch.optim.AdamW([decayed, {"params": [head.linear.bias], "weight_decay": 0.0}], lr=one.lr)
    for epoch in range(epochs):
        for chosen in batches(epoch_order(targets, "shuffle", stream(0, "heads", "order", epoch)), BATCH):
            for group in optimizer.param_groups:
                group["lr"] = one.lr * rate(step, whole, 0.1)
            optimizer.zero_grad()
            at = torch.from_numpy(chosen)
            task.loss(head(features[at]), targets[at]).backward()
            optimizer.step()
            step += 1
        with torch.no_grad():
            best = max(best, deciding(task, head(held[0]), held[1]))
    return best


def one_by_one(train: Pair, held: Pair, some: list[HeadSetting], task: Any, epochs: int) -> list[float]:
    """Train each head alone; return their best objectives."""
    return [separate(train, held, one, task, epochs) for one in some]


def together(train: Pair, held: Pair, some: list[HeadSetting], task: Any, epochs: int) -> list[float]:
    """Train all heads at once; return their best objectives."""
    judge = functools.partial(deciding, task)
    found = fit_heads(*train, *held, some, task, epochs=epochs, batch_size=BATCH, judge=judge)
    return [head.objective for head in found]


def timed(work: Callable[[], list[float]]) -> tuple[float, list[float]]:
    """Return CPU-seconds of this process, and what the work gave."""
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Return seconds a head and speed-ups, by number of fused heads."""
    task: Any = make_task("multiclass", list(range(given.classes)))
    train, held = (rows(n, given.width, given.classes, s) for n, s in ((given.rows, 1), (given.rows // 4, 2)))
    alone: list[float] = []
    fused: dict[int, list[float]] = {k: [] for k in given.heads}
    apart = 0.0
    for turn in range(given.repeats + 1):  # the first turn warms up
        some = settings(max(given.heads))[:: max(1, max(given.heads) // given.alone)][: given.alone]
        spent, scores = timed(functools.partial(one_by_one, train, held, some, task, given.epochs))
        if turn:
            alone.append(spent / len(some))
        for count in given.heads:
            mine = some if count == len(some) else settings(count)
            spent, ours = timed(functools.partial(together, train, held, mine, task, given.epochs))
            if turn:
                fused[count].append(spent / count)
            if mine is some:
                apart = max(apart, *(abs(a - b) for a, b in zip(ours, scores, strict=True)))
        print(f"turn {turn} of {given.repeats}", file=sys.stderr)
    ratios = {k: [a / f for a, f in zip(alone, own, strict=True)] for k, own in fused.items()}
    return {
        "alone": statistics.median(alone),
        "fused": {k: statistics.median(own) for k, own in fused.items()},
        "speed_up": {k: statistics.median(own) for k, own in ratios.items()},
        "spread": {k: (min(own), max(own)) for k, own in ratios.items()},
        "scores_apart": apart,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--heads", type=int, nargs="+", default=[4, 8, 32, 64])
    parser.add_argument("--alone", type=int, default=4, help="separate heads a turn, spread over the settings")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output, and nothing else")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(given)
    if given.json:
        print(json.dumps(found))
        return
    print(f"{given.rows} x {given.width} features, {given.classes} classes, {given.epochs} epochs, one thread")
    print(f"alone                {found['alone'] * 1e3:7.1f} ms a head")
    for count in given.heads:
        low, high = found["spread"][count]
        print(
            f"{count:3} together         {found['fused'][count] * 1e3:7.1f} ms a head, {found['speed_up'][count]:5.1f} "
            f"times faster ({low:.1f} to {high:.1f})"
        )
    print(f"largest difference of a best validation score between both sides: {found['scores_apart']:.4f}")


if __name__ == "__main__":
    main()
