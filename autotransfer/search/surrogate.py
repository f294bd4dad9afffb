"""What a recipe is expected to reach: a Gaussian process over recipes, around what the survey says.

Objectives are turned into *skill*: 0 is the constant predictor, 1 the survey's best head. The process models how far
a recipe ends above the skill of its backbone's own head, so that what earlier runs found on other data can be used
beside the trials of this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from autotransfer.recipes import TASK_WEIGHTS, UNCERTAINTY, spec_id
from autotransfer.schema import Phase, Recipe

Array = np.ndarray

SPREAD = 0.07
"""Prior standard deviation of one recipe's gain over the head about that of others, in skill."""
COMMON = 0.2
"""The same of what all recipes gain on these data: validation rows are easier or harder than those of the survey, and
a few trials tell whether fine-tuning pays here at all."""
FULL_GAIN = 0.06
"""Expected gain of training all stages at the best learning rate; measured 5 to 7 points on two texts tasks."""
BEST_RATE = -3.55
"""log10 of the learning rate, a mean over the trained stages, at which it is expected (benchmarks/epochs.py)."""
BELOW, ABOVE = 0.6, 0.4
"""Decades below and above over which the expectation falls to 60 %: what is too high spoils the weights."""
UNEVEN_LOSS = 0.05
"""Expected loss of not making classes count alike where that is a value of the recipe: the survey's head does."""
LENGTHS = {
    "trained": 0.4,
    "backbone_lr": 0.7,
    "head_lr": 1.2,
    "layer_decay": 0.4,
    "head_start": 1.0,
    "uneven": 0.7,
    "weighed": 1.0,
}
"""Distances (shares, decades, 0 or 1) over which two recipes come to resemble each other by 60 %."""
BACKBONES, STRATEGIES, RUNS = 1.0, 0.7, 1.0
"""Distance between two backbones, strategies and runs: a correlation of .61, .78 and .61."""
WARM_GAINS, COLD_GAINS = (0.03, 0.02), (0.10, 0.03)
"""Skill that a rung is expected to add to the one before, with a head start and without, second rung and third."""
GAIN_SPREAD = 0.03
"""Standard deviation of what a rung adds."""
PRIOR_COUNT = 2.0
"""How many observed rungs that expectation is worth."""
FANTASY_NOISE = 0.02
SHOWN = 0.25
"""Share of the noise of a validation score below which an expected improvement is none."""


@dataclass(frozen=True)
class Shape:
    """What a recipe does to its backbone, whatever its strategy is called."""

    trained: float
    """Largest share of the stages that a phase trains."""
    rate: float
    """The backbone's learning rate in that phase, the mean of its stages."""
    warm: bool
    """The head is a good one before the backbone is first trained."""
    uneven: bool = False
    """It could balance classes of different size, and does not."""


@dataclass(frozen=True)
class Observation:
    """What a recipe gained over its backbone's own head, in skill."""

    recipe: Recipe
    gain: float
    noise: float
    """Standard deviation."""
    here: bool = True
    """Seen in this run, not an earlier one."""


class Surrogate:
    """Predicts the final skill of recipes.

    Args:
        survey: objective of each backbone's best closed-form head, by id.
        floor: objective of the constant predictor; None where there is no baseline.
        validation: rows that objectives were measured on.
        past: what recipes gained in earlier runs.
        ceiling: the highest objective that there is.
        phases: gives those of a recipe; None where they are not known, so that its values tell.
    """

    def __init__(
        self,
        survey: Mapping[str, float],
        floor: float | None,
        validation: int,
        past: Sequence[Observation] = (),
        ceiling: float = math.inf,
        phases: Callable[[Recipe], Sequence[Phase] | None] = lambda _recipe: None,
    ) -> None:
        self.top = max(survey.values(), default=0.0)
        lowest = min(survey.values(), default=0.0)
        self.floor = floor if floor is not None else lowest - max(0.1 * abs(lowest), self.top - lowest, 1e-3)
        self.scale = max(self.top - self.floor, 0.02 * abs(self.top), 1e-9)
        self.survey = {i: self.skill(v) for i, v in survey.items()}
        self.ceiling = self.skill(ceiling)
        # Trials are compared on the same rows, so that half of the sampling error is common to all of them.
        self.noise = 0.5 * sampling_error(self.top, self.floor, validation) / self.scale
        self.past = list(past)
        self.phases = phases
        self.shapes: dict[str, Shape] = {}
        self.seen: dict[str, Observation] = {}
        self.steps: dict[tuple[bool, int], list[float]] = {}

    @property
    def least(self) -> float:
        """The smallest expected improvement, in skill, that the validation rows could show."""
        return SHOWN * self.noise

    def skill(self, objective: float) -> float:
        """Return an objective as skill."""
        return (objective - self.floor) / self.scale

    def observe(self, recipe: Recipe, objective: float, left: int, before: float | None = None) -> None:
        """Take a trial's objective after a rung.

        Args:
            recipe: of the trial.
            objective: best so far.
            left: rungs that it has not run.
            before: its objective after the rung before; None after the first.
        """
        if before is not None:
            self.steps.setdefault((self._shape(recipe).warm, left), []).append(
                self.skill(objective) - self.skill(before)
            )
        mean, spread = self.expect(recipe, objective, left)
        gain = mean - self._own(spec_id(recipe))
        self.seen[recipe.key] = Observation(recipe, gain, math.hypot(self.noise, spread))

    def expect(self, recipe: Recipe, objective: float | None, left: int) -> tuple[float, float]:
        """Return mean and standard deviation of the final skill of a trial with ``left`` rungs to run."""
        if objective is None:
            return float("-inf"), 0.0
        ahead = [self._step(self._shape(recipe).warm, n) for n in range(left)]
        return self.skill(objective) + sum(ahead), GAIN_SPREAD * math.sqrt(left)

    def predict(self, recipes: Sequence[Recipe], fantasies: Sequence[Recipe] = ()) -> tuple[Array, Array]:
        """Return means and standard deviations ``float64`` [N] of the final skill.

        Args:
            recipes: not tried yet.
            fantasies: recipes being tried: taken to end as expected, so that a generation is diverse (the kriging
                believer of Ginsbourger et al. 2010).
        """
        known = [*self.past, *(self.seen[k] for k in sorted(self.seen))]
        if fantasies:
            means, _ = self._gains(list(fantasies), known)
            known += [Observation(r, m, FANTASY_NOISE) for r, m in zip(fantasies, means, strict=True)]
        gains, spreads = self._gains(list(recipes), known)
        own = np.asarray([self._own(spec_id(r)) for r in recipes])
        return own + gains, spreads

    def best_here(self) -> float | None:
        """Return the best skill of earlier runs on these very rows; None where there was none."""
        return max((self.reached(o) for o in self.past if o.here), default=None)

    def reached(self, seen: Observation) -> float:
        """Return the skill that an observed recipe ended with."""
        return self._own(spec_id(seen.recipe)) + seen.gain

    def _gains(self, recipes: list[Recipe], known: Sequence[Observation]) -> tuple[Array, Array]:
        prior = np.asarray([expected_gain(self._shape(r)) for r in recipes])
        if not known:
            return prior, np.full(len(recipes), math.hypot(SPREAD, COMMON))
        names = _Names([*(o.recipe for o in known), *recipes])
        x = np.stack([names.encode(o.recipe, self._shape(o.recipe), o.here) for o in known])
        y = np.asarray([o.gain - expected_gain(self._shape(o.recipe)) for o in known])
        process = GaussianProcessRegressor(
            ConstantKernel(COMMON**2, "fixed") + ConstantKernel(SPREAD**2, "fixed") * RBF(1.0, "fixed"),
            alpha=np.asarray([max(o.noise, 1e-3) ** 2 for o in known]),
            optimizer=None,
        ).fit(x, y)
        means, spreads = process.predict(
            np.stack([names.encode(r, self._shape(r), True) for r in recipes]), return_std=True
        )
        return prior + means, spreads

    def _shape(self, recipe: Recipe) -> Shape:
        if recipe.key not in self.shapes:
            self.shapes[recipe.key] = shape_of(recipe, self.phases(recipe))
        return self.shapes[recipe.key]

    def _own(self, backbone: str) -> float:
        return self.survey.get(backbone, min(self.survey.values(), default=0.0))

    def _step(self, warm: bool, left: int) -> float:
        """Return what the rung with ``left`` rungs after it adds: the prior, drawn to what was observed."""
        prior = (WARM_GAINS if warm else COLD_GAINS)[max(0, 1 - left)]
        found = self.steps.get((warm, left), [])
        return (PRIOR_COUNT * prior + sum(found)) / (PRIOR_COUNT + len(found))


def sampling_error(objective: float, floor: float, rows: int) -> float:
    """Return about how far an objective on so many rows lies from that on all, as a standard deviation.

    Of a share between 0 and 1 that of a proportion, one failure and one success added to what was counted (Agresti
    and Coull 1998), so that it is not zero at the ends. Errors grow with what they measure: that of a root mean
    squared error of normal residuals is its ``2 N``-th part, in squares.
    """
    rows = max(4, rows)
    if floor < 0 or objective > 1:
        return abs(objective) / math.sqrt(2 * rows)
    share = (objective * rows + 1) / (rows + 2)
    return math.sqrt(share * (1 - share) / rows)


def improvement(mean: float, spread: float, best: float, ceiling: float = math.inf) -> float:
    """Return the expected improvement on ``best`` (Jones et al. 1998, eq. 15) of a score that ends at ``ceiling``."""
    if ceiling < math.inf:
        return max(0.0, improvement(mean, spread, best) - improvement(mean, spread, ceiling))
    if not math.isfinite(mean):
        return 0.0
    if spread <= 0:
        return max(0.0, mean - best)
    z = (mean - best) / spread
    return float((mean - best) * norm.cdf(z) + spread * norm.pdf(z))


def shape_of(recipe: Recipe, phases: Sequence[Phase] | None) -> Shape:
    """Return the shape of a recipe: from its phases, or, where they are not known, as far as its values say."""
    started = bool(recipe.values.get("head_start", False))
    uneven = recipe.values.get("balance") == "none"
    phases = _told(recipe) if phases is None else phases
    count = len(recipe.stages)
    found = [_trained(p, count) for p in phases]
    first, most = next((i for i, f in enumerate(found) if f), 0), max(map(len, found), default=0)
    if not most:
        return Shape(0.0, 0.0, started or first > 0, uneven)
    rates = next(f for f in found if len(f) == most)
    return Shape(most / max(1, count), sum(rates) / most, started or first > 0, uneven)


def _told(recipe: Recipe) -> list[Phase]:
    """Return the phase that a recipe's values tell of; none where they say nothing of the backbone."""
    if "lr_ratio" not in recipe.values and recipe.freeze is None:
        return []
    lr, ratio, decay = (_number(recipe, n, d) for n, d in (("lr", 1e-3), ("lr_ratio", 1.0), ("layer_decay", 1.0)))
    freeze = recipe.freeze if recipe.stages else None
    return [Phase(epochs=1.0, lr=lr, lr_ratio=min(1.0, ratio), layer_decay=decay, freeze=freeze)]


def _trained(phase: Phase, stages: int) -> list[float]:
    """Return the learning rates of the stages that a phase trains; that of one where they are not known."""
    frozen, count, own = phase.freeze or 0, max(1, stages), phase.lr * phase.lr_ratio
    chosen = range(frozen, count) if phase.stages is None else phase.stages
    if not phase.epochs or (frozen and not stages):
        return []
    rates = [phase.stage_lrs.get(str(s), own * phase.layer_decay ** (count - 1 - s)) for s in chosen]
    return [r for r in rates if r > 0]


def expected_gain(shape: Shape) -> float:
    """Return what a recipe is expected to gain over its backbone's own head, in skill, before any trial."""
    lost = UNEVEN_LOSS * shape.uneven
    if not shape.trained:
        return -lost
    away = math.log10(shape.rate) - BEST_RATE
    return FULL_GAIN * math.sqrt(shape.trained) * math.exp(-0.5 * (away / (ABOVE if away > 0 else BELOW)) ** 2) - lost


class _Names:
    """Numbers backbones and strategies, and turns recipes into points."""

    def __init__(self, recipes: Sequence[Recipe]) -> None:
        self.backbones = sorted({spec_id(r) for r in recipes})
        self.strategies = sorted({r.strategy for r in recipes})

    def encode(self, recipe: Recipe, shape: Shape, here: bool) -> Array:
        """Return a point whose squared distance to another one is twice minus the logarithm of their correlation."""
        lr = math.log10(_number(recipe, "lr", 1e-3))
        # The rate of a backbone that does not move is no difference between two heads.
        own = math.log10(shape.rate) if shape.trained else -4.0
        values = {
            "trained": shape.trained,
            "backbone_lr": own,
            "head_lr": lr,
            "layer_decay": _number(recipe, "layer_decay", 1.0),
            "head_start": float(shape.warm),
            "uneven": float(shape.uneven),
            "weighed": float(recipe.values.get(TASK_WEIGHTS) == UNCERTAINTY),
        }
        point = [values[n] / length for n, length in LENGTHS.items()]
        # Two one-hot vectors differ in two places.
        point += [BACKBONES / math.sqrt(2) * (spec_id(recipe) == b) for b in self.backbones]
        point += [STRATEGIES / math.sqrt(2) * (recipe.strategy == s) for s in self.strategies]
        return np.asarray([*point, 0.0 if here else RUNS])


def _number(recipe: Recipe, name: str, default: float) -> float:
    value = recipe.values.get(name)
    return float(value) if isinstance(value, (int, float)) and value > 0 else default
