"""What Ray and Tune take for a trial that does nothing: 200 of them through our own Searcher.

    python -m benchmarks.cluster.overhead DATA TRIALS WORKERS

Each trial is a survey of a backbone that does not exist: it goes all the way to a worker, fails there within a
millisecond, and its record comes back. The first ones, for which workers start, are told apart.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from autotransfer import engine
from autotransfer.config import Settings
from autotransfer.resources import Share
from autotransfer.search import ray_tune
from autotransfer.search.jobs import Context, Generation, Job, SurveyJob
from autotransfer.search.ledger import Ledger
from benchmarks.cluster.fits import PLUGIN

WIDTH = 4


def main(data: str, trials: int, workers: int) -> None:
    """Print the seconds of a trial as JSON."""
    settings = Settings(data=data, plugins=[str(PLUGIN)], backbones="nets/small", trials=1).check()
    ready = engine.make_ready(settings, engine.silent)
    at: list[float] = []

    def told(event: str, **facts: Any) -> None:
        if event == "record":
            at.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as work:
        context = Context(
            prepared=ready.prepared, manifest=ready.registry.manifest(), specs={}, weights={}, work=work, store=""
        )
        began = time.perf_counter()
        ray_tune.run(_jobs(trials), context, Ledger(None, Path(work)), told, workers, Share.of(None))
        whole = time.perf_counter() - began
    first = 2 * WIDTH
    each = (at[-1] - at[first - 1]) / (len(at) - first)
    print(json.dumps({"trials": len(at), "first": round(at[first - 1] - began, 2), "each": each, "whole": whole}))


def _jobs(trials: int) -> Generation:
    for start in range(0, trials, WIDTH):
        batch: list[Job] = [SurveyJob(backbone=f"none/{start + n}", rows=1) for n in range(WIDTH)]
        yield batch


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
