"""The contracts between core and plugins. Torch appears in types only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

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
    """Encoded by the task: ``int64`` [N], or ``float32`` [N, K], NaN where one of several targets has no label;
    [N, 0] of rows without labels.
    """

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
