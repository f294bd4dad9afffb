"""Held-out rows worth a look: those with the highest loss, and those whose answer was least certain."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotransfer.data.modalities import modality
from autotransfer.report.judged import HeldOut
from autotransfer.report.words import score

MOST = 12
"""Rows of each kind that are shown."""


@dataclass(frozen=True)
class Example:
    """One row as a page shows it."""

    name: str
    truth: str
    answer: str
    right: bool | None
    """None: a number is never quite right."""
    told: tuple[str, ...]
    """Its probabilities, its loss."""
    kind: str
    """``image``, ``audio`` or ``text``; empty: it could not be read."""
    content: str
    """A data URI, a text, or why it could not be read."""


def worst(held: HeldOut, most: int = MOST) -> list[Example]:
    """Return the rows with the highest loss, the highest first."""
    losses = held.losses()
    return [_example(held, int(i), f"loss {score(losses[i])}") for i in np.argsort(-losses, kind="stable")[:most]]


def uncertain(held: HeldOut, most: int = MOST) -> list[Example]:
    """Return the rows whose answers have the highest entropy, the highest first; none without probabilities."""
    doubts = held.doubts()
    if doubts is None:
        return []
    return [_example(held, int(i), f"entropy {score(doubts[i])}") for i in np.argsort(-doubts, kind="stable")[:most]]


def _example(held: HeldOut, at: int, why: str) -> Example:
    row = int(held.rows[at])
    truth, answer, right, told = _said(held, at)
    kind, content = _content(held, row)
    return Example(held.dataset.row_name(row), truth, answer, right, (*told, why), kind, content)


def _said(held: HeldOut, at: int) -> tuple[str, str, bool | None, tuple[str, ...]]:
    """Return the true value, the answer, whether it is right, and what is told of the probabilities."""
    task, outputs, target = held.task, held.outputs[at : at + 1], held.targets[at]
    if not task.classes:
        actual, said = float(task.decode(held.targets[at : at + 1])[0]), float(task.decode(outputs)[0])
        return f"{actual:.5g}", f"{said:.5g}", None, (f"off by {said - actual:+.3g}",)
    chances = task.probabilities(outputs)[0]
    if target.ndim:
        there, chosen = target.numpy() >= 0.5, chances >= 0.5
        names = np.flatnonzero(there | chosen)
        told = tuple(f"{task.classes[i]} {score(float(chances[i]))}" for i in names[:6])
        return _names(task.classes, there), _names(task.classes, chosen), bool((there == chosen).all()), told
    truth, chosen = int(target), int(chances.argmax())
    told = (f"p {score(float(chances[chosen]))}",)
    if truth != chosen:
        told += (f"p of the true one {score(float(chances[truth]))}",)
    return task.classes[truth], task.classes[chosen], truth == chosen, told


def _names(classes: Iterable[str], on: Any) -> str:
    return ", ".join(c for c, there in zip(classes, on, strict=True) if there) or "none"


def _content(held: HeldOut, row: int) -> tuple[str, str]:
    """Return the kind and content of a row's preview."""
    try:
        seen = modality(held.dataset.modality).preview(held.dataset.load(row))
    except Exception as error:  # a row of anybody's dataset; the others are shown all the same
        return "", f"cannot be read: {' '.join(str(error).split())[:200] or type(error).__name__}"
    kind = seen.kind.partition("/")[0]
    if kind == "text":
        return kind, seen.body.decode()
    return kind, f"data:{seen.kind};base64,{base64.b64encode(seen.body).decode()}"
