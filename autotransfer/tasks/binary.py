"""One of two classes; the second, in sorted order, is the positive one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autotransfer.errors import DataError
from autotransfer.tasks.multiclass import Multiclass


class Binary(Multiclass):
    """Two softmax outputs: the same arithmetic as more classes, and probabilities [N, 2]."""

    name = "binary"

    @classmethod
    def made(cls, values: Sequence[Any]) -> Multiclass:
        """Return the task with the two distinct values as classes.

        Raises:
            DataError: there are not two.
        """
        task = super().made(values)
        if task.outputs != 2:
            raise DataError(f"task='binary' wants two classes, the target has {task.outputs}; use task='multiclass'")
        return task

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Multiclass:
        """Return the task that ``to_json`` described."""
        task = super().read(body)
        if task.outputs != 2:
            raise ValueError(f"a binary task has two labels, got {task.outputs}")
        return task
