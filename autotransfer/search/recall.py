"""Surveys of earlier runs: the pooled features of a backbone on the same rows are found again in the store."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotransfer.codec import dumps, from_json, to_json
from autotransfer.errors import ModelError, StoreFullError
from autotransfer.schema import SurveyRecord
from autotransfer.search.jobs import Context, slug
from autotransfer.search.survey import load_features, write_atomically
from autotransfer.spec import BackboneSpec
from autotransfer.store import Store
from autotransfer.train.evaluate import best_device
from autotransfer.train.precision import machine

log = logging.getLogger(__name__)
FORMAT = 2
"""Of the entries; raised whenever a survey would find other things on the same rows."""
RECORD, UNLABELED = "record", "unlabeled"
_CODE: dict[str, tuple[ModuleSpec, str]] = {}


def find_survey(context: Context, spec: BackboneSpec) -> SurveyRecord | None:
    """Return what an earlier run found about a backbone on these very rows, its features copied to this run's work.

    None where nothing is kept, or where it cannot be known that the weights are the same (a card without weights).
    """
    key = _key(context, spec)
    arrays = _store(context).get(key) if key else None
    if arrays is None:
        return None
    try:
        record = from_json(SurveyRecord, json.loads(arrays[RECORD].tobytes()))
    except (ValueError, ModelError) as error:
        log.warning("an earlier survey of %s cannot be read and is made again: %s", spec.id, error)
        return None
    tensors = {n: torch.from_numpy(np.array(a)) for n, a in arrays.items() if n != RECORD}
    write_atomically(tensors, context.path(record.features))
    return record


def keep_survey(context: Context, spec: BackboneSpec, record: SurveyRecord) -> None:
    """Keep a finished survey for later runs; where the store cannot, this run goes on all the same."""
    key = _key(context, spec)
    if not key or record.status != "done":
        return
    values = {n: t.numpy() for n, t in load_features(context.path(record.features)).items()}
    values[RECORD] = np.frombuffer(dumps(record).encode(), np.uint8)
    _put(context, key, values, f"the survey of {spec.id}")


def find_unlabeled(context: Context, spec: BackboneSpec, dtype: str) -> Tensor | None:
    """Return what a backbone gave on these very unlabeled rows in an earlier run, [N, width]; None: nothing is kept."""
    key = _key(context, spec, UNLABELED, dtype)
    arrays = _store(context).get(key) if key else None
    return None if arrays is None else torch.from_numpy(np.array(arrays[UNLABELED]))


def keep_unlabeled(context: Context, spec: BackboneSpec, dtype: str, pooled: Tensor) -> None:
    """Keep what a backbone gave on unlabeled rows, in arithmetic of ``dtype``, for later runs."""
    if key := _key(context, spec, UNLABELED, dtype):
        _put(context, key, {UNLABELED: pooled.numpy()}, f"what {spec.id} gives on the unlabeled rows")


def _put(context: Context, key: str, values: Mapping[str, np.ndarray[Any, Any]], what: str) -> None:
    try:
        with _store(context).put(key, {n: (v.shape, v.dtype) for n, v in values.items()}) as arrays:
            for name, value in values.items():
                arrays[name][...] = value
    except StoreFullError as error:
        log.warning("%s is not kept for later runs: %s", what, error)


def _store(context: Context) -> Store:
    return Store(Path(context.store), context.store_bytes)


def _key(context: Context, spec: BackboneSpec, kind: str = "survey", *more: str) -> str:
    file = context.weights.get(spec.id)
    if not context.store or file is None or spec.weights is None or spec.fitted:
        return ""
    plugin = next((e for e in context.manifest if e["name"] == spec.namespace), {})
    code = source_of(spec, plugin)
    about: tuple[Any, ...] = (FORMAT, torch.__version__, to_json(spec), *code, _identity(Path(file)))
    profile = context.prepared.profile
    if kind == UNLABELED:
        assert profile.unlabeled is not None
        return Store.key(kind, slug(spec.id), *about, profile.unlabeled.fingerprint, *more)
    speed = (machine(best_device()), context.threads)  # a record tells seconds, and the arithmetic that is fast there
    return Store.key(kind, slug(spec.id), *about, *speed, profile.fingerprint, context.prepared.task.to_json())


def source_of(spec: BackboneSpec, plugin: Mapping[str, str]) -> tuple[Any, ...]:
    """Return what tells the code that builds a backbone from another one, for the keys of what it computed.

    Of a single-file plugin that is the checksum in its manifest: where it travelled to, its file is gone once loaded.
    """
    return to_json(plugin), "" if plugin.get("sha256") else code_of(spec.factory)


def code_of(factory: str) -> str:
    """Return a hash of the source that builds a backbone: of its factory's module, and of the files beside it.

    An editable install keeps its version, and a module without a distribution has none, whatever is edited. What a
    process has loaded is hashed once, however the files change meanwhile; empty where there is no source (a
    single-file plugin, whose checksum the manifest holds).

    Args:
        factory: ``package.module:callable``.
    """
    name = factory.partition(":")[0]
    try:
        loaded = getattr(sys.modules.get(name), "__spec__", None) or importlib.util.find_spec(name)
    except ImportError:
        return ""
    if loaded is None or not loaded.origin or not loaded.origin.endswith(".py"):
        return ""
    if name not in _CODE or _CODE[name][0] is not loaded:  # a module that was loaded again has another spec
        file = Path(loaded.origin)
        files = sorted(file.parent.glob("*.py")) if loaded.parent else [file]
        found = hashlib.sha256()
        for one in files:
            found.update(f"{one.name} {one.stat().st_size}\n".encode() + one.read_bytes())
        _CODE[name] = (loaded, found.hexdigest())
    return _CODE[name][1]


def _identity(path: Path) -> list[Any]:
    """Return what tells a file or folder of weights from another one without reading it."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files]
