"""The contracts between core and plugins. Torch appears in types only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from autotransfer.codec import Scalar
from autotransfer.schema import Phase, Profile, Training, Verdict
from autotransfer.space import Domain
from autotransfer.spec import BackboneSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    Inputs = Tensor | Mapping[str, Tensor] | Sequence[str]
    """One batch as a backbone takes it: called as ``module(inputs)``, a mapping as ``module(**inputs)``."""


MASK = "attention_mask"
"""Name of the inputs' mask [B, T], 1 where a row has something, 0 where it is padded; core pools features under it."""


class Tokenizer(Protocol):
    """What the tokenizer of a text spec's input gives: called as ``factory(folder, max_length=...)``.

    ``folder`` holds the backbone's weights and assets; None in the kit, where any tokenizer of the right ids will do.
    May also have, for augmentation: ``mask: int | None``, the id that stands for a token that is hidden (else hidden
    ones are left out), and ``special``, the ids that are never hidden (else those that an empty text has).
    """

    key: str
    """Names the tokenizer and its length: texts are tokenised once for each key."""
    pad: int
    """Id of the padding token."""
    max_length: int
    """Tokens of the longest row that it gives, special ones included."""

    def __call__(self, texts: Sequence[str]) -> tuple[Sequence[Sequence[int]], Sequence[int]]:
        """Return the ids of each text, cut to ``max_length``, and its number of tokens before the cut."""
        ...


class Dataset(Protocol):
    """Labelled rows as a reader gives them; nothing is decoded before it is asked for."""

    name: str
    modality: str
    """``image``, ``text`` or ``audio``."""
    targets: Mapping[str, Sequence[Any]]
    """Raw values by target name, one a row; None where a label is missing."""
    splits: Sequence[str | None] | None
    """``train``, ``validation`` or ``test`` by row where the source gives them."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def load(self, index: int) -> Any:
        """Return the decoded row: an image as ``uint8`` array [H, W, 3], a text, or (waveform, sample rate).

        Raises:
            DataError: the row cannot be read.
        """
        ...

    def row_name(self, index: int) -> str:
        """Return how a user knows the row: its path relative to the source, or ``row 17``."""
        ...

    def content_hash(self, index: int) -> str:
        """Return a hash that equal rows share."""
        ...


class Rows(Protocol):
    """Rows prepared for one backbone: what training and the survey see.

    May also have ``lengths(indices=None) -> int64 [N] | None``: a pass whose order is free then takes rows of like
    length together; and ``told() -> str``: what the survey notes of the inputs.
    """

    targets: Tensor
    """Encoded by the task: ``int64`` [N], or ``float32`` [N, K]; of several targets NaN where a label is missing."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def batch(self, indices: Sequence[int], augment: str = "none", rng: np.random.Generator | None = None) -> Inputs:
        """Return the inputs of these rows, in this order: as they are, or ``light`` or ``strong``, by ``rng``."""
        ...

    @property
    def views(self) -> int:
        """How many fixed views of each row there are, the row as it is among them: at least 1."""
        ...

    def view(self, numbers: int | np.ndarray) -> Rows:
        """Return the same rows, each in its view of this number: one for all rows, or ``int64`` [N]; 0: as it is."""
        ...


class Task(Protocol):
    """One kind of prediction: owns encoding, loss, metrics and decoding."""

    name: str
    metric: str
    """What decides."""
    classes: tuple[str, ...]
    outputs: int
    """Width of the head."""

    def encode(self, values: Sequence[Any]) -> Tensor:
        """Return targets ``int64`` [N], or ``float32`` [N, K].

        Raises:
            DataError: a value is not one that this task was made for.
        """
        ...

    def survey_target(self, targets: Tensor) -> Tensor:
        """Return the ``float64`` [N, K] matrix that a closed-form head is fitted to."""
        ...

    def loss(
        self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Return the mean loss over rows, a scalar, each row's (and label's) by its weight: [N], or [N, K]."""
        ...

    def head(self, output: str, width: int, dropout: float = 0.0) -> nn.Module:
        """Return the head for a backbone output of this kind (vector, tokens or map)."""
        ...

    def scores(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return every metric of this task."""
        ...

    def objective(self, scores: Mapping[str, float]) -> float:
        """Return the deciding metric with its sign turned so that higher is better."""
        ...

    def answers(self, outputs: Tensor) -> dict[str, Tensor]:
        """Return what a user wants of outputs [N, outputs], by name, as tensors: it is exported with the network.

        ``probabilities`` [N, classes], or ``values`` [N] in the target's own unit.
        """
        ...

    def probabilities(self, outputs: Tensor) -> np.ndarray[Any, Any]:
        """Return ``float64`` [N, classes].

        Raises:
            DataError: the task has no probabilities.
        """
        ...

    def decode(self, outputs: Tensor) -> np.ndarray[Any, Any]:
        """Return predictions in the user's own values."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return what ``tasks.from_json`` needs to make this task again."""
        ...


class TaskPart(Protocol):
    """The task of one target of several, and where its share of the outputs lies."""

    @property
    def target(self) -> str:
        """Its name."""
        ...

    @property
    def task(self) -> Task:
        """What is predicted."""
        ...

    @property
    def outputs(self) -> slice:
        """Its outputs among those of all."""
        ...

    @property
    def evened(self) -> bool:
        """Whether the balance of a recipe is for it."""
        ...

    def labelled(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers ``int64`` [n] of the rows that have this label, and the label as ``task`` encodes it."""
        ...


@runtime_checkable
class Tasks(Protocol):
    """What a task of several targets has too; they are ``float32`` [N, K], NaN where a label is missing."""

    @property
    def parts(self) -> Sequence[TaskPart]:
        """The targets, in the order of their outputs."""
        ...


@runtime_checkable
class FittedModule(Protocol):
    """What the factory of a *fitted* spec returns: an ``nn.Module`` with these two methods beside ``forward``."""

    def fit(self, rows: Iterable[Any], targets: Tensor) -> FittedState:
        """Return the state learned from training rows (an iterable of batches of inputs) and encoded targets.

        Of several targets these are ``float32`` [N, outputs]: classes as 0 and 1, a column's mean where a label is
        missing.
        """
        ...

    def restore(self, state: FittedState) -> None:
        """Take on a state that ``fit`` gave; ``forward`` works from here on."""
        ...


@dataclass(frozen=True, kw_only=True)
class FittedState:
    """Named tensors and JSON; saved in the model folder."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


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
    """The same for a batch without labels, where there is one."""


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
    snapshots: int = 8
    """How many of the best weights so far ``finish`` is given; each is kept in memory and in every checkpoint."""

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

        Where ``depths`` is true, the features are those of all stages side by side. A method with a third argument,
        ``groups``, is given the number of each row's group as well, ``int64`` [N], or None where rows have none:
        what it chooses by cross-validation is to be chosen on folds that hold each group whole.
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
        """Change the trained module in place; kept only when the validation objective does not fall."""


def overrides(strategy: Strategy, door: str) -> bool:
    """Return whether a strategy's class has its own method for this door."""
    return getattr(type(strategy), door) is not getattr(Strategy, door)


def weight_matrices(backbone: nn.Module) -> dict[str, Tensor]:
    """Return what a backbone multiplies by, by name: matrices and kernels, tables of embeddings left out."""
    tables = {path for path, module in backbone.named_modules() if "embedding" in type(module).__name__.lower()}
    named = backbone.named_parameters()
    return {n: p for n, p in named if p.dim() > 1 and n.rpartition(".")[0] not in tables}


def linear_weights(backbone: nn.Module) -> list[str]:
    """Return the names of the weight matrices of linear layers, torch's attention and GPT-2's layers among them."""
    own = ("weight", "in_proj_weight")
    return [n for n, p in weight_matrices(backbone).items() if p.dim() == 2 and n.rpartition(".")[2] in own]
