"""Rows without labels, from where the model will be used: read as labelled ones are, checked, prepared for workers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from autotransfer.data.checks import check
from autotransfer.data.modalities import Kept, modality
from autotransfer.data.readers import arrays, read
from autotransfer.data.rows import PreparedRows
from autotransfer.errors import DataError
from autotransfer.gap import Unlabeled
from autotransfer.profiles import DataIssue

if TYPE_CHECKING:
    from autotransfer.data.prepare import Prepared
    from autotransfer.protocols import Dataset
    from autotransfer.registry import Registry
    from autotransfer.spec import Input
    from autotransfer.store import Store

ARGUMENT = "unlabeled"


@dataclass
class UnlabeledRows:
    """The usable rows of a source without labels. They travel to workers whole, undecoded."""

    dataset: Dataset
    indices: np.ndarray[Any, Any]
    """Row numbers ``int64``, in an order drawn once: every beginning is a sample of the whole."""
    contents: np.ndarray[Any, Any]
    """Content hash by row of the dataset, ``S24``; empty where a row cannot be read."""
    kept: Kept | None = field(default=None, repr=False, compare=False)
    """Decoded rows that this process keeps; they do not travel."""

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without what belongs to this process alone."""
        return {**vars(self), "kept": None}

    def keep(self, store: Store | None) -> None:
        """Decode every row once a transform from here on, as :meth:`autotransfer.data.Prepared.keep` does."""
        self.kept = modality(self.dataset.modality).keep(self.dataset, self.contents, (self.indices,), store)

    def rows(self, spec: Input, tools: Any = None, most: int | None = None) -> PreparedRows:
        """Return the rows prepared for a backbone's input; their targets are ``float32`` [N, 0].

        Args:
            spec: the input.
            tools: what the modality's ``tools`` gave for the backbone.
            most: only the first so many.
        """
        import torch

        own = self.indices[:most]
        return PreparedRows(self.dataset, own, spec, torch.zeros(len(own), 0), self.kept, tools)


def with_unlabeled(
    prepared: Prepared, source: Any, registry: Registry | None, *, asked: str | None = None, seed: int = 0
) -> Prepared:
    """Return prepared data with the rows of a source without labels beside them, counted in the profile.

    Args:
        prepared: the labelled rows.
        source: anything that a reader takes, with labels or without; labels are left aside.
        registry: plugins that may read it.
        asked: the modality that the caller named.
        seed: of the rows' order.

    Raises:
        DataError: it cannot be read, holds another modality, or none of its rows can be used.
    """
    profile = prepared.profile
    dataset = _read(source, prepared, registry, asked)
    try:
        checked = check(dataset, [""] * len(dataset))
    except DataError as error:
        raise DataError(f"{ARGUMENT}: {error}{_seems(source, profile.modality, registry)}") from error
    order = np.random.default_rng(seed).permutation(checked.usable).tolist()
    contents = np.array([checked.hashes.get(i, "") for i in range(len(dataset))], dtype="S24")
    digest = hashlib.sha256("\n".join(checked.hashes[i] for i in order).encode()).hexdigest()[:32]
    notes = [DataIssue(what="note", count=0, text=text) for text in getattr(dataset, "notes", ())]
    text = f"{ARGUMENT}: {len(order):,} rows of {dataset.name}; labels, where it has some, are not looked at"
    told = [DataIssue(what=ARGUMENT, count=len(order), text=text)]
    told += [_ours(issue) for issue in (*checked.issues, *notes)]
    told += _copies(prepared, checked.hashes)
    prepared.unlabeled = UnlabeledRows(dataset, np.asarray(order, dtype=np.int64), contents)
    prepared.profile = replace(
        profile,
        unlabeled=Unlabeled(name=dataset.name, rows=len(order), fingerprint=digest),
        issues=(*profile.issues, *told),
    )
    return prepared


def _read(source: Any, prepared: Prepared, registry: Registry | None, asked: str | None) -> Dataset:
    """Return the source as rows of the labelled data's modality."""
    profile = prepared.profile
    target = profile.targets[0] if profile.columns else None  # else no column is called so
    options = {"modality": profile.modality, "target": target, "columns": profile.columns}
    try:
        found = _listed(source, registry, options) or read(source, registry, labelled=False, **options)
    except DataError as error:
        raise DataError(f"{ARGUMENT}: {error}{_seems(source, profile.modality, registry)}") from error
    wrong = found.modality != profile.modality
    # What was found by the name of a column is what it is, and what is no picture is not read as one; but texts can be
    # made of anything, the paths of pictures too.
    sure = modality(profile.modality).by_name or tuple(getattr(found, "columns", ())) == profile.columns != ()
    told = "" if asked or sure else _seems(source, profile.modality, registry)
    if wrong or told:
        many = modality(profile.modality).many
        raise DataError(f"{ARGUMENT}: {found.name} does not hold {many}, as {profile.name} does{told}")
    if not len(found):
        raise DataError(f"{ARGUMENT}: {found.name} has no rows; give some, or leave {ARGUMENT} out")
    return found


def _listed(source: Any, registry: Registry | None, options: dict[str, Any]) -> Dataset | None:
    """Return the rows of ``(X, y)``, or of a list of pairs that are items (waveform, sample rate); None for others."""
    if isinstance(source, list) and modality(options["modality"]).owns(source):
        return arrays.read(source, {**options, "labelled": False})
    if not isinstance(source, tuple) or len(source) != 2:
        return None
    try:
        return read(source, registry, modality=options["modality"])
    except DataError:  # two items, or an array of waveforms and its sample rate
        return None


def _seems(source: Any, wanted: str, registry: Registry | None) -> str:
    """Return what else a source looks like; empty where it does not tell."""
    try:
        found = read(source, registry, labelled=False).modality
    except DataError:
        return ""
    return "" if found == wanted else f"; it looks like {modality(found).many}, and both must hold the same"


def _ours(issue: DataIssue) -> DataIssue:
    return replace(issue, what=f"{ARGUMENT}_{issue.what}", text=f"{ARGUMENT}: {issue.text}")


def _copies(prepared: Prepared, hashes: dict[int, str]) -> list[DataIssue]:
    """Return how many of the rows also stand among the labelled ones."""
    held: Sequence[tuple[str, str, Any]] = (
        ("test", "held-out rows: training sees them, though not their labels", prepared.test),
        ("labelled", "rows to train on or to choose by", np.concatenate([prepared.train, prepared.validation])),
    )
    found = []
    for name, text, numbers in held:
        there = {c.decode() for c in prepared.contents[numbers]}
        count = sum(h in there for h in hashes.values())
        if count:
            what = f"{ARGUMENT}_copies_of_{name}"
            found.append(DataIssue(what=what, count=count, text=f"{ARGUMENT}: {count} rows are copies of {text}"))
    return found
