"""Tasks: one file each, made from raw target values or from JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from autotransfer.errors import ConfigError, DataError, ModelError, suggestion
from autotransfer.protocols import Task
from autotransfer.targets import SEVERAL
from autotransfer.tasks.binary import Binary
from autotransfer.tasks.labels import plain
from autotransfer.tasks.metrics import METRICS
from autotransfer.tasks.multiclass import Multiclass
from autotransfer.tasks.multilabel import Multilabel, label_sets
from autotransfer.tasks.regression import Regression
from autotransfer.tasks.several import Several

AnyTask = Multiclass | Multilabel | Regression
TASKS: Mapping[str, type[AnyTask]] = {t.name: t for t in (Binary, Multiclass, Multilabel, Regression)}
LATER = ("segmentation", "detection", "token labels")
FEW = 20
"""Whole numbers with at most this many distinct values are taken for classes."""


def make_task(name: str, values: Sequence[Any], metric: str | None = None) -> Task:
    """Return the task of this name, its encoding fitted to raw target values.

    Args:
        name: ``binary``, ``multiclass``, ``multilabel`` or ``regression``.
        values: one a row, none missing.
        metric: what decides; None: accuracy, macro F1 of label sets, RMSE of numbers.

    Raises:
        ConfigError: the name or the metric is unknown.
        DataError: the values do not suit the task.
    """
    if not isinstance(name, str):
        raise ConfigError(f"the task of one target is {name!r}; wanted one of: {', '.join(TASKS)}")
    if name not in TASKS:
        later = f" ({name} is planned)" if name in LATER else ""
        later = " (it is what several targets make together: target=[...])" if name == SEVERAL else later
        raise ConfigError(f"no task is called {name!r}{suggestion(name, TASKS)}{later}; known: {', '.join(TASKS)}")
    known = METRICS[name]
    if metric is not None and metric not in known:
        raise ConfigError(
            f"no metric of {name} is called {metric!r}{suggestion(metric, known)}; known: {', '.join(known)}"
        )
    made = TASKS[name].made(values)
    made.metric = metric or made.metric
    return made


def guess_task(values: Sequence[Any]) -> str:
    """Return the task that target values suggest.

    Lists of labels, texts with ``|`` between labels and rows of 0 and 1 are multilabel. Numbers that are not whole
    are regression. Whole numbers are classes up to 20 distinct values, and beyond that from 10 rows a value on;
    with more than 20 distinct values and fewer than 2 rows a value they are regression. Texts and bools
    are classes; two classes are binary.

    Raises:
        DataError: whole numbers that could be either, or values that suit no task; the text says how to choose.
    """
    rows = [plain(v) for v in values]
    if any(isinstance(v, (list, tuple, set, frozenset)) or (isinstance(v, str) and "|" in v) for v in rows):
        return Multilabel.name
    numbers = [v for v in rows if isinstance(v, (int, float)) and not isinstance(v, bool)]
    distinct = len(set(map(repr, rows)))
    if rows and len(numbers) == len(rows):
        if any(v != math.floor(v) for v in numbers if math.isfinite(v)):
            return Regression.name
        distinct = len(set(numbers))
        repeats = len(rows) / distinct
        if distinct > FEW and repeats < 2:
            return Regression.name
        if (distinct > FEW and repeats < 10) or (distinct > 2 and repeats < 2):
            raise DataError(
                f"the target holds {distinct} distinct whole numbers in {len(rows)} rows, which may be "
                "classes or amounts; choose with task='multiclass' or task='regression'"
            )
    return Binary.name if distinct == 2 else Multiclass.name


def from_json(body: Mapping[str, Any]) -> Task:
    """Return the task that its ``to_json`` described.

    Raises:
        ModelError: the description is not one.
    """
    name = str(body.get("task"))
    if name == SEVERAL:
        return _several(body)
    if name not in TASKS:
        raise ModelError(f"labels.json names the task {name!r}; known: {', '.join(TASKS)}")
    try:
        task = TASKS[name].read(body)
        same = task.to_json() == dict(body)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"labels.json is not what a {name} task wrote: {type(error).__name__} {error}") from error
    if not same or task.metric not in METRICS[name]:
        raise ModelError(f"labels.json is not what a {name} task wrote; it was altered")
    return task


def _several(body: Mapping[str, Any]) -> Several:
    try:
        rows = [(str(r["target"]), from_json(r["labels"]), float(r["floor"])) for r in body["targets"]]
        task = Several({n: own for n, own, _ in rows}, {n: floor for n, _, floor in rows})
        same = bool(rows) and task.to_json() == dict(body) and all(math.isfinite(f) for _, _, f in rows)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"labels.json is not what several targets wrote: {type(error).__name__} {error}") from error
    if not same:
        raise ModelError("labels.json is not what several targets wrote; it was altered")
    return task


__all__ = ["LATER", "METRICS", "TASKS", "Several", "from_json", "guess_task", "label_sets", "make_task", "plain"]
