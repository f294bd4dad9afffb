"""What differs between kinds of data, each behind the same small protocol and looked up by name.

To add a modality: write a module here whose object ``MODALITY`` has everything that :class:`Modality` lists, and name
the module in ``_MODULES``. Nothing else in core asks which modality it has: splits, duplicates, groups, labels,
unreadable rows, tables, folders, datasets and predictions work from this protocol alone. In short:

- reading: ``suffixes``, ``names``, ``feature``, ``columns``, ``cell``, ``owns``, ``listed`` tell a reader which
  files, columns and lists hold its items. An *item* is what a source holds (a path, bytes, an array, a text); nothing
  is decoded before it is asked for.
- one row: ``load`` decodes an item, ``look`` reads it once for its hash and measurements, ``tally`` sums these up to
  facts (``image.width_median``) and issues of the profile.
- inputs: ``stack`` makes decoded items into a batch for the fields of a spec's ``input``: a tensor, or a mapping that
  the network's ``forward`` takes by name. Rows of different length are padded, and the mapping's ``attention_mask``
  (:data:`autotransfer.protocols.MASK`, [B, T], 1 where there is something) says where: core pools features under it.
  ``tools`` loads, once a process and backbone, what ``stack`` needs beside the row (a tokenizer).
  ``adjusted`` fits the fields to the data: a window that is no longer than the longest clip.
- ``preview``: a decoded row as the report shows it.
- ``keep``: decoded rows that are kept for all trials of a process or, in the store, of all runs. None: nothing is.
- predicting: ``one`` tells one item from many; ``many_of`` takes a list, in which each row may be at fault for itself.
- the kit: ``samples`` and ``odd`` give made-up decoded items.
- exports: ``steps`` tells in words what ``stack`` does, and ``ragged`` whether its batches differ in length.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from autotransfer.codec import Scalar
from autotransfer.errors import DataError, suggestion
from autotransfer.weights import assets_folder

if TYPE_CHECKING:
    import numpy as np

    from autotransfer.profiles import DataIssue
    from autotransfer.protocols import Dataset, Inputs
    from autotransfer.registry import Registry
    from autotransfer.spec import BackboneSpec, Input
    from autotransfer.store import Store

    Array = np.ndarray[Any, Any]

_MODULES = {
    "image": "autotransfer.data.modalities.image",
    "audio": "autotransfer.data.modalities.audio",
    "text": "autotransfer.data.modalities.text",
}
"""In the order in which data are asked for: what may be nearly anything (texts) stands last."""


TABLES = frozenset({".csv", ".tsv", ".parquet", ".pq", ".jsonl", ".ndjson"})
"""Suffixes of files that hold many items."""


@dataclass(frozen=True)
class Look:
    """What one reading of a row tells."""

    digest: str
    """The same for equal rows."""
    measure: Any
    """For :meth:`Tally.add`."""


@dataclass(frozen=True)
class Preview:
    """A row as a person may see or hear it, small enough for a report."""

    kind: str
    """Media type: ``image/...``, ``audio/...``, or ``text/plain`` in UTF-8."""
    body: bytes


class Tally(Protocol):
    """Sums up the measurements of all usable rows."""

    def add(self, index: int, measure: Any) -> None:
        """Take the measure of one row."""
        ...

    def facts(self) -> dict[str, Scalar]:
        """Return facts of the profile by name, ``<modality>.<fact>``."""
        ...

    def numbers(self) -> Array:
        """Return the measurements of each row taken, ``float64`` [N, M], in the order in which they were."""
        ...

    def issues(self, name: Callable[[int], str]) -> list[DataIssue]:
        """Return what the user should know of single rows; ``name`` gives a row's name."""
        ...


class Kept(Protocol):
    """Decoded rows of one dataset that a process, or its store, keeps."""

    tight: bool
    """Batches are no longer than their longest row; else all have the same length."""

    def batch(self, rows: Array, spec: Input, tools: Any) -> Inputs | None:
        """Return what ``stack`` gives without augmentation for these row numbers, in order; None: decode them."""
        ...

    def lengths(self, rows: Array, spec: Input, tools: Any) -> Array | None:
        """Return how long each row's input is, ``int64``, or None where all are alike.

        A pass whose order is free takes rows of like length together, so that little is padded.
        """
        ...

    def told(self, spec: Input, tools: Any) -> str:
        """Return what to tell of the rows' inputs so far (their lengths, how many were cut); empty: nothing."""
        ...


class Modality(Protocol):
    """All that differs between kinds of data."""

    name: str
    many: str
    """What several items are called: ``images``."""
    suffixes: Collection[str]
    """Of its files, in lower case, with the dot."""
    names: Collection[str]
    """Usual names of a table's column that holds its items or their paths, in lower case."""
    feature: str
    """Class name of the Hugging Face feature that stands for it; empty: there is none."""
    by_name: bool
    """Its files and columns are known by the names of files; what is not (texts) counts only where nothing else is."""

    ragged: bool
    """A batch of inputs is as long as its longest row; else all batches have the same shape."""

    augmentations: tuple[str, ...]
    """What may be done to training rows beside ``none``, likeliest to help first: kinds of ``schema.AUGMENTATIONS``."""
    views: tuple[str, ...]
    """Names of the fixed views of a row, the row as it is first; empty: it has no other."""

    def owns(self, x: Any) -> bool:
        """Return whether rows in memory (X of ``(X, y)``) are of this modality beyond doubt."""
        ...

    def listed(self, x: Any) -> tuple[Any, list[str]]:
        """Return rows in memory as an indexable of items, and notes for the user.

        Raises:
            DataError: they are no items of this modality.
        """
        ...

    def columns(self, samples: Mapping[str, Sequence[Any]], asked: bool) -> list[str]:
        """Return the columns that together make one item.

        Args:
            samples: some values of each column in question, missing ones left out.
            asked: the user has named this modality; else only what is clear counts.

        Raises:
            DataError: several columns may hold it, and which one is for the user to say.
        """
        ...

    def cell(self, values: Mapping[str, Any], root: Path | None) -> Any:
        """Return a table row's values, by column, as an item; paths are relative to ``root``."""
        ...

    def path_of(self, item: Any) -> Path | None:
        """Return the path that an item is read from, where it is."""
        ...

    def load(self, item: Any) -> Any:
        """Return the decoded item; a DataError where it cannot be read."""
        ...

    def look(self, item: Any, name: str) -> Look:
        """Return hash and measurements of an item; a DataError where it cannot be read."""
        ...

    def measure(self, decoded: Any) -> Any:
        """Return the measurements of a decoded item: rows that a plugin's dataset loads."""
        ...

    def steps(self, spec: Any, tools: Any) -> Sequence[str]:
        """Return in words, step by step, how ``stack`` makes an item into an input: for users of an exported model."""
        ...

    def preview(self, decoded: Any) -> Preview:
        """Return a decoded item as a small picture, a short sound or the beginning of a text."""
        ...

    def hash(self, item: Any) -> str:
        """Return a hash that equal items share; a DataError where it cannot be read."""
        ...

    def tally(self) -> Tally:
        """Return a new, empty tally."""
        ...

    def adjusted(self, spec: Any, facts: Mapping[str, Scalar]) -> Any:
        """Return a backbone's input as it serves data of these facts: it stays so in the run and in its model."""
        ...

    def tools(self, spec: BackboneSpec, registry: Registry, folder: Path | None) -> Any:
        """Return what ``stack`` needs beside the rows, loaded from a backbone's folder of weights; None: nothing.

        ``folder`` is None in the kit, where networks are random.
        """
        ...

    def stack(
        self, items: Sequence[Any], spec: Any, tools: Any, augment: str, rng: np.random.Generator | None
    ) -> Inputs:
        """Return decoded items as one batch of inputs: as they are, or ``light`` or ``strong``, by ``rng``."""
        ...

    @property
    def altered(self) -> Callable[[Any, Any, Any, str, np.random.Generator], Inputs] | None:
        """What augments inputs that ``stack`` gave (inputs, spec, tools, kind, random numbers): kept rows serve for it.

        None: ``stack`` augments decoded items, for which kept rows do not serve.
        """
        ...

    def view(self, items: Sequence[Any], spec: Any, tools: Any, numbers: Sequence[int], rows: Sequence[int]) -> Inputs:
        """Return decoded items as one batch, each in its fixed view; asked only where there are ``views``.

        The same row (by its number in the dataset) and view are always the same.
        """
        ...

    def keep(self, dataset: Dataset, contents: Array, splits: Sequence[Array], store: Store | None) -> Kept | None:
        """Return decoded rows to be kept from here on; None: nothing is.

        Args:
            dataset: the rows.
            contents: their hashes, ``S24`` by row.
            splits: row numbers of each split, in the order in which they are read.
            store: of this node; None: there is none.
        """
        ...

    def one(self, x: Any) -> Any:
        """Return what a caller of ``predict`` gave as one item; None where it is many, a folder or a table.

        Raises:
            DataError: it cannot be told, or names nothing.
        """
        ...

    def many_of(self, x: Sequence[Any]) -> Any:
        """Return a list of rows to predict as an indexable of items; a faulty one says so when it is loaded."""
        ...

    def samples(self, spec: Any, count: int) -> list[Any]:
        """Return made-up decoded items, seeded, of different lengths where they may have such."""
        ...

    def odd(self) -> Mapping[str, Any]:
        """Return odd decoded items by name, which every backbone must stand."""
        ...


def open_tools(spec: BackboneSpec, registry: Registry, weights: str | Path | None) -> Any:
    """Return what the inputs of a backbone need beside the rows, from its weights or the folder of its assets."""
    return modality(spec.modality).tools(spec, registry, assets_folder(weights))


def modality(name: str) -> Modality:
    """Return the modality of this name.

    Raises:
        DataError: there is none.
    """
    if name not in _MODULES:
        raise DataError(f"modality is {name!r}{suggestion(name, _MODULES)}; known: {', '.join(_MODULES)}")
    return cast(Modality, importlib.import_module(_MODULES[name]).MODALITY)


def modalities(name: str | None = None) -> list[Modality]:
    """Return the modality of this name alone, or all of them in the order in which data are asked for."""
    return [modality(n) for n in ([name] if name is not None else _MODULES)]
