"""A search over many strategies costs no more than one over a few: the policy on invented truths, without training."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autotransfer.budget import Budget
from autotransfer.profiles import Profile
from autotransfer.recipes import spec_id
from autotransfer.registry import Registry
from autotransfer.schema import CutReport, Phase, Recipe, SurveyRecord, TrialRecord
from autotransfer.search.candidates import Space
from autotransfer.search.jobs import Context, Job, Record, RungJob, SurveyJob
from autotransfer.search.policy import Search
from autotransfer.search.surrogate import expected_gain, shape_of
from autotransfer.spec import BackboneSpec

STAGES = tuple(f"s{i}" for i in range(7))
FEW = ("core/probe", "core/partial", "core/full", "core/ridge", "core/depths")
SEEDS = range(10)
"""One world says little: its cost is anything from .4 to 2.5 units."""


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


class World:
    """Backbones whose heads are worth .66 to .74, and recipes that gain what is expected of them, give or take."""

    def __init__(self, registry: Registry, strategies: Any, seed: int, work: Path) -> None:
        draws = np.random.default_rng(seed)
        self.own = {f"m/{i}": 0.7 + 0.04 * draws.standard_normal() for i in range(4)}
        self.common = 0.03 + 0.04 * draws.standard_normal()
        self.better = {s.id: 0.02 * draws.standard_normal() for s in registry.strategies()}
        profile = Profile(
            name="d",
            modality="image",
            task="multiclass",
            metric="accuracy",
            rows=600,
            train=400,
            validation=100,
            test=100,
            classes=tuple("abcdefgh"),
        )
        specs = {i: BackboneSpec(id=i, factory="m:f") for i in self.own}
        prepared: Any = SimpleNamespace(profile=profile, task=None)
        context = Context(
            prepared=prepared, manifest=[], specs=specs, weights={}, work=str(work), seed=seed, threads=1, store=""
        )
        self.search = Search(context, Space(profile, specs, strategies, {}, seed=seed), Budget(), registry)
        self.search.board.floor = lambda: 0.1  # type: ignore[method-assign]  # a constant predictor's: a skill is .6 here
        self.tried: Counter[str] = Counter()

    def run(self) -> tuple[float, float]:
        """Return the cost in units and the best score."""
        generation, records = self.search.jobs(), None
        try:
            while True:
                jobs = generation.send(records) if records is not None else next(generation)
                records = [self.answer(job) for job in jobs]
        except StopIteration:
            leader = self.search.leader()
            assert leader is not None
            assert leader.objective is not None
            return self.search.spent / self.search.unit, leader.objective

    def answer(self, job: Job) -> Record:
        if isinstance(job, SurveyJob):
            own, size = self.own[job.backbone], 1.0 + 0.3 * int(job.backbone[-1])
            macs = [1e8 * size * (i + 1) for i in range(len(STAGES))]
            cut = {"ok": True, "score": own, "loss": -own, "logme": own, "hscore": own, "knn": own}
            cuts = tuple(CutReport(after=s, macs=m, **cut) for s, m in zip(STAGES, macs, strict=True))
            return SurveyRecord(
                backbone=job.backbone,
                status="done",
                rows=400,
                params=round(1e6 * size),
                macs=macs[-1],
                linear=1.0,
                stages=STAGES,
                cuts=cuts,
                score=own,
                seconds_per_row=0.01,
            )
        return self.trained(job)

    def trained(self, job: RungJob) -> TrialRecord:
        trial = next(t for t in self.search.board.trials if t.id == job.id)
        self.tried[job.recipe.strategy] += trial.done == 0
        left = len(trial.rungs) - 1 - trial.done
        return TrialRecord(
            id=job.id,
            recipe=job.recipe,
            status="promoted" if left else "done",
            rung=job.rung,
            objective=self.worth(job.recipe) - 0.01 * left,
        )

    def worth(self, recipe: Recipe) -> float:
        luck = np.random.default_rng(int(recipe.key[:8], 16)).standard_normal(2)
        shape = shape_of(recipe, self.search.prices.phases(recipe))
        own = self.own[spec_id(recipe)] + 0.3 * self.better[recipe.strategy] + 0.01 * luck[0]
        if not shape.trained:
            return own
        away = math.log10(float(recipe.values["lr"] or 1.0)) + 2.8
        return own + 0.6 * (self.common + expected_gain(shape) - 0.03 * away**2) + 0.02 * luck[1]


def test_three_times_the_strategies_at_the_same_price_and_worth(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotransfer.search.candidates.DRAWN", 48)  # for the test's sake
    all_of_core = [s for s in registry.strategies() if s.id.startswith("core/")]
    few = [s for s in all_of_core if s.id in FEW]
    assert len(all_of_core) >= 3 * len(few)
    costs, scores, tried = {}, {}, Counter[str]()
    for name, strategies in (("few", few), ("all", all_of_core)):
        worlds = [World(registry, strategies, seed, tmp_path) for seed in SEEDS]
        found = [w.run() for w in worlds]
        costs[name], scores[name] = (float(np.mean(column)) for column in zip(*found, strict=True))
        if name == "all":
            tried = sum((w.tried for w in worlds), Counter())
    assert costs["all"] <= 1.25 * costs["few"]
    assert scores["all"] >= scores["few"] - 0.02
    assert len(set(tried) - set(FEW)) >= 3  # others do get their turn


def test_without_a_clock_measured_seconds_change_no_price(registry: Registry, tmp_path: Path) -> None:
    search = World(registry, [s for s in registry.strategies() if s.id in FEW], 0, tmp_path).search
    search.rounds.records = [SurveyRecord(backbone="m/0", status="done", rows=400, macs=1e8, seconds_per_row=0.01)]
    before, phases = search.costs.unit("m/0"), [Phase(epochs=10, freeze=0)]
    search.told.learn("m/0", phases, 0.0, 2, 1000.0)
    assert search.told.pace("m/0") > 50.0  # seconds are still told, in a report
    assert search.costs.unit("m/0") == before


def test_a_search_that_finds_nothing_better_ends_and_says_so(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotransfer.search.candidates.DRAWN", 24)
    monkeypatch.setattr("autotransfer.search.policy.PRICE", -1.0)  # everything is worth it, and the money never ends
    monkeypatch.setattr("autotransfer.search.policy.UNLIMITED_UNITS", 1e9)

    class Flat(World):
        def worth(self, recipe: Recipe) -> float:
            return 0.5

    found = Flat(registry, [s for s in registry.strategies() if s.id in FEW], 0, tmp_path)
    found.run()
    assert "the search ended: 3 generations in a row found nothing better" in found.search.notes
    assert found.search.board.counted < 40
