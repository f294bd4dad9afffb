"""Candidates: which recipes are worth trying, in which order, and why others are not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from autotransfer.codec import Scalar
from autotransfer.data.rows import augmentations
from autotransfer.errors import ConfigError, suggestion
from autotransfer.gap import Gap
from autotransfer.profiles import Profile
from autotransfer.recipes import (
    AUGMENT,
    AUGMENT_FROM,
    COMBINE,
    EQUAL,
    INPUT_SIZE,
    MEASURED,
    TASK_WEIGHTS,
    TOGETHER,
    spec_id,
)
from autotransfer.schema import Candidate, Recipe, Refusal, SurveyRecord, Training, Verdict
from autotransfer.search.balancing import BALANCE, balancing, faults, shown, usual
from autotransfer.search.costs import EPOCHS
from autotransfer.search.phases import is_family, recipe_phases, trains
from autotransfer.space import Choice, Domain
from autotransfer.spec import BackboneSpec, card_of, frozen_stages, has_size, with_stages
from autotransfer.strategy import Strategy, overrides
from autotransfer.train.sampling import stream

HEAD_START = "head_start"
"""Core's own value: whether the head begins as the survey's closed-form solution, or cold."""
_LOOP = {f.name for f in dataclasses.fields(Training)}
DRAWN = 192
"""Recipes drawn for a generation, of which the most promising few are run."""
FAMILY = 24
"""Heads that are trained in one product: more gain nothing on a CPU (benchmarks/heads.py)."""
HEAD_VALUES = ("weight_decay", "dropout", "label_smoothing", BALANCE)
"""Loop settings in which heads of one product may differ."""
FEW_HEADS, MANY_HEADS = 2, 4
"""Backbones that get heads in any case: where trials are counted, and else, since heads cost next to nothing."""
ADAPTATIONS = ("core/coral", "core/adabn", "core/mcc")
"""Strategies for unlabeled rows that are tried in any case: two that train nothing, and the one that trains best."""
AGAIN = "the best of earlier runs on these data"
UNKNOWN_STAGES = tuple(f"stage {i}" for i in range(12))
"""Stand in for those that the survey will find."""
FAILURES = 2
"""Trials of a strategy on a backbone that may fail before no other is proposed."""
KINDS = 2
"""Kinds of augmentation that a last rung is tried with unasked, where they are worth their price."""
ATTEMPTS = 4
"""Draws for each recipe wanted before the space is taken for exhausted."""


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
    frozen: Mapping[str, str] = field(default_factory=dict)
    """Arithmetic of the survey's passes by backbone: that of recipes which train no part of it."""
    moving: dict[str, str] = field(default_factory=dict)
    """Arithmetic of training by backbone, as far as the first training of each has told it."""
    failed: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Why first rungs failed, by backbone and strategy."""
    refused: dict[Refusal, None] = field(default_factory=dict)
    """What does not apply, each once, in the order in which it was found: there may be thousands."""
    gap: Gap | None = None
    """How the unlabeled rows differ from the others, once it is measured."""
    foretelling: bool = False
    """Of each strategy it is told why it does not apply, whether or not anybody asked for it."""

    def suited(self, spec: BackboneSpec) -> list[Strategy]:
        """Return the strategies that apply to a backbone; why others do not is kept.

        Those for unlabeled rows go without saying where there are none; ``unsuited`` alone tells of them.
        """
        found, told = [], self.foretelling or self.profile.unlabeled is not None
        for strategy in self.strategies:
            verdict = strategy.applies(self.known, spec)
            reasons = self.failed.get((spec.id, strategy.id), [])
            if verdict.ok and len(reasons) >= FAILURES:
                verdict = Verdict(False, f"it was given up after {len(reasons)} failures: {reasons[-1]}")
            if verdict.ok:
                found.append(strategy)
            elif strategy.baseline == (not spec.transfer) and (told or not strategy.unlabeled):
                self.refuse(f"{strategy.id} on {spec.id}", verdict.reason)
        return found

    @property
    def known(self) -> Profile:
        """The profile with the gap to the unlabeled rows, once it is measured: what ``applies`` may ask."""
        rows = self.profile.unlabeled
        return self.profile if rows is None else replace(self.profile, unlabeled=replace(rows, gap=self.gap))

    def unsuited(self) -> list[Refusal]:
        """Return why strategies do not apply, as far as that is known before the survey.

        A backbone whose stages are not declared is taken to have many: none may be refused for want of them yet.
        """
        alone = replace(self, refused={}, foretelling=True)
        for spec in self.specs.values():
            alone.suited(spec if spec.stages else with_stages(spec, UNKNOWN_STAGES))
        return alone.refusals

    @property
    def refusals(self) -> list[Refusal]:
        """Why strategies do not apply, as far as it was asked."""
        return list(self.refused)

    def refuse(self, name: str, reason: str) -> None:
        """Keep why something is not used, unless that is known."""
        self.refused.setdefault(Refusal(name=name, reason=reason))

    def domains(self, strategy: Strategy, spec: BackboneSpec) -> dict[str, Domain]:
        """Return the values to search for a strategy on a backbone."""
        own = strategy.space(self.profile, spec)
        if spec.transfer and not overrides(strategy, "head"):  # else the head has its own closed form
            own = {HEAD_START: Choice((True, False)), **own}
            if self.profile.each:
                own = {TASK_WEIGHTS: Choice(TOGETHER[TASK_WEIGHTS]), **own}
        own = {**balancing(self.profile, closed=overrides(strategy, "head")), **own}
        extra = {n: d for n, d in self.given.items() if n in own or n in _LOOP or n == "epochs"}
        if AUGMENT in self.given and "none" not in self.given[AUGMENT] and augmentations(spec.input):
            extra[AUGMENT] = self.given[AUGMENT]  # what leaves the choice to the finalists is no value of the others
        if COMBINE in self.given and TASK_WEIGHTS in own and not overrides(strategy, "combine"):
            extra[COMBINE] = self.given[COMBINE]  # one backward pass for each target is paid only where it is asked for
        return {**own, **extra}

    def finals(self, spec: BackboneSpec) -> tuple[str, ...]:
        """Return the kinds of augmentation that the leader's last rung may be tried with."""
        if AUGMENT not in self.given:
            return augmentations(spec.input)[:KINDS]
        return tuple(k for k in augmentations(spec.input) if k in self.given[AUGMENT] and "none" in self.given[AUGMENT])

    def recipe(self, spec: BackboneSpec, strategy: Strategy, values: Mapping[str, Scalar]) -> Recipe:
        """Return the recipe of these values, freeze_fraction resolved on the backbone's stages."""
        backbone, size = card_of(spec)
        kept = {"epochs": EPOCHS, **values, **({} if size is None else {INPUT_SIZE: size})}
        freeze = None
        if isinstance(kept.get("freeze_fraction"), (int, float)):
            freeze = frozen_stages(float(kept["freeze_fraction"]), len(spec.stages))  # type: ignore[arg-type]
            if freeze == len(spec.stages):
                kept["lr_ratio"] = 1.0  # nothing is left that it would be the rate of
        settings = {n: v for n, v in kept.items() if n in _LOOP}
        training = replace(strategy.training(self.profile, kept), **settings)  # type: ignore[arg-type]
        made = Recipe(
            backbone=backbone,
            strategy=strategy.id,
            values=kept,
            freeze=freeze,
            stages=spec.stages,
            training=training,
            seed=self.seed,
            threads=self.threads,
        )
        phases = recipe_phases(strategy, self.profile, spec, made)
        moves = any(trains(p, len(spec.stages)) for p in phases)
        idle = {AUGMENT, AUGMENT_FROM} if all(p.augment == "none" for p in phases) else set[str]()
        idle |= set() if moves else set(TOGETHER)  # heads alone do not disturb each other
        if idle & kept.keys():
            made = replace(made, values={n: v for n, v in kept.items() if n not in idle})
        known = self.moving if moves else self.frozen
        return replace(made, dtype=known.get(spec.id, MEASURED))

    def unknown_values(self) -> None:
        """Raise for names in the caller's space that no strategy and no loop setting knows, and for unknown kinds.

        Raises:
            ConfigError: all of them, with suggestions.
        """
        found, known = faults(self.profile, self.given), {*_LOOP, "epochs", HEAD_START}
        known |= {INPUT_SIZE} if any(has_size(s) for s in self.specs.values()) else set()
        kinds = {k for s in self.specs.values() for k in augmentations(s.input)}
        known |= {AUGMENT} if kinds else set()
        known |= set(TOGETHER) if self.profile.each else set()
        for strategy in self.strategies:
            for spec in self.specs.values():
                if strategy.applies(self.profile, spec).ok:
                    known |= set(strategy.space(self.profile, spec))
        for name, wanted in {AUGMENT: ("none", *sorted(kinds)) if kinds else (), **TOGETHER}.items():
            asked = self.given.get(name) if name in known else None
            values = asked.values if isinstance(asked, Choice) else (None,)
            if asked is not None and wanted and not set(values) <= set(wanted):
                found.append(f"{name} is {shown(asked)}; wanted some of: {', '.join(wanted)}")
        wrong = [f"{n!r}{suggestion(n, known)}" for n in self.given if n not in known]
        if wrong:
            found.append(f"space holds names that nothing knows: {', '.join(wrong)}; known: {', '.join(sorted(known))}")
        if found:
            raise ConfigError("; ".join(found))


class Proposer:
    """Gives recipes not yet proposed: the guaranteed ones, then whatever a judgement finds best among many drawn."""

    def __init__(
        self,
        space: Space,
        survey: Sequence[SurveyRecord],
        order: Sequence[str],
        static: str | None,
        heads: int = FEW_HEADS,
    ) -> None:
        """Begin.

        Args:
            space: what may be combined.
            survey: records of the backbones that were surveyed.
            order: ids of the backbones to search, best estimate first.
            static: the backbone that one would pick without looking at the data.
            heads: backbones, best first, that heads are trained on in any case.
        """
        self.heads = heads
        self.space = space
        self.survey = survey
        self.order = list(order)
        self.static = static
        found = {r.backbone: r for r in survey}
        self.specs = {i: _surveyed(s, found[i]) if i in found else s for i, s in space.specs.items()}
        self.seen: set[str] = set()
        self.families: set[tuple[str, str]] = set()
        """Backbones and strategies whose heads were trained together already."""
        self.drawn = 0

    def again(self) -> Proposer:
        """Return a proposer that has proposed nothing yet."""
        return Proposer(self.space, self.survey, self.order, self.static, self.heads)

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

        The default recipe (static winner, all unfrozen, layer decay .75) comes first, so that the search cannot end
        below what one would have done without it; then heads on the best backbones, on the last output and on all
        depths of each (the latter was better on six of six tasks: benchmarks/depths.py), and the best backbone with
        its top third unfrozen. Where there are unlabeled rows that differ, the best backbone is adapted to them.
        """
        if not self.order:
            return []
        best, others = self.order[0], self.order[1 : self.heads]
        static = self.static if self.static in self.specs else best
        tuned: dict[str, Scalar] = {"lr": 1e-3, HEAD_START: True, TASK_WEIGHTS: EQUAL}
        fine = {"lr_ratio": 0.3, **tuned}  # best on most of fifteen cells: benchmarks/epochs.py
        found: list[Candidate] = []
        found += self._named(static, "core/full", {"layer_decay": 0.75, **fine}, "default recipe")
        found += self._named(best, "core/probe", {"lr": 3e-3, "weight_decay": 0.1}, "heads on the survey winner")
        for name in ADAPTATIONS:
            whole = {"freeze_fraction": 0.0, "lr_ratio": 0.1, **tuned}
            found += self._named(best, name, whole, "the survey winner adapted to the unlabeled rows")
        found += self._named(best, "core/partial", {"freeze_fraction": 0.67, **fine}, "survey winner, top third")
        found += self._named(best, "core/depths", {}, "one head on all depths of the survey winner")
        for id in others:
            near = "one of the survey's best"
            found += self._named(id, "core/probe", {"lr": 3e-3, "weight_decay": 0.1}, f"heads on {near}")
            found += self._named(id, "core/depths", {}, f"one head on all depths of {near}")
        return found

    def again_best(self, recipe: Recipe) -> list[Candidate]:
        """Return the best recipe of an earlier run on the same data, if it lies in this run's space."""
        spec = self.specs.get(spec_id(recipe))
        strategy = next((s for s in self.space.strategies if s.id == recipe.strategy), None)
        if spec is None or strategy is None or spec_id(recipe) not in self.order:
            return []
        outside = any(n in self.space.given and v not in self.space.given[n] for n, v in recipe.values.items())
        if outside or not strategy.applies(self.space.known, spec).ok:
            return []
        return self._new(self.space.recipe(spec, strategy, recipe.values), AGAIN)

    def draw(self) -> list[Candidate]:
        """Return many recipes not yet tried, drawn in favour of what the survey favours; empty: none is left."""
        if not self.order:  # no backbone got through the survey
            return []
        found: dict[str, Recipe] = {}
        for _ in range(ATTEMPTS * DRAWN):
            if len(found) == DRAWN:
                break
            recipe = self._drawn()
            key = _key(recipe) if recipe is not None else ""
            if recipe is not None and key not in self.seen:
                found.setdefault(key, recipe)
        reason = "expected to improve most for its cost"
        return [Candidate(recipe=r, reason=reason) for r in self._one_a_family(list(found.values()))]

    def take(self, candidate: Candidate) -> Candidate | None:
        """Return a drawn candidate with its rivals, and note that they are tried, so that none is proposed again.

        None where it is a rival of a head that was taken after it was drawn: then it is tried already.
        """
        return next(iter(self._new(candidate.recipe, candidate.reason)), None)

    def _one_a_family(self, recipes: list[Recipe]) -> list[Recipe]:
        """Return the recipes without heads that would be trained with another one's, or were; unless all are such."""
        named = set(self.families)
        kept, spare = [], []
        for recipe in recipes:
            family = (spec_id(recipe), recipe.strategy)
            if not self._is_family(recipe):
                kept.append(recipe)
            elif family in named:
                spare.append(recipe)
            else:
                named.add(family)
                kept.append(recipe)
        return kept or spare

    def _is_family(self, recipe: Recipe) -> bool:
        strategy = next(s for s in self.space.strategies if s.id == recipe.strategy)
        phases = recipe_phases(strategy, self.space.profile, self.specs[spec_id(recipe)], recipe)
        return recipe.training.balance != "sampling" and is_family(strategy, phases, len(recipe.stages))

    def _rivals(self, recipe: Recipe) -> tuple[Recipe, ...]:
        """Return heads to train beside this one, each new: as many passes and as large batches, other values."""
        strategy, spec = next(s for s in self.space.strategies if s.id == recipe.strategy), self.specs[spec_id(recipe)]
        domains = self.space.domains(strategy, spec)
        found: dict[str, Recipe] = {}
        for draw in range(2 * FAMILY):
            rng = Random(stream(self.space.seed, "rival", recipe.key, draw))
            values = {n: d.sample(rng) for n, d in sorted(domains.items())} | {"epochs": recipe.values["epochs"]}
            rival = self.space.recipe(spec, strategy, values)
            key = _key(rival)
            alike = replace(rival.training, **{n: getattr(recipe.training, n) for n in HEAD_VALUES})
            suits = alike == recipe.training and rival.training.balance != "sampling"
            if key not in self.seen and suits and len(found) < FAMILY - 1:
                found.setdefault(key, rival)
        self.seen |= set(found)
        return tuple(found.values())

    def _drawn(self) -> Recipe | None:
        rng = Random(stream(self.space.seed, "draw", self.drawn))
        self.drawn += 1
        id = rng.choices(self.order, weights=[0.7**place for place in range(len(self.order))])[0]
        spec = self.specs[id]
        suited = [s for s in self.space.suited(spec) if not s.baseline]
        if not suited:
            return None
        strategy = rng.choice(suited)
        values = {n: d.sample(rng) for n, d in sorted(self.space.domains(strategy, spec).items())}
        return self.space.recipe(spec, strategy, values)

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
        rng, domains = Random(stream(self.space.seed, "middle", strategy.id)), self.space.domains(strategy, spec)
        return {n: d.sample(rng) for n, d in sorted(domains.items())} | usual(domains)

    def _new(self, recipe: Recipe, reason: str) -> list[Candidate]:
        key = _key(recipe)
        if key in self.seen:
            return []
        self.seen.add(key)
        if not self._is_family(recipe):
            return [Candidate(recipe=recipe, reason=reason)]
        self.families.add((spec_id(recipe), recipe.strategy))
        return [Candidate(recipe=recipe, reason=reason, rivals=self._rivals(recipe))]


def _surveyed(spec: BackboneSpec, record: SurveyRecord) -> BackboneSpec:
    """Return a card with what the survey found out about the network."""
    linear = record.linear if spec.linear is None else spec.linear
    return replace(with_stages(spec, record.stages), linear=linear, batch_norms=record.batch_norms)


def _key(recipe: Recipe) -> str:
    # Two fractions that freeze the same number of stages are one candidate, measured or not.
    values = {n: v for n, v in recipe.values.items() if n != "freeze_fraction"}
    return replace(recipe, values=values, dtype=MEASURED).key
