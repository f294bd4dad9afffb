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
        """Return the inputs of these rows, in this order; ``rng`` is needed where ``augment`` is ``light``."""
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

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean loss, a scalar."""
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

    def labelled(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers ``int64`` [n] of the rows that have this label, and the label as ``task`` encodes it."""
        ...


@runtime_checkable
class Tasks(Protocol):
    """What a task of several targets has beside the methods of :class:`Task`.

    Its targets are ``float32`` [N, K], NaN where a label is missing.
    """

    @property
    def parts(self) -> Sequence[TaskPart]:
        """The targets, in the order of their outputs."""
        ...

    def losses(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> list[Tensor]:
        """Return each target's mean loss over the rows that have its label."""
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
class ObjectiveContext:
    """What a strategy's own loss term may be built from, once before training."""

    backbone: nn.Module
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
    """Parameters before training, by name in ``module``."""
    snapshots: Sequence[Mapping[str, Tensor]]
    """Parameters after each evaluation that was the best so far, oldest first."""
    evaluate: Callable[[], float]
    """Validation objective of ``module`` as it stands."""


class Strategy:
    """How a backbone is adapted. Subclass it; give at least ``id`` and ``phases`` or ``head``."""

    id: str = ""
    """``namespace/name``."""
    summary: str = ""
    source: str = ""
    """Paper or text that the method comes from."""
    baseline: bool = False
    """True: made for backbones with ``transfer=False``."""
    depths: bool = False
    """True: the head sees the pooled features of all stages side by side, each of unit norm in each row."""

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

    def head(self, features: Tensor, targets: Tensor) -> HeadState | None:
        """Return a head in closed form from ``float32`` [N, width] features and encoded targets, or None.

        Of several targets it is asked for each one's head, on the rows that have its label.
        Where ``depths`` is true, the features are those of all stages side by side. A method with a third argument,
        ``groups``, is given the number of each row's group as well, ``int64`` [N], or None where rows have none:
        what it chooses by cross-validation is to be chosen on folds that hold each group whole.
        """
        return None

    def adapt(self, backbone: nn.Module, values: Mapping[str, Scalar], rows: Rows) -> None:
        """Change the backbone in place before training (LoRA, AdaBN); stage paths stay as they are."""

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
