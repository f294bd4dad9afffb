"""What a strategy is, what it is given, and what it gives. Torch appears in types only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotransfer.codec import Scalar
from autotransfer.profiles import Profile
from autotransfer.protocols import Rows, Task
from autotransfer.schema import Phase, Training, Verdict
from autotransfer.space import Domain
from autotransfer.spec import BackboneSpec

if TYPE_CHECKING:
    from torch import Tensor, nn


LEAST_SPREAD = 0.01
"""Share of the median spread of all features."""


@dataclass(frozen=True, kw_only=True)
class HeadState:
    """A head given in closed form, on the raw pooled features that its strategy was given."""

    weight: Tensor
    """``float32`` [outputs, width]."""
    bias: Tensor
    """``float32`` [outputs]."""


@dataclass(frozen=True, kw_only=True)
class NeighbourState:
    """A head that answers a row with the mean of what it remembers of the most similar ones.

    Features and keys are brought to ``(x - mean) * scale`` and then to unit length; a neighbour's weight in the mean is
    a softmax of its cosine / temperature over all neighbours.
    """

    keys: Tensor
    """Raw pooled features of the rows remembered, ``float32`` [M, width]."""
    values: Tensor
    """What each stands for, ``float32`` [M, outputs]: shares of the classes, chances of the labels, or numbers."""
    mean: Tensor
    """``float32`` [width]."""
    scale: Tensor
    """``float32`` [width]."""
    neighbours: int
    """How many of the most similar rows count, from 1 to M."""
    temperature: float
    """Above 0."""
    link: str
    """What makes the mean an output: ``softmax`` (of shares, their logarithm), ``sigmoid`` (of chances, their logit) or
    ``identity``."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveContext:
    """What a strategy's own loss term may be built from, once before training."""

    backbone: nn.Module
    head: nn.Module
    """What core put on top; trained at the phase's own rate."""
    task: Task
    widths: tuple[int, ...]
    """Pooled features after each stage."""
    initial: Mapping[str, Tensor]
    """The pretrained parameters by name, before training."""
    unlabeled: Rows | None = None
    """Rows without labels, where some were given."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One training step, as a strategy's loss term sees it."""

    inputs: Any
    outputs: Tensor
    targets: Tensor
    """Of the rows themselves, also where they are mixed with others (``mixup``, ``cutmix``)."""
    backbone: nn.Module
    stage_features: tuple[Tensor, ...]
    """Pooled [B, width] after each stage."""
    unlabeled_features: tuple[Tensor, ...] = ()
    """The same for as many rows without labels, where the strategy is for such rows."""
    unlabeled_outputs: Tensor | None = None
    """The head's outputs on these."""
    progress: float = 0.0
    """Share of the whole training that is done, in [0, 1)."""


@dataclass(frozen=True, kw_only=True)
class FinishContext:
    """What a strategy's last touch may use."""

    module: nn.Module
    """Backbone and head; may be changed in place."""
    initial: Mapping[str, Tensor]
    """What training changed, as it was before the backbone was first trained, by name in ``module``; the head is that
    of this moment, after any phase that trained it alone."""
    snapshots: Sequence[Mapping[str, Tensor]]
    """What training changed, after each evaluation that was the best so far, oldest first; at most the strategy's
    ``snapshots``."""
    evaluate: Callable[[], float]
    """Validation objective of ``module`` as it stands."""
    unlabeled: Rows | None = None
    """Rows without labels, where some were given."""


class Strategy:
    """How a backbone is adapted. Subclass it; give at least ``id`` and ``phases`` or ``head``."""

    id: str = ""
    """``namespace/name``."""
    summary: str = ""
    source: str = ""
    """Paper or text that the method comes from."""
    needs: str = ""
    """What it needs of a backbone and of the data, in a few words, for listings: ``two stages or more``."""
    when: str = ""
    """When it applies, in a few words, for listings; ``applies`` decides: ``at most 10 training rows a class``."""
    baseline: bool = False
    """True: made for backbones with ``transfer=False``."""
    depths: bool = False
    """True: the head sees the pooled features of all stages side by side, each of unit norm in each row."""
    unlabeled: bool = False
    """True: it is made for unlabeled rows, and applies only where there are some. Its loss term sees a batch of them in
    each step, its last weights count and its last touch stays: labelled rows from elsewhere can judge neither."""
    snapshots: int = 8
    """How many of the best weights so far ``finish`` is given; each is kept in memory and in every checkpoint. Where it
    is given some, weights after any epoch may be the best; else those at the end of a rung, where the learning rate has
    fallen to 0."""

    def applies(self, profile: Profile, spec: BackboneSpec) -> Verdict:
        """Return whether this strategy suits the data and the backbone, and why not."""
        return Verdict(True)

    def space(self, profile: Profile, spec: BackboneSpec) -> dict[str, Domain]:
        """Return the values to search, by name. ``freeze_fraction``, ``lr`` and ``lr_ratio`` have their meaning."""
        return {}

    def phases(self, profile: Profile, spec: BackboneSpec, values: Mapping[str, Scalar]) -> list[Phase]:
        """Return the stretches of training.

        ``values["epochs"]`` is always there, ``values["freeze"]`` where freeze_fraction is in the space;
        ``len(spec.stages)`` is S.
        """
        return []

    def training(self, profile: Profile, values: Mapping[str, Scalar]) -> Training:
        """Return the settings of the loop; values named like its fields take their place."""
        return Training()

    def head(self, features: Tensor, targets: Tensor) -> HeadState | NeighbourState | None:
        """Return a head in closed form from ``float32`` [N, width] features and encoded targets, or None.

        A head of neighbours is not trained further: its strategy has no phases. Of several targets each one's head is
        asked for, on the rows that have its label; these are to be linear.

        Where ``depths`` is true, the features are those of all stages side by side. A method with an argument
        ``groups`` is given the number of each row's group as well, ``int64`` [N], or None where rows have none:
        what it chooses by cross-validation is to be chosen on folds that hold each group whole. One with an argument
        ``unlabeled`` is given the features of rows without labels, ``float32`` [M, width], or None.
        """
        return None

    def adapt(self, backbone: nn.Module, values: Mapping[str, Scalar], rows: Rows) -> None:
        """Change the backbone in place before training (LoRA, AdaBN); stage paths stay as they are.

        ``values["freeze"]`` is there as for ``phases``. A method with a fourth argument, ``owners``, is given the stage
        of each parameter, by name: what will not be trained is best left alone. Random numbers may be drawn from
        torch, which is seeded. Where features stay what they were (an adapter that begins at zero), the survey's
        features and head are used on.
        """

    def objective(self, context: ObjectiveContext) -> nn.Module | None:
        """Return a module called with each :class:`Step` that gives a loss term to add, or None."""
        return None

    def combine(self, gradients: Sequence[Sequence[Tensor]]) -> Sequence[Tensor] | None:
        """Return one gradient from those of each loss term (parameters in the same order), or None to add them.

        The terms are the task's loss, of several targets one for each, then the strategy's own where it has one.
        """
        return None

    def finish(self, context: FinishContext) -> None:
        """Change the trained module in place; kept when the validation objective does not fall, or by ``unlabeled``."""


def overrides(strategy: Strategy, door: str) -> bool:
    """Return whether a strategy's class has its own method for this door."""
    return getattr(type(strategy), door) is not getattr(Strategy, door)


def weight_matrices(backbone: nn.Module) -> dict[str, Tensor]:
    """Return what a backbone multiplies by, by name: matrices and kernels, tables of embeddings left out."""
    tables = {path for path, module in backbone.named_modules() if "embedding" in type(module).__name__.lower()}
    named = backbone.named_parameters()
    return {n: p for n, p in named if p.dim() > 1 and n.rpartition(".")[0] not in tables}


def even_spread(spread: Tensor, varies: Tensor) -> Tensor:
    """Return the spreads by which features are standardised for a linear head: no less than a hundredth of the median.

    A unit of the backbone that is nearly dead would get weights by which any change of it, in training or by rounding,
    drowns all others.

    Args:
        spread: standard deviations of the features over training rows [width].
        varies: which of them are no constants ``bool`` [width]; the median is of these.
    """
    return spread.clamp_min(LEAST_SPREAD * float(spread[varies].median())) if bool(varies.any()) else spread


def linear_weights(backbone: nn.Module) -> list[str]:
    """Return the names of the weight matrices of linear layers, torch's attention and GPT-2's layers among them."""
    own = ("weight", "in_proj_weight")
    return [n for n, p in weight_matrices(backbone).items() if p.dim() == 2 and n.rpartition(".")[2] in own]
