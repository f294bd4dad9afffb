"""Tasks: one file each, made from raw target values or from JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from autotransfer.errors import ConfigError, DataError, ModelError, suggestion
from autotransfer.protocols import Task
from autotransfer.tasks.binary import Binary
from autotransfer.tasks.metrics import METRICS
from autotransfer.tasks.multiclass import Multiclass
from autotransfer.tasks.multilabel import Multilabel, label_sets
from autotransfer.tasks.regression import Regression

TASKS: Mapping[str, Any] = {t.name: t for t in (Binary, Multiclass, Multilabel, Regression)}
LATER = ("segmentation", "detection", "token labels", "multi-task")
FEW = 20
"""Whole numbers with at most this many distinct values are taken for classes."""


def make_task(name: str, values: Sequence[Any], metric: str | None = None) -> Task:
    """Return the task of this name, its encoding fitted to raw target values.

    Raises:
        ConfigError: the name or the metric is unknown.
        DataError: the values do not suit the task.
    """
    if name not in TASKS:
        later = f" ({name} is planned)" if name in LATER else ""
        raise ConfigError(f"no task is called {name!r}{suggestion(name, TASKS)}{later}; known: {', '.join(TASKS)}")
    task: Task = TASKS[name].made(values)
    return _with_metric(task, metric)


def guess_task(values: Sequence[Any]) -> str:
    """Return the task that target values suggest.

    Sets of labels are multilabel; numbers that are not whole, or whole with more than 20 distinct values that
    repeat less than twice on average, are regression; everything else is classes, two of them binary.

    Raises:
        DataError: whole numbers that could be either; the text says how to choose.
    """
    if any(isinstance(v, (list, tuple, set, frozenset, np.ndarray)) for v in values[:100]):
        return Multilabel.name
    if any(isinstance(v, str) and "|" in v for v in values):
        return Multilabel.name
    distinct = {plain(v) for v in values}
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in distinct):
        if any(v != math.floor(v) for v in distinct if math.isfinite(v)):
            return Regression.name
        if len(distinct) > FEW:
            if len(values) < 2 * len(distinct):
                return Regression.name
            if len(distinct) > len(values) / 10:
                raise DataError(
                    f"the target holds {len(distinct)} distinct whole numbers in {len(values)} rows, which may be "
                    "classes or amounts; choose with task='multiclass' or task='regression'"
                )
    return Binary.name if len(distinct) == 2 else Multiclass.name


def plain(value: Any) -> Any:
    """Return a numpy scalar as its Python value, anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def from_json(body: Mapping[str, Any]) -> Task:
    """Return the task that its ``to_json`` described.

    Raises:
        ModelError: the description is not one.
    """
    name = str(body.get("task"))
    if name not in TASKS:
        raise ModelError(f"labels.json names the task {name!r}; known: {', '.join(TASKS)}")
    read: Callable[[Mapping[str, Any]], Task] = TASKS[name].read
    try:
        return read(body)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"labels.json is not what a {name} task wrote: {error}") from error


def _with_metric(task: Any, metric: str | None) -> Task:
    if metric is None:
        return task  # type: ignore[no-any-return]
    known = METRICS[task.name]
    if metric not in known:
        raise ConfigError(
            f"no metric of {task.name} is called {metric!r}{suggestion(metric, known)}; known: {', '.join(known)}"
        )
    task.metric = metric
    return task  # type: ignore[no-any-return]


__all__ = ["METRICS", "TASKS", "from_json", "guess_task", "label_sets", "make_task", "plain"]
