"""Candidates: which recipes are worth trying, in which order, and why others are not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from autotransfer.codec import Scalar
from autotransfer.errors import ConfigError, suggestion
from autotransfer.protocols import Strategy
from autotransfer.schema import Candidate, Phase, Profile, Recipe, Refusal, SurveyRecord, Training
from autotransfer.space import Domain
from autotransfer.spec import BackboneSpec, frozen_stages, with_stages
from autotransfer.train.sampling import stream

EPOCHS = 10
"""Passes over the training rows in a full training."""
_LOOP = {f.name for f in dataclasses.fields(Training)}
DRAWS = 50
"""Attempts at a recipe not yet tried before the space is taken for exhausted."""


@dataclass
class Space:
    """What may be combined: backbones, strategies, and the caller's own domains."""

    profile: Profile
    specs: Mapping[str, BackboneSpec]
    strategies: Sequence[Strategy]
    given: Mapping[str, Domain] = field(default_factory=dict)
    """The caller's domains, in place of the strategies' own; of the name of a loop setting: searched too."""
    seed: int = 0
    threads: int = 1
    dtype: str = "float32"
    refusals: list[Refusal] = field(default_factory=list)

    def suited(self, spec: BackboneSpec) -> list[Strategy]:
        """Return the strategies that apply to a backbone; why others do not is kept."""
        found = []
        for strategy in self.strategies:
            verdict = strategy.applies(self.profile, spec)
            if verdict.ok:
                found.append(strategy)
            elif strategy.baseline == (not spec.transfer):
                self._refuse(f"{strategy.id} on {spec.id}", verdict.reason)
        return found

    def _refuse(self, name: str, reason: str) -> None:
        refusal = Refusal(name=name, reason=reason)
        if refusal not in self.refusals:
            self.refusals.append(refusal)

    def domains(self, strategy: Strategy, spec: BackboneSpec) -> dict[str, Domain]:
        """Return the values to search for a strategy on a backbone."""
        own = strategy.space(self.profile, spec)
        extra = {n: d for n, d in self.given.items() if n in own or n in _LOOP or n == "epochs"}
        return {**own, **extra}

    def recipe(self, spec: BackboneSpec, strategy: Strategy, values: Mapping[str, Scalar]) -> Recipe:
        """Return the recipe of these values, freeze_fraction resolved on the backbone's stages."""
        kept = {"epochs": EPOCHS, **values}
        freeze = None
        if isinstance(kept.get("freeze_fraction"), (int, float)):
            freeze = frozen_stages(float(kept["freeze_fraction"]), len(spec.stages))  # type: ignore[arg-type]
            if freeze == len(spec.stages):
                kept["lr_ratio"] = 1.0  # nothing is left that it would be the rate of
        settings = {n: v for n, v in kept.items() if n in _LOOP}
        training = replace(strategy.training(self.profile, kept), **settings)  # type: ignore[arg-type]
        return Recipe(
            backbone=spec.id,
            strategy=strategy.id,
            values=kept,
            freeze=freeze,
            stages=spec.stages,
            training=training,
            seed=self.seed,
            threads=self.threads,
            dtype=self.dtype,
        )

    def unknown_values(self) -> None:
        """Raise for names in the caller's space that no strategy and no loop setting knows.

        Raises:
            ConfigError: all of them, with suggestions.
        """
        known = {*_LOOP, "epochs"}
        for strategy in self.strategies:
            for spec in self.specs.values():
                if strategy.applies(self.profile, spec).ok:
                    known |= set(strategy.space(self.profile, spec))
        wrong = [f"{n!r}{suggestion(n, known)}" for n in self.given if n not in known]
        if wrong:
            raise ConfigError(
                f"space holds names that nothing knows: {', '.join(wrong)}; known: {', '.join(sorted(known))}"
            )


class Proposer:
    """Gives recipes not yet proposed: the guaranteed ones first, then draws that favour what the survey favours."""

    def __init__(self, space: Space, survey: Sequence[SurveyRecord], order: Sequence[str], static: str | None) -> None:
        """Begin.

        Args:
            space: what may be combined.
            survey: records of the backbones that were surveyed.
            order: ids of the backbones to search, best estimate first.
            static: the backbone that one would pick without looking at the data.
        """
        self.space = space
        self.order = list(order)
        self.static = static
        stages = {r.backbone: r.stages for r in survey}
        self.specs = {i: with_stages(s, stages.get(i, ())) for i, s in space.specs.items()}
        self.seen: set[str] = set()
        self.drawn = 0

    def baselines(self) -> list[Candidate]:
        """Return one candidate for each no-transfer model."""
        found = []
        for spec in self.specs.values():
            if spec.transfer:
                continue
            for strategy in [s for s in self.space.suited(spec) if s.baseline][:1]:
                found += self._new(self.space.recipe(spec, strategy, self._middle(strategy, spec)), "baseline")
        return found

    def guaranteed(self) -> list[Candidate]:
        """Return what is always tried, most important first.

        The default recipe (static winner, all unfrozen, layer decay .75) comes first, so that the search cannot
        end below what one would have done without it; then probes of the best two backbones, and the best
        backbone with its top third unfrozen.
        """
        if not self.order:
            return []
        best, second = self.order[0], self.order[1:2]
        static = self.static if self.static in self.specs else best
        found: list[Candidate] = []
        found += self._named(static, "core/full", {"layer_decay": 0.75, "lr": 1e-3, "lr_ratio": 0.1}, "default recipe")
        for id in [best, *second]:
            found += self._named(id, "core/probe", {"lr": 3e-3, "weight_decay": 0.1}, "probe of a survey winner")
        found += self._named(
            best, "core/partial", {"freeze_fraction": 0.67, "lr": 1e-3, "lr_ratio": 0.1}, "survey winner, top third"
        )
        return found

    def draw(self) -> Candidate | None:
        """Return a recipe not yet proposed, or None when the space seems exhausted."""
        if not self.order:  # no backbone got through the survey
            return None
        for _ in range(DRAWS):
            rng = Random(stream(self.space.seed, "draw", self.drawn))
            self.drawn += 1
            id = rng.choices(self.order, weights=[0.5**place for place in range(len(self.order))])[0]
            spec = self.specs[id]
            suited = [s for s in self.space.suited(spec) if not s.baseline]
            if not suited:
                continue
            strategy = rng.choice(suited)
            values = {n: d.sample(rng) for n, d in sorted(self.space.domains(strategy, spec).items())}
            new = self._new(self.space.recipe(spec, strategy, values), "drawn, favouring the survey's best")
            if new:
                return new[0]
        return None

    def _named(self, id: str, strategy_id: str, values: dict[str, Scalar], reason: str) -> list[Candidate]:
        """Return the candidate if this strategy is at hand and applies; else nothing."""
        spec = self.specs[id]
        strategy = next((s for s in self.space.suited(spec) if s.id == strategy_id), None)
        if strategy is None:
            return []
        domains = self.space.domains(strategy, spec)
        fixed = {n: v for n, v in values.items() if n in domains and (n not in self.space.given or v in domains[n])}
        return self._new(self.space.recipe(spec, strategy, {**self._middle(strategy, spec), **fixed}), reason)

    def _middle(self, strategy: Strategy, spec: BackboneSpec) -> dict[str, Scalar]:
        rng = Random(stream(self.space.seed, "middle", strategy.id))
        return {n: d.sample(rng) for n, d in sorted(self.space.domains(strategy, spec).items())}

    def _new(self, recipe: Recipe, reason: str) -> list[Candidate]:
        # Two fractions that freeze the same number of stages are one candidate.
        same = {n: v for n, v in recipe.values.items() if n != "freeze_fraction"}
        key = replace(recipe, values=same).key
        if key in self.seen:
            return []
        self.seen.add(key)
        return [Candidate(recipe=recipe, reason=reason)]


def share_trained(phases: Iterable[Phase], stages: int, macs: Sequence[float]) -> float:
    """Return the mean cost of an epoch in forward passes: 1 + 2 x the trained share of the multiply-accumulates."""
    total = macs[-1] if macs else 1.0
    costs, epochs = 0.0, 0.0
    for phase in phases:
        before = 0.0
        if phase.freeze is not None and stages:
            before = total if phase.freeze >= stages else (macs[phase.freeze - 1] if phase.freeze else 0.0)
        frozen_only = before >= total
        costs += phase.epochs * (0.0 if frozen_only else 1.0 + 2.0 * (1.0 - before / max(total, 1.0)))
        epochs += phase.epochs
    return costs / epochs if epochs else 0.0


def values_of(recipe: Recipe) -> dict[str, Any]:
    """Return the values as phases see them, ``freeze`` among them."""
    return {**recipe.values, "freeze": recipe.freeze} if recipe.freeze is not None else dict(recipe.values)
