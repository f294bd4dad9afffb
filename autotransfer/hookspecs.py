"""The hooks a plugin may implement. Each returns data; none takes a callback."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pluggy

from autotransfer.codec import Scalar
from autotransfer.protocols import Dataset
from autotransfer.schema import SurveyRecord, TrialRecord
from autotransfer.spec import BackboneSpec
from autotransfer.strategy import Strategy

PROJECT = "autotransfer"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def autotransfer_backbones() -> Iterable[BackboneSpec]:
    """Return the curated backbones of this plugin; called on every plugin."""
    return ()


@hookspec(firstresult=True)
def autotransfer_find_backbone(id: str, options: Mapping[str, Scalar], offline: bool) -> BackboneSpec | None:
    """Return the spec of an id in this plugin's namespace that is not in its curated list, or None.

    ``options`` are the caller's, or those of the card that a saved model was made with: with them the spec must come
    about without the files that it was first found by. Where ``offline`` is true, no network may be touched.
    """


@hookspec
def autotransfer_strategies() -> Iterable[Strategy]:
    """Return the strategies of this plugin; called on every plugin."""
    return ()


@hookspec(firstresult=True)
def autotransfer_read_dataset(source: Any, options: Mapping[str, Any]) -> Dataset | None:
    """Return the source as a Dataset, or None to leave it to others; the built-in readers come last.

    ``options`` holds ``target`` (a list of names where there are several), ``modality``, ``task`` and ``groups`` as the
    caller gave them.
    """


@hookspec
def autotransfer_profile(dataset: Dataset) -> Mapping[str, Scalar]:
    """Return measurements of the data; they are kept as ``<plugin>.<key>``."""
    return {}


@hookspec
def autotransfer_score(survey: Sequence[SurveyRecord], specs: Sequence[BackboneSpec]) -> Mapping[str, float]:
    """Return an estimate of transferability by backbone id, higher is better; merged with others by rank."""
    return {}


@hookspec
def autotransfer_trial_finished(record: TrialRecord) -> None:
    """Observe a finished trial, on the driver; an exception is logged and the search goes on."""
