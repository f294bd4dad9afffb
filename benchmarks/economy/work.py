"""What the arms share with a fit: the data and their split, the networks, the space and the one training loop.

Everything here is autotransfer's own code, called the way its worker calls it but for the store and the head start,
so that the ratios between arms measure the search and not the arithmetic. The only module of the benchmark that
knows the inside of ``autotransfer.search`` and ``autotransfer.train``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from autotransfer import engine, weights
from autotransfer.codec import from_json, to_json
from autotransfer.config import Settings
from autotransfer.finish import evaluated
from autotransfer.schema import Recipe
from autotransfer.search.jobs import Context
from autotransfer.search.trial import Worker, build_network
from autotransfer.spec import frozen_stages
from autotransfer.train.evaluate import arithmetic
from autotransfer.train.network import TransferNetwork

PLUGIN = Path(__file__).with_name("backbones.py")


@dataclass
class Bench:
    """Data, backbones and space of one cell."""

    ready: engine.Ready
    worker: Worker

    @classmethod
    def open(cls, given: Mapping[str, Any], backbones: list[str], test: str = "test") -> Bench:
        """Read the data and make a worker; the split is that of a fit with the same rows and seed.

        Args:
            given: settings of an arm.
            backbones: ids of those that are needed.
            test: which held-out rows there are: ``test`` or ``heldout``.
        """
        settings = Settings(
            data=given["train"],
            test=given[test],
            metric=given["metric"],
            backbones=backbones,
            strategies=("core/*",),
            plugins=(str(PLUGIN),),
            seed=given["seed"],
            offline=True,
        )
        ready = engine.make_ready(settings.check(), engine.silent)
        specs = {s.id: s for s in ready.pool.specs}
        context = Context(
            prepared=ready.prepared,
            manifest=ready.registry.manifest(),
            specs=specs,
            weights={i: str(weights.fetch(s.weights, offline=True)) for i, s in specs.items() if s.weights is not None},
            work="",
            seed=given["seed"],
            threads=ready.space.threads,
        )
        return cls(ready, Worker(context, ready.registry))

    def recipe(self, config: Mapping[str, Any]) -> Recipe:
        """Return the recipe of one point of the space.

        Args:
            config: ``backbone``, ``freeze_fraction`` (0: all is trained, 1: the head alone), ``lr``, ``lr_ratio``,
                ``layer_decay`` (where all is trained; else 1), ``weight_decay`` (of a head alone), and ``epochs``.
        """
        config = {"layer_decay": 1.0, **config}  # a small share of few stages is none of them
        spec = self.worker.context.specs[str(config["backbone"])]
        freeze, stages = frozen_stages(float(config["freeze_fraction"]), len(spec.stages)), len(spec.stages)
        names: tuple[str, ...] = ("epochs", "lr")
        if freeze == stages:
            strategy, names = "core/probe", (*names, "weight_decay")
        elif freeze == 0:
            strategy, names = "core/full", (*names, "lr_ratio", "layer_decay")
        else:
            strategy, names = "core/partial", (*names, "lr_ratio", "freeze_fraction")
        values = {n: config[n] for n in names if n in config}
        made = self.ready.space.recipe(spec, self.ready.registry.strategy(strategy), values)
        return self.worker.measured(made)  # the arithmetic of a fit, so that ratios are of the search alone

    def train(self, recipe: Recipe, best: Path) -> Iterator[tuple[int, float, float]]:
        """Train a recipe without store and without head start; yield epoch, objective, and the best one so far.

        A probe's epoch is a tenth of its own length. ``best`` is written at every better score.
        """
        with arithmetic(recipe.threads, recipe.dtype, self.worker.device):
            trainer = self.worker.trainer(recipe, None)
            total = sum(p.epochs for p in trainer.job.phases)
            epochs = int(recipe.values["epochs"])  # type: ignore[arg-type]
            known = float("-inf")
            for epoch in range(1, epochs + 1):
                trainer.run(None if epoch == epochs else round(total * epoch / epochs))
                assert trainer.best is not None
                if trainer.best[1] > known:
                    save_file({n: t.contiguous() for n, t in trainer.best_state.items()}, best)
                known = trainer.best[1]
                yield epoch, trainer.curve[-1].objective, known

    def score(self, recipe: Recipe, tensors: Path) -> dict[str, float]:
        """Return every metric of a recipe with these trained tensors on the test rows of this bench."""
        spec = self.worker.context.specs[recipe.backbone]
        strategy = self.ready.registry.strategy(recipe.strategy)
        with arithmetic(recipe.threads, recipe.dtype, self.worker.device):
            network: TransferNetwork
            network, _ = build_network(
                self.worker.backbone(spec),
                spec,
                strategy,
                recipe,
                self.worker.task,
                self.worker.rows(spec, "train"),
            )
            network.load_state_dict({**network.state_dict(), **load_file(tensors)})
            network.eval()
        found = evaluated(self.worker.context, self.ready.registry, spec, network, recipe)
        return dict(found.scores[self.worker.task.name])


def say(events: Path, event: str, **facts: Any) -> None:
    """Append what happened just now; lines of several processes do not mix."""
    line = json.dumps({"at": time.time(), "event": event, **facts})
    with events.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def keep_final(file: Path, recipe: Recipe, validation: float, tensors: Path, **facts: Any) -> None:
    """Write down the model that an arm ends with."""
    body = {"recipe": to_json(recipe), "validation": validation, "tensors": str(tensors), **facts}
    file.write_text(json.dumps(body), encoding="utf-8")


def read_final(file: Path) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe of the model that an arm ended with, and what else was written down."""
    body = json.loads(file.read_text(encoding="utf-8"))
    return from_json(Recipe, body["recipe"]), body
