"""A network's outputs as a user reads them: one answer a row, of several targets one for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autotransfer.tasks.several import Several

if TYPE_CHECKING:
    from torch import Tensor

    from autotransfer.protocols import Task


def first(found: Any) -> Any:
    """Return the first row of predictions or probabilities; of several targets a mapping by target."""
    if isinstance(found, Mapping):
        return {name: own[0] for name, own in found.items()}
    return found.iloc[0].to_dict() if hasattr(found, "iloc") else found[0]


def told_rows(task: Task, outputs: Tensor) -> list[dict[str, Any]]:
    """Return for each row its ``prediction``, JSON-ready, and how sure it is.

    Classes come with the ``probability`` of the predicted one, label sets with the ``probabilities`` of all labels. Of
    several targets each of these is a mapping by target.

    Args:
        task: whose outputs these are.
        outputs: ``float32`` [N, outputs].
    """
    if isinstance(task, Several):
        rows: list[dict[str, Any]] = [{} for _ in outputs]
        for part in task.parts:
            for row, told in zip(rows, told_rows(part.task, outputs[:, part.outputs]), strict=True):
                for name, value in told.items():
                    row.setdefault(name, {})[part.target] = value
        return rows
    chances = task.probabilities(outputs) if task.classes else None
    found = []
    for at, value in enumerate(task.decode(outputs)):
        told = {"prediction": value.tolist() if hasattr(value, "tolist") else value}
        if chances is not None and task.name == "multilabel":
            told["probabilities"] = dict(zip(task.classes, chances[at].tolist(), strict=True))
        elif chances is not None:
            told["probability"] = float(chances[at].max())
        found.append(told)
    return found
