"""From raw labels to a task: encoded, told of, and cut into what every split should hold its share of.

One target is a value a row. Several are a tuple a row, in the order of their names, None where a label is missing; a
row without any label is None.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from autotransfer.codec import digest
from autotransfer.data.dataset import clean_labels
from autotransfer.data.readers.columns import named
from autotransfer.errors import ConfigError, DataError, UserError, faults, suggestion
from autotransfer.profiles import DataIssue
from autotransfer.targets import TargetProfile, for_each, one_or_several
from autotransfer.tasks import Several, guess_task, label_sets, make_task
from autotransfer.tasks.judged import deciding

if TYPE_CHECKING:
    from torch import Tensor

    from autotransfer.data.prepare import Prepared
    from autotransfer.data.split import Split
    from autotransfer.protocols import Dataset, Task

FEWEST = 5
"""Labels of each of several targets that training needs."""
IMBALANCED = 3.0
"""Beyond this ratio of class sizes plain accuracy is no fair judge."""
_QUANTILES, _FEW_QUANTILES = 10, 4
"""Bins of a number that every split holds its share of: alone, and beside other targets."""
_CELL = 10
"""Rows that agree in several targets and are spread over the splits together, at least."""


@dataclass(frozen=True)
class Wanted:
    """What is to be predicted, of the usable rows."""

    names: tuple[str, ...]
    task: Task
    encoded: Tensor
    strata: list[Hashable]
    sets: Sequence[Collection[Hashable]] | None
    """Classes or labels of each row; None: there are only numbers."""
    classes: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    imbalance: float = 1.0
    each: tuple[TargetProfile, ...] = ()
    """Where there are several targets; the rows of each split are not counted yet."""

    def judged(self, targets: Tensor, split: Split) -> tuple[Task, tuple[TargetProfile, ...], list[DataIssue]]:
        """Return the task with what training rows tell of it, each target's profile, and what to say of them.

        Args:
            targets: encoded, of all rows of the dataset.
            split: numbers of the rows in each part.

        Raises:
            DataError: a target has too few labels among the training rows.
        """
        import torch

        if not isinstance(self.task, Several):
            return self.task, (), []
        parts = {n: targets[torch.from_numpy(getattr(split, n))] for n in ("train", "validation", "test")}
        counts = {p.target: {n: len(p.labelled(t)[0]) for n, t in parts.items()} for p in self.task.parts}
        few = [f"{n!r} ({own['train']})" for n, own in counts.items() if own["train"] < FEWEST]
        if few:
            raise DataError(
                f"fewer than {FEWEST} training rows have a label of {', '.join(few)}; leave it out, or label more rows"
            )
        each = tuple(_counted(p, **counts[p.name]) for p in self.each)
        return self.task.judged(parts["train"]), each, [i for p in each for i in _told(p, len(self.strata))]


def labels_of(dataset: Dataset, target: Any) -> tuple[tuple[str, ...], list[Any]]:
    """Return the names of a dataset's targets and the labels of its rows.

    Args:
        dataset: as a reader gave it.
        target: as the caller named it, or them.

    Raises:
        DataError: the dataset has several targets and the caller named none, or has others than were named.
    """
    names = tuple(dataset.targets)
    asked = tuple(named(one_or_several(target), names))
    if len(names) > 1 and not asked:
        raise DataError(f"{dataset.name} has several targets ({', '.join(names)}); name one, or several, with target=")
    if len(names) == len(asked) == 1 or not asked:  # where there are no columns, readers name a target as they like
        return names, clean_labels(dataset.targets[names[0]]) if names else [None] * len(dataset)
    lacking = [f"there is no target {n!r}{suggestion(n, names)}" for n in asked if n not in names]
    if lacking:
        raise DataError(faults(f"{dataset.name} has the targets {', '.join(names) or 'none at all'}", lacking))
    columns = [clean_labels(dataset.targets[n]) for n in asked]
    if len(asked) == 1:
        return asked, columns[0]
    return asked, [None if all(v is None for v in row) else row for row in zip(*columns, strict=True)]


def wanted(names: Sequence[str], values: Sequence[Any], task: Any, metric: Any) -> Wanted:
    """Return what is to be predicted, from the labels of the usable rows.

    Args:
        names: of the targets.
        values: one a row, none missing; of several targets a tuple.
        task: one for all, a list in the order of the targets, or a mapping by target; None: guessed from the values.
        metric: the same of what decides; None: accuracy (balanced beyond 3 : 1), macro F1, RMSE.

    Raises:
        DataError: labels cannot be used; of all targets at once.
        ConfigError: tasks or metrics are unknown.
    """
    tasks, metrics = for_each(task, names, "task"), for_each(metric, names, "metric")
    if len(names) == 1:
        return _single(names[0], values, tasks[names[0]], metrics[names[0]])
    found, wrong = dict[str, Wanted](), list[UserError]()
    for place, name in enumerate(names):
        there = [row[place] for row in values if row[place] is not None]
        try:
            if not there:
                raise DataError("it has no label at all; leave it out, or label some rows")
            found[name] = _single(name, there, tasks[name], metrics[name])
        except (DataError, ConfigError) as error:
            wrong.append(type(error)(f"{name!r}: {error}"))
    if wrong:
        kind = ConfigError if all(isinstance(e, ConfigError) for e in wrong) else DataError
        hint = " (for one of several: task={'name': ...})" if any("task=" in str(e) for e in wrong) else ""
        raise kind(faults(f"targets cannot be used{hint}", map(str, wrong)))
    return _together(found, values)


def _single(name: str, values: Sequence[Any], task: str | None, metric: str | None) -> Wanted:
    kind = task or guess_task(values)
    made = make_task(kind, values)
    encoded = made.encode(values)
    sets = label_sets(values) if kind == "multilabel" else [(v,) for v in values]
    counts = Counter(str(label) for s in sets for label in s) if made.classes else Counter[str]()
    imbalance = max(counts.values()) / max(1, min(counts.values())) if counts else 1.0
    default = "balanced_accuracy" if imbalance > IMBALANCED and kind in ("binary", "multiclass") else made.metric
    return Wanted(
        names=(name,),
        task=make_task(kind, values, metric or default),
        encoded=encoded,
        strata=strata_of(kind, values),
        sets=sets if made.classes else None,
        counts=dict(sorted(counts.items())),
        imbalance=imbalance,
    )


def _together(found: dict[str, Wanted], values: Sequence[Any]) -> Wanted:
    """Return several targets as one task; a row's classes and strata are those of all its labels."""
    cells: list[list[Hashable]] = [[] for _ in values]
    sets: list[list[Hashable]] = [[] for _ in values]
    for place, (name, own) in enumerate(found.items()):
        rows = [i for i, row in enumerate(values) if row[place] is not None]
        there = [values[i][place] for i in rows]
        strata = own.strata if own.sets is not None else strata_of(own.task.name, there, _FEW_QUANTILES)
        known = dict(zip(rows, strata, strict=True))
        for i, cell in enumerate(cells):
            cell.append((name, known.get(i)))
        for i, classes in zip(rows, own.sets or (), strict=False):
            sets[i] += [f"{name}: {c}" for c in classes]
    task = Several({n: w.task for n, w in found.items()})
    return Wanted(
        names=tuple(found),
        task=task,
        encoded=task.encode(values),
        strata=_spread(cells),
        sets=sets if any(w.sets is not None for w in found.values()) else None,
        each=tuple(_profile(n, w) for n, w in found.items()),
    )


def _profile(name: str, own: Wanted) -> TargetProfile:
    task = own.task
    return TargetProfile(
        name=name,
        task=task.name,
        metric=task.metric,
        rows=len(own.encoded),
        train=0,
        validation=0,
        test=0,
        classes=task.classes,
        counts=own.counts,
        imbalance=own.imbalance,
    )


def _counted(own: TargetProfile, train: int, validation: int, test: int) -> TargetProfile:
    return replace(own, train=train, validation=validation, test=test)


def strata_of(kind: str, values: Sequence[Any], bins: int = _QUANTILES) -> list[Hashable]:
    """Return of each row what every split should hold its share of: a class, its rarest label, or a quantile."""
    if kind == "regression":
        numbers = np.asarray(values, dtype=np.float64)
        bins = max(1, min(bins, len(numbers) // 5))  # each needs rows for train, validation and test
        edges = np.unique(np.quantile(numbers, np.linspace(0, 1, bins + 1)[1:-1]))
        return [int(b) for b in np.searchsorted(edges, numbers, side="right")]
    if kind == "multilabel":
        return [str(s) for s in _rarest(label_sets(values))]
    return [str(v) for v in values]


def alone(prepared: Prepared, target: str) -> Prepared:
    """Return the rows that have a label of one target of several, prepared for it alone."""
    task = prepared.task
    assert isinstance(task, Several)
    (part,), profile = (p for p in task.parts if p.target == target), prepared.profile
    there = (~prepared.targets[:, part.columns.start].isnan()).numpy()
    rows = {n: all_[there[all_]] for n in ("train", "validation", "test") for all_ in [getattr(prepared, n)]}
    own = next(t for t in profile.each if t.name == target)
    about = {n: getattr(own, n) for n in ("rows", "train", "validation", "test")}
    mark = digest([profile.fingerprint, target], 32)
    return replace(
        prepared,
        task=task.only(target),
        targets=prepared.targets[:, part.columns],
        profile=replace(profile, targets=(target,), each=(own,), fingerprint=mark, **about),
        **rows,
    )


def _rarest(sets: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return each row's least frequent label, so that rare labels are spread over the splits."""
    counts = Counter(v for s in sets for v in set(s))
    return [min(s, key=lambda v: (counts[v], str(v))) if s else "" for s in sets]


def decidable(task: Task, targets: Tensor) -> None:
    """Refuse validation rows on which what decides has no value, whatever a network answers.

    Args:
        task: with the metric that decides.
        targets: of the validation rows, encoded, [N] or [N, K].

    Raises:
        DataError: there is none; of several targets: for no target.
    """
    import torch

    if math.isfinite(deciding(task, torch.zeros(len(targets), task.outputs), targets)):
        return
    if isinstance(task, Several):
        parts = [f"{p.target!r}: {_valueless(p.task, p.labelled(targets)[1])}" for p in task.parts]
        raise DataError(faults("no target has a score on the validation rows", parts))
    raise DataError(_valueless(task, targets))


def _valueless(task: Task, targets: Tensor) -> str:
    """Return why the deciding metric has no value on these targets, and what to do."""
    import torch

    if not len(targets):
        return "no validation row has its label; give validation= with rows that have"
    others = task.scores(torch.zeros(len(targets), task.outputs), targets)
    if not task.classes:
        why, cure = f"the target of all of them is {float(task.decode(targets)[0]):g}", "with several values"
    elif targets.ndim == 1:
        there = int(targets[0])
        lacking = [repr(c) for i, c in enumerate(task.classes) if i != there]
        shown = ", ".join(lacking[:10]) + (" ..." if len(lacking) > 10 else "")
        why, cure = f"all of them are {task.classes[there]!r}, none is {shown}", "of two or more classes"
    else:
        why, cure = "each label is on all of them or on none", "that differ in their labels"
    return (
        f"metric {task.metric!r} has no value on the {len(targets)} validation rows: {why}; give validation= with "
        f"rows {cure}, more rows to draw some from, or another metric= ({', '.join(others)})"
    )


def _spread(cells: Sequence[Sequence[Hashable]]) -> list[Hashable]:
    """Return a stratum for each row from its cells, one a target.

    It is the rarest one, joined by the next rarest ones as long as enough rows agree in all of them.
    """
    counts = Counter(c for row in cells for c in row)
    ordered = [sorted(row, key=lambda c: (counts[c], str(c))) for row in cells]
    joint = Counter(tuple(row[:n]) for row in ordered for n in range(1, len(row) + 1))
    deep = [max(n for n in range(1, len(row) + 1) if n == 1 or joint[tuple(row[:n])] >= _CELL) for row in ordered]
    return [str(row[:n]) for row, n in zip(ordered, deep, strict=True)]


def _told(own: TargetProfile, rows: int) -> list[DataIssue]:
    """Return what to say of the labels that one target of several lacks."""
    found = []
    if own.rows < rows:
        text = f"{rows - own.rows} of {rows} rows have no label of {own.name!r}; they serve the other targets"
        found.append(DataIssue(what="missing_labels_of_target", count=rows - own.rows, text=text, rows=(own.name,)))
    lost = [n for n in ("validation", "test") if not getattr(own, n)]
    if lost:
        text = f"no row of {' and '.join(lost)} has a label of {own.name!r}, so it has no say in the score there"
        found.append(DataIssue(what="target_without_rows", count=len(lost), text=text, rows=(own.name,)))
    return found
