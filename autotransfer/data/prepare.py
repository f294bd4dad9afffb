"""From a source to rows that can be searched on: read, checked, split, profiled, targets encoded."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from autotransfer.data.checks import Checked, check, duplicates, split_groups
from autotransfer.data.dataset import ItemDataset, joined
from autotransfer.data.modalities import Kept, modality
from autotransfer.data.readers import read
from autotransfer.data.rows import PreparedRows
from autotransfer.data.split import Split, split_rows, united
from autotransfer.data.suspects import suspects
from autotransfer.data.targets import decidable, labels_of, wanted
from autotransfer.data.unlabeled import UnlabeledRows, with_unlabeled
from autotransfer.errors import DataError, faults
from autotransfer.profiles import DataIssue, Profile
from autotransfer.targets import one_or_several

if TYPE_CHECKING:
    from torch import Tensor

    from autotransfer.protocols import Dataset, Task
    from autotransfer.registry import Registry
    from autotransfer.spec import Input
    from autotransfer.store import Store


@dataclass
class Prepared:
    """Everything the search needs to know of the data. It travels to workers whole, undecoded."""

    dataset: Dataset
    task: Task
    targets: Tensor
    """Encoded, one a row of the dataset; zeros where a row is not used."""
    train: np.ndarray[Any, Any]
    """Row numbers ``int64``, in stratified order."""
    validation: np.ndarray[Any, Any]
    test: np.ndarray[Any, Any]
    profile: Profile
    contents: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0, "S24"))
    """Content hash by row of the dataset, ``S24``; empty where a row is not used."""
    groups: np.ndarray[Any, Any] | None = None
    """Number of each row's group ``int64``, its own where it has none; None: rows have no groups."""
    unlabeled: UnlabeledRows | None = None
    """Rows without labels, where some were given."""
    kept: Kept | None = field(default=None, repr=False, compare=False)
    """Decoded rows that this process keeps; they do not travel."""

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without what belongs to this process alone."""
        return {**vars(self), "kept": None}

    def keep(self, store: Store | None) -> None:
        """Decode every row once a transform from here on, and keep what comes of it, in a store where there is one."""
        splits = (self.train, self.validation, self.test)
        self.kept = modality(self.profile.modality).keep(self.dataset, self.contents, splits, store)
        if self.unlabeled is not None:
            self.unlabeled.keep(store)

    def train_groups(self) -> Tensor | None:
        """Return the number of each training row's group, ``int64`` [N]; None where rows have no groups."""
        import torch

        return None if self.groups is None else torch.from_numpy(self.groups[self.train])

    def rows(self, indices: Any, spec: Input, tools: Any = None) -> PreparedRows:
        """Return these rows prepared for a backbone's input.

        Args:
            indices: row numbers [N].
            spec: the input.
            tools: what the modality's ``tools`` gave for the backbone.
        """
        import torch

        numbers = np.asarray(indices, dtype=np.int64)
        targets, groups = self.targets[torch.from_numpy(numbers)], self.groups
        own = None if groups is None else torch.from_numpy(groups[numbers])
        return PreparedRows(self.dataset, numbers, spec, targets, self.kept, tools, groups=own)


def prepare(
    source: Any,
    *,
    target: str | Sequence[str] | None = None,
    task: str | Sequence[str] | Mapping[str, str] | None = None,
    modality: str | None = None,
    metric: str | Sequence[str] | Mapping[str, str] | None = None,
    validation: Any = None,
    test: Any = None,
    groups: Any = None,
    unlabeled: Any = None,
    seed: int = 0,
    registry: Registry | None = None,
) -> Prepared:
    """Return a source as prepared rows.

    Args:
        source: anything that a reader takes.
        target: name of the target column, or of several, where the source has columns.
        task: ``binary``, ``multiclass``, ``multilabel`` or ``regression``; None: guessed from the values. Of several
            targets one for all, a list in their order, or a mapping by target.
        modality: ``image``, ``audio`` or ``text``; None: what the reader says.
        metric: what decides; None: accuracy (balanced beyond 3 : 1), macro F1 of label sets, RMSE of numbers. Several
            targets: as for ``task``.
        validation: source of the validation rows; None: those of ``source``, or drawn from it.
        test: the same for the held-out rows.
        groups: a column name or one value a row; rows of one group stay in one split.
        unlabeled: source of rows from where the model will be used; their labels are not looked at.
        seed: of the split.
        registry: plugins that may read sources and measure them.

    Raises:
        DataError: the data cannot be used, with the reason.
        ConfigError: task or metric is unknown.
    """
    target = one_or_several(target)
    options = {"target": target, "modality": modality, "task": task, "groups": groups}
    dataset = _read_all(source, {"validation": validation, "test": test}, registry, options)
    names, labels = labels_of(dataset, target)
    _early(dataset, names, labels, task, metric)
    checked = check(dataset, labels)
    usable = _kept(dataset, checked, labels, several=len(names) > 1)
    try:
        prepared = _assembled(dataset, names, labels, checked, usable, task, metric, seed, registry)
    except DataError as error:
        found = [str(error), *(i.text for i in checked.issues)]
        raise DataError(faults(f"{dataset.name} cannot be used", found)) from error
    if unlabeled is None:
        return prepared
    return with_unlabeled(prepared, unlabeled, registry, asked=modality, seed=seed)


def _kept(dataset: Any, checked: Checked, labels: Any, *, several: bool) -> list[int]:
    """Return the usable rows less copies and torn groups, which are told among the issues."""
    drop, told = duplicates(dataset, checked, labels, dataset.splits, several=several)
    torn, more = split_groups(dataset, checked.usable)
    checked.issues += [*told, *more]
    gone = {*drop, *torn}
    return [i for i in checked.usable if i not in gone]


def _read_all(source: Any, extra: dict[str, Any], registry: Registry | None, options: dict[str, Any]) -> Any:
    """Return the rows of a source and of those that give held-out rows, one after the other."""
    dataset = read(source, registry, **options)
    options = {
        **options,
        "groups": None,
        "modality": dataset.modality,
        "columns": getattr(dataset, "columns", ()),
    }
    held = {name: _held_out(name, s, registry, options) for name, s in extra.items() if s is not None}
    return _with_held_out(dataset, held) if held else dataset


def _held_out(name: str, source: Any, registry: Registry | None, options: dict[str, Any]) -> Any:
    try:
        return read(source, registry, **options)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def _early(dataset: Any, names: Sequence[str], labels: Sequence[Any], task: Any, metric: Any) -> None:
    """Tell of wrong names and labels before every row is decoded."""
    there = [v for v in labels if v is not None]
    try:
        if there:
            wanted(names, there, task, metric)
    except DataError as error:
        found = [str(error), *(i.text for i in _notes(dataset))]
        raise DataError(faults(f"{dataset.name} cannot be used", found)) from error


def _with_held_out(dataset: Any, held: dict[str, Any]) -> Any:
    parts = [dataset, *held.values()]
    if not all(isinstance(p, ItemDataset) for p in parts):
        raise DataError("validation= and test= need sources that the built-in readers read")
    own = dataset.splits
    if own is not None and any(s in held for s in own):
        raise DataError(f"{dataset.name} has its own {' and '.join(held)} rows; give them once")
    names = {n for p in parts for n in p.targets}
    single = all(len(p.targets) == 1 for p in parts)
    if len(names) > 1 and single:  # readers name targets by their own source where there is no column
        first = next(iter(dataset.targets))
        for p in parts:
            p.targets = {first: next(iter(p.targets.values()))}
    return joined(parts, [None, *held])


def _assembled(
    dataset: Any,
    names: Sequence[str],
    labels: list[Any],
    checked: Checked,
    usable: list[int],
    task: Any,
    metric: Any,
    seed: int,
    registry: Registry | None,
) -> Prepared:
    import torch

    asked = wanted(names, [labels[i] for i in usable], task, metric)
    split = _split(dataset, usable, asked.strata, asked.sets, checked, seed)
    targets = torch.zeros((len(dataset), *asked.encoded.shape[1:]), dtype=asked.encoded.dtype)
    targets[torch.tensor(usable)] = asked.encoded
    made, each, told = asked.judged(targets, split)
    decidable(made, targets[torch.from_numpy(split.validation)])
    profile = Profile(
        name=dataset.name,
        modality=dataset.modality,
        task=made.name,
        metric=made.metric,
        rows=len(usable),
        train=len(split.train),
        validation=len(split.validation),
        test=len(split.test),
        targets=tuple(names),
        each=each,
        classes=made.classes,
        counts=asked.counts,
        imbalance=asked.imbalance,
        issues=(
            *checked.issues,
            *told,
            *split.issues,
            *_suspects(dataset, len(names), labels, checked, split, seed),
            *_notes(dataset),
        ),
        facts={**checked.facts, **(registry.profile_facts(dataset) if registry is not None else {})},
        columns=tuple(getattr(dataset, "columns", ())),
        fingerprint=_fingerprint(checked, labels, split, getattr(dataset, "groups", None)),
    )
    contents = np.array([checked.hashes.get(i, "") for i in range(len(dataset))], dtype="S24")
    groups = _numbered(getattr(dataset, "groups", None))
    return Prepared(dataset, made, targets, split.train, split.validation, split.test, profile, contents, groups)


def _numbered(groups: Sequence[Any] | None) -> np.ndarray[Any, Any] | None:
    """Return the number of each row's group, ``int64``; a row without one is alone."""
    if groups is None:
        return None
    first: dict[Any, int] = {}
    return np.asarray([i if g is None else first.setdefault(g, i) for i, g in enumerate(groups)], dtype=np.int64)


def _split(dataset: Any, usable: list[int], strata: list[Hashable], sets: Any, checked: Checked, seed: int) -> Split:
    groups = getattr(dataset, "groups", None)
    grouped = [None if groups is None else groups[i] for i in usable]
    units = united([checked.hashes[i] for i in usable], grouped)
    given = [dataset.splits[i] for i in usable] if dataset.splits is not None else None
    counts = Counter(c for s in sets or () for c in set(s))
    if sets is not None and max(counts.values(), default=0) <= 1:
        raise DataError(
            f"each of the {len(counts)} classes has a single row; a model needs several rows a class, "
            "some to learn from and some to be judged on (five or more)"
        )
    return split_rows(usable, strata, units, given, seed, sets)


def _suspects(
    dataset: Any, targets: int, labels: list[Any], checked: Checked, split: Split, seed: int
) -> list[DataIssue]:
    """Return what to say of columns that look like groups, where no groups were given."""
    others = getattr(dataset, "others", {}) if getattr(dataset, "groups", None) is None else {}
    usable = set(checked.usable)
    there = [label if i in usable else None for i, label in enumerate(labels)]
    found: dict[str, DataIssue] = {}
    for place in range(targets) if others else ():
        own = [v[place] if v is not None and targets > 1 else v for v in there]
        told = suspects(others, own, checked.measures, split.train, split.test, seed)
        found = {**{i.rows[0]: i for i in told}, **found}
    return list(found.values())


def _notes(dataset: Any) -> tuple[DataIssue, ...]:
    return tuple(DataIssue(what="note", count=0, text=text) for text in getattr(dataset, "notes", ()))


def _fingerprint(checked: Checked, labels: Sequence[Any], split: Split, groups: Sequence[Any] | None) -> str:
    digest = hashlib.sha256()
    for part in (split.train, split.validation, split.test):
        for i in part.tolist():
            group = "" if groups is None else f" {groups[i]!r}"
            digest.update(f"{checked.hashes[i]} {labels[i]!r}{group}\n".encode())
        digest.update(b"--\n")
    return digest.hexdigest()[:32]
