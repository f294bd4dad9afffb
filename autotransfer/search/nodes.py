"""What each node of a cluster must have for a search; asked by a task on it, before any trial."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotransfer import weights
from autotransfer.data.dataset import ItemDataset
from autotransfer.data.moved import parts_of, tables_of
from autotransfer.errors import AutotransferError
from autotransfer.registry import Registry
from autotransfer.scratch import scratch
from autotransfer.search.jobs import Context
from autotransfer.spec import WeightSource

if TYPE_CHECKING:
    from autotransfer.data import Prepared

LOOKED_AT = 32
"""Files of the data that each node is asked for, from the first to the last."""
PLACE = "AUTOTRANSFER_SHARED"
"""Names the folder where the head keeps the run of a client, on the nodes' machines."""
SHARED = (
    "give out= a folder on a file system that all nodes share (without out it lies under TMPDIR; through ray:// under "
    f"the folder that {PLACE} names)"
)


@dataclass(frozen=True)
class Needs:
    """What a node must have; it travels to the node."""

    version: str
    """Of autotransfer."""
    manifest: Sequence[Mapping[str, Any]]
    sources: Mapping[str, bytes]
    """Of single-file plugins, by their path on the driver."""
    work: str
    mark: str
    """A file of the work folder, and its content."""
    files: Sequence[tuple[str, int]]
    """Paths of rows, and their bytes."""
    weights: Mapping[str, tuple[WeightSource, str]]
    """By backbone, with the path on the driver."""
    offline: bool = False


def needs(context: Context, offline: bool) -> Needs:
    """Return what every node must have; leaves a mark in the work folder, which :func:`unmark` removes."""
    mark = f"mark-{uuid.uuid4().hex}"
    context.path(mark).write_text(mark, encoding="utf-8")
    specs = context.specs
    return Needs(
        version=importlib.metadata.version("autotransfer"),
        manifest=context.manifest,
        sources=sources(context.manifest),
        work=context.work,
        mark=mark,
        files=looked_at(context.prepared),
        weights={i: (s, p) for i, p in context.weights.items() if (s := specs[i].weights) is not None},
        offline=offline,
    )


def unmark(asked: Needs) -> None:
    """Remove the mark, and what nodes answered to it."""
    for file in Path(asked.work).glob(f"{asked.mark}*"):
        file.unlink(missing_ok=True)


def lacks(asked: Needs, name: str, id: str) -> tuple[list[str], list[str]]:
    """Return what the node that this runs on lacks, one text a fault; apart from it what files, which can be sent.

    Args:
        asked: what it must have.
        name: what a user knows it by.
        id: of the node.
    """
    found = []
    here = importlib.metadata.version("autotransfer")
    if here != asked.version:
        found.append(f"node {name} has autotransfer {here}, the driver has {asked.version}; install the same on both")
    try:
        registry(asked.manifest, asked.sources, name)
    except AutotransferError as error:
        found.append(f"{error}; install the same versions on every node")
    found += [f"node {name} {fault}" for fault in _unshared(asked, id)]
    for backbone, (source, path) in asked.weights.items():
        try:
            _weights_here(source, path, asked.offline)
        except AutotransferError as error:
            found.append(f"node {name} has no weights of {backbone}: {error}")
    return found, [f"node {name} {fault}" for fault in unseen(asked.files)]


def _unshared(asked: Needs, id: str) -> list[str]:
    folder = Path(asked.work)
    try:
        text = (folder / asked.mark).read_text(encoding="utf-8")
    except OSError:
        text = ""
    if text != asked.mark:
        return [f"does not see the run's folder {folder.parent}; {SHARED}"]
    try:
        (folder / f"{asked.mark}-{id}").write_text(id, encoding="utf-8")
    except OSError as error:
        return [f"cannot write to the run's folder {folder.parent} ({error.strerror}); {SHARED}"]
    return []


def unseen(files: Sequence[tuple[str, int]]) -> list[str]:
    """Return which of the files are not here, or have another size; one text a kind of fault."""
    sizes = {path: os.path.getsize(path) if os.path.isfile(path) else None for path, _ in files}
    gone = [p for p, _ in files if sizes[p] is None]
    other = [p for p, size in files if sizes[p] not in (None, size)]
    what = [(gone, "does not see"), (other, "has another content in")]
    return [
        f"{verb} {len(paths)} of {len(files)} files of the data that were looked at, such as {paths[0]}; "
        "put the data where every node has them at the same path, or give them in memory"
        for paths, verb in what
        if paths
    ]


def looked_at(prepared: Prepared) -> list[tuple[str, int]]:
    """Return paths of some of the data's rows, where these are files, and how large they are."""
    found: dict[str, int] = {}
    for dataset, rows in parts_of(prepared):
        path_of = getattr(dataset, "path", None)  # another reader's dataset may have none
        if path_of is None or not len(rows):
            continue
        if isinstance(dataset, ItemDataset):
            found |= {str(p): p.stat().st_size for p in tables_of(dataset)}
        for place in np.unique(np.linspace(0, len(rows) - 1, LOOKED_AT).astype(int)):
            path = path_of(int(rows[place]))
            if path is not None and path.is_file():
                found[str(path)] = path.stat().st_size
    return list(found.items())


def sources(manifest: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """Return the source of each single-file plugin, by its path here."""
    return {row["path"]: Path(row["path"]).read_bytes() for row in manifest if row["path"]}


def registry(manifest: Sequence[Mapping[str, Any]], sources: Mapping[str, bytes], node: str = "") -> Registry:
    """Return the driver's plugins; a single file that this node does not have is imported from a copy, then removed.

    Raises:
        ClusterMismatchError: this node lacks one of them, or has another version.
    """
    if not sources:
        return Registry.from_manifest(manifest, node)
    with scratch("autotransfer-plugins-") as folder:
        rows = [_unpack(row, sources.get(row["path"]), folder) for row in manifest]
        return Registry.from_manifest(rows, node)


def _unpack(row: Mapping[str, Any], source: bytes | None, folder: Path) -> Mapping[str, Any]:
    own = Path(row["path"])
    if source is None or (own.is_file() and hashlib.sha256(own.read_bytes()).hexdigest() == row["sha256"]):
        return row
    copy = folder / own.name
    copy.write_bytes(source)
    return {**row, "path": str(copy.resolve())}


def at_home(context: Context, offline: bool) -> Context:
    """Return the context as another node than the driver's has it: its own weights and its own store.

    Raises:
        WeightsError: weights cannot be had here.
    """
    known = {i: (context.specs[i].weights, p) for i, p in context.weights.items()}
    files = {i: p if s is None else _weights_here(s, p, offline) for i, (s, p) in known.items()}
    return replace(context, weights=files, store=str(weights.cache_folder() / "store") if context.store else "")


def _weights_here(source: WeightSource, path: str, offline: bool) -> str:
    return path if Path(path).exists() else str(weights.fetch(source, offline=offline))
