"""Plain Ray Tune as its documentation shows it: a function trainable that loads its data and its network.

It reports after every epoch; ASHA stops trials (``max_t`` = all epochs, grace period 1, reduction factor 4). In its
favour: no dashboard, no log files of Tune's callbacks, no checkpoints through Tune (a trial writes its best tensors
beside the scratch folder), the same training loop and the same reading of rows as everywhere.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from autotransfer_strategies.partial import FRACTIONS
from benchmarks.economy.work import Bench, keep_final, say


def space(backbones: list[str]) -> dict[str, Any]:
    """Return the space that autotransfer's own strategies span, as Tune writes it."""
    return {
        "backbone": tune.choice(backbones),
        "freeze_fraction": tune.choice([0.0, *FRACTIONS, 1.0]),
        "lr": tune.loguniform(5e-4, 5e-3),
        "lr_ratio": tune.loguniform(0.03, 1.0),
        "layer_decay": tune.choice([1.0, 0.75]),
        "weight_decay": tune.choice([1e-3, 1e-2, 1e-1, 1.0]),
    }


def train(config: dict[str, Any]) -> None:
    """Train one point of the space: Tune's function trainable."""
    given = config["given"]
    scratch, trial = Path(given["scratch"]), tune.get_context().get_trial_id()
    bench = Bench.open(given, [config["backbone"]])
    recipe = bench.recipe({**config, "epochs": given["epochs"]})
    for epoch, objective, best in bench.train(recipe, scratch / f"{trial}.safetensors"):
        say(scratch / "events.jsonl", "score", validation=best, epoch=epoch, trial=trial)
        tune.report({"objective": objective, "best": best})


def run(given: Mapping[str, Any]) -> None:
    """Search and write down the best model by validation.

    Args:
        given: the settings of an arm; ``scheduler`` is ``asha`` or ``fifo``, ``reuse_actors`` Tune's own switch.

    Raises:
        RuntimeError: no trial succeeded.
    """
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    scratch = Path(given["scratch"])
    ray.init(num_cpus=given["workers"], include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    asha = given["scheduler"] == "asha"
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={**space(given["backbones"]), "given": dict(given)},
        tune_config=tune.TuneConfig(
            metric="objective",
            mode="max",
            num_samples=given["samples"],
            search_alg=BasicVariantGenerator(random_state=given["seed"]),
            scheduler=ASHAScheduler(max_t=given["epochs"], grace_period=1, reduction_factor=4)
            if asha
            else FIFOScheduler(),
            reuse_actors=bool(given["reuse_actors"]),
        ),
        run_config=tune.RunConfig(name="plain", storage_path=str(scratch / "tune"), verbose=0),
    )
    found = tuner.fit()
    ray.shutdown()
    _keep_best(given, scratch, [found[i] for i in range(len(found))])


def _keep_best(given: Mapping[str, Any], scratch: Path, results: list[Any]) -> None:
    scored = [r for r in results if r.metrics and "best" in r.metrics]
    if not scored:
        raise RuntimeError(f"none of {len(results)} trials succeeded: {[str(r.error) for r in results][:3]}")
    best = max(scored, key=lambda r: r.metrics["best"])
    bench = Bench.open(given, [best.config["backbone"]])
    recipe = bench.recipe({**best.config, "epochs": given["epochs"]})
    keep_final(
        scratch / "final.json",
        recipe,
        best.metrics["best"],
        scratch / f"{best.metrics['trial_id']}.safetensors",
        trials=len(results),
        failed=sum(r.error is not None for r in results),
        epochs=sum(r.metrics["training_iteration"] for r in scored),
    )
