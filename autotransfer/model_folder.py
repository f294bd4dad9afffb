"""Model folders: what is in them, how they are written whole or not at all, and how they are checked when read."""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from autotransfer import tasks
from autotransfer.codec import Scalar, digest, from_json, to_json
from autotransfer.errors import ModelError, UnknownNameError
from autotransfer.model_assets import copy_assets, is_asset
from autotransfer.protocols import FittedModule, FittedState, Task
from autotransfer.recipes import input_size
from autotransfer.registry import Registry
from autotransfer.schema import Recipe, RunRecord
from autotransfer.spec import BackboneSpec, Input, with_code_of, with_size, with_stages
from autotransfer.train.depths import DepthNetwork
from autotransfer.train.evaluate import best_device
from autotransfer.train.neighbours import NeighbourHead
from autotransfer.train.network import TransferNetwork, build_backbone
from autotransfer.weights import sha256

log = logging.getLogger(__name__)
T = TypeVar("T")
FORMAT = 4
READS = (1, 2, 3, 4)
"""Formats that are read: in the first one no head sees more than the backbone's output; the third has assets, the
fourth heads of neighbours."""
WEIGHTS, RECIPE, LABELS = "weights.safetensors", "recipe.json", "labels.json"
PREPROCESSING, HISTORY, FITTED, CARD = "preprocessing.json", "history.json", "fitted.json", "README.md"
CHECKED = (WEIGHTS, LABELS, PREPROCESSING, HISTORY, FITTED)
"""Files whose checksums must hold; the card may be edited by its reader."""
CHECKSUM = 64
"""Hexadecimal digits of the note's checksum."""
_FITTED = "fitted."
"""Prefix of a fitted backbone's own state among the saved tensors."""


@dataclass(frozen=True, kw_only=True)
class Depth:
    """A stage whose pooled features a head sees."""

    path: str
    width: int


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """What the head is made from."""

    output: str
    width: int
    """Pooled features of the backbone's output."""
    outputs: int
    depths: tuple[Depth, ...] | None = None
    """Stages that a head on all depths sees before the output, in order; None: it sees the output as it is."""
    rows: int = 0
    """Rows that a head of neighbours remembers; 0: a linear head."""


@dataclass(frozen=True, kw_only=True)
class PluginNote:
    """The plugin that gave the backbone."""

    name: str
    distribution: str = ""
    version: str = ""
    sha256: str = ""
    """Of a single-file plugin."""

    @property
    def title(self) -> str:
        """How a user knows it."""
        owner = f"{self.distribution} {self.version}".strip() or ("a single file" if self.sha256 else "a module")
        return f"the plugin {self.name!r} ({owner})"


@dataclass(frozen=True, kw_only=True)
class ModelNote:
    """``recipe.json``: everything that names the model. No callable is in it."""

    format: int
    autotransfer: str
    """Version that wrote the folder."""
    backbone: str
    recipe: Recipe
    head: HeadShape
    plugin: PluginNote
    options: Mapping[str, Scalar] = field(default_factory=dict)
    """Of the backbone's card: what is not curated is found again by its id and these, without its files."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the other files."""
    checksum: str = ""
    """Of this file's own other fields."""

    def signed(self) -> ModelNote:
        """Return the note with its own checksum."""
        return replace(self, checksum=digest(replace(self, checksum=""), CHECKSUM))


@dataclass(frozen=True)
class Read:
    """A model folder whose files were all there, whole and unaltered."""

    note: ModelNote
    tensors: dict[str, Tensor]
    bodies: Mapping[str, Any]
    """JSON files by name."""


def write(
    path: Path,
    note: ModelNote,
    tensors: Mapping[str, Tensor],
    bodies: Mapping[str, Any],
    card: str,
    assets: Mapping[str, Path] | None = None,
) -> None:
    """Write a model folder; an older model folder there is replaced.

    Args:
        path: of the folder.
        note: without checksums.
        tensors: by name.
        bodies: JSON files by name.
        card: text of README.md.
        assets: files to copy, by name.

    Raises:
        ModelError: something else than a model folder is at ``path``, or nothing can be written there.
    """
    _replaceable(path)
    mark = uuid.uuid4().hex[:8]
    temporary, old = path.with_name(f".{path.name}.{mark}"), path.with_name(f".{path.name}.{mark}.old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except OSError as error:
        raise ModelError(f"no model can be written to {str(path)!r}: {error.strerror}; name another folder") from error
    try:
        whole = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
        save_file(whole, temporary / WEIGHTS)
        for name, body in bodies.items():
            _dump(temporary / name, body)
        (temporary / CARD).write_text(card, encoding="utf-8")
        copied = copy_assets(assets or {}, temporary)
        sums = {n: sha256(temporary / n) for n in (WEIGHTS, *bodies, *copied)}
        _dump(temporary / RECIPE, replace(note, files=sums).signed())
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def head_shape(network: TransferNetwork, spec: BackboneSpec, task: Task) -> HeadShape:
    """Return what a network's head is made from."""
    depths, head = network.depths, network.head
    return HeadShape(
        output=spec.output,
        width=len(head.mean) - sum((depths or {}).values()),
        outputs=task.outputs,
        depths=None if depths is None else tuple(Depth(path=p, width=w) for p, w in depths.items()),
        rows=len(head.keys) if isinstance(head, NeighbourHead) else 0,
    )


def with_fitted(tensors: Mapping[str, Tensor], fitted: FittedState | None) -> dict[str, Tensor]:
    """Return a network's tensors and, beside them, those of a fitted backbone's state."""
    own = {f"{_FITTED}{n}": t for n, t in fitted.tensors.items()} if fitted is not None else {}
    return {**tensors, **own}


def find(path: Path) -> Path:
    """Return the model folder: the path itself, or the one in a run folder."""
    return path / "model" if not is_model(path) and is_model(path / "model") else path


@dataclass(frozen=True)
class Restored:
    """Everything that a model is made of, as it was saved."""

    network: TransferNetwork
    task: Task
    spec: BackboneSpec
    recipe: Recipe
    run: RunRecord
    registry: Registry
    fitted: FittedState | None


def restore(where: Path, plugins: Sequence[Any] = ()) -> Restored:
    """Return what a model folder holds, the network built by the plugin that owns the backbone's id.

    Raises:
        ModelError: a file is missing, damaged, altered, or of an unknown version.
        UnknownNameError: no plugin here has its backbone.
    """
    content = read(where)
    note, bodies = content.note, content.bodies
    if note.recipe.backbone != note.backbone:
        raise ModelError(f"{where / RECIPE} names two backbones: {note.backbone} and {note.recipe.backbone}")
    task = tasks.from_json(bodies[LABELS])
    if task.outputs != note.head.outputs:
        raise ModelError(f"{where} has a head of {note.head.outputs} outputs, and labels for {task.outputs}")
    run = _parsed(RunRecord, bodies[HISTORY], where / HISTORY)
    registry = Registry.discover(plugins)
    prepared = _parsed(_Preprocessing, {"input": bodies[PREPROCESSING]}, where / PREPROCESSING).input
    spec = _spec(registry, note, prepared)
    fitted, tensors = _state(content)
    network = _network(registry, spec, task, note, fitted)
    try:
        network.load_state_dict(tensors)
        if not spec.fitted:  # as in a fit: a fitted one may hold tensors that no ``to`` moves
            network.to(best_device())
    except RuntimeError as error:
        raise ModelError(
            f"the weights in {where} do not fit {spec.id} as {plugin_note(registry, spec).title} builds it here; the "
            f"model was saved with {note.plugin.title}: {' '.join(str(error).split())[:300]}"
        ) from error
    return Restored(network, task, spec, note.recipe, run, registry, fitted)


def read(path: Path) -> Read:
    """Return what a model folder holds, after checking all of it.

    Raises:
        ModelError: it is no model folder, is of another format, or a file is missing, damaged or altered.
    """
    note = read_note(path)
    missing = [n for n in (WEIGHTS, LABELS, PREPROCESSING, HISTORY) if n not in note.files]
    missing += [n for n in note.files if not (path / n).is_file()]
    if missing:
        raise ModelError(f"the model folder {path} lacks {', '.join(missing)}; copy the folder again as a whole")
    unknown = [n for n in note.files if n not in CHECKED and not is_asset(n)]
    if unknown:
        raise ModelError(f"{path / RECIPE} names files that no model has: {', '.join(unknown)}; it was altered")
    altered = [n for n, wanted in note.files.items() if sha256(path / n) != wanted]
    if altered:
        raise ModelError(
            f"{', '.join(altered)} in {path} have another checksum than {RECIPE} says: damaged or altered; "
            "copy the folder again as a whole"
        )
    try:
        tensors = load_file(path / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path / WEIGHTS} cannot be read: {error}") from error
    bodies = {n: _load(path / n) for n in note.files if n != WEIGHTS and not is_asset(n)}
    odd = [n for n, body in bodies.items() if not isinstance(body, dict)]
    if odd:
        raise ModelError(f"{', '.join(odd)} in {path} hold no JSON object; they were altered")
    return Read(note, tensors, bodies)


def read_note(path: Path) -> ModelNote:
    """Return the note of a model folder.

    Raises:
        ModelError: it is no model folder, is of another format, or the note is damaged or altered.
    """
    if not (path / RECIPE).is_file():
        state = "does not exist" if not path.exists() else f"holds no {RECIPE}"
        raise ModelError(f"{path} {state}; wanted a folder that model.save or autotransfer fit wrote")
    body = _load(path / RECIPE)
    found = body.get("format") if isinstance(body, dict) else None
    if found not in READS or isinstance(found, bool):
        raise ModelError(
            f"{path} has the model format {found!r}; this autotransfer reads format {' and '.join(map(str, READS))}. "
            "Load it with the version that wrote it, or train it again"
        )
    note = _parsed(ModelNote, body, path / RECIPE)
    # Of the file as it is, not of the note: fields that a later version adds have no part in it.
    if digest({**body, "checksum": ""}, CHECKSUM) != note.checksum:
        raise ModelError(f"{path / RECIPE} has another checksum than it says: it was altered by hand or damaged")
    return note


def is_model(path: Path) -> bool:
    """Return whether a folder looks like a model's."""
    return (path / RECIPE).is_file() and (path / WEIGHTS).is_file()


def _replaceable(path: Path) -> None:
    if not path.exists() or (path.is_dir() and (is_model(path) or not any(path.iterdir()))):
        return
    raise ModelError(f"{path} exists and is no model folder, so it is not overwritten; choose another path")


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(to_json(value), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error


def _parsed(kind: type[T], body: Any, file: Path) -> T:
    try:
        return from_json(kind, body)
    except ModelError as error:
        raise ModelError(f"{file} was altered, or another version of autotransfer wrote it: {error}") from error


@dataclass(frozen=True, kw_only=True)
class _Preprocessing:
    """Lets the codec tell the kinds of input apart."""

    input: Input


def _spec(registry: Registry, note: ModelNote, prepared: Input) -> BackboneSpec:
    try:
        found = with_size(registry.backbone(note.backbone, note.options), input_size(note.recipe))
    except UnknownNameError as error:
        raise UnknownNameError(
            f"the model needs the backbone {note.backbone!r} from {note.plugin.title}, which is not here; install it, "
            "or name its file or module: load(path, plugins=[...]), on the command line --plugin FILE"
        ) from error
    here = plugin_note(registry, found)
    if here != note.plugin:
        log.warning("%s was saved with %s; here is %s", note.backbone, note.plugin.title, here.title)
    if found.output != note.head.output or found.width not in (None, note.head.width):
        raise ModelError(
            f"{found.id} gives {found.output} of width {found.width} here; the model was saved with "
            f"{note.head.output} of width {note.head.width}, made by {note.plugin.title}"
        )
    if prepared.kind != found.modality:
        raise ModelError(f"{found.id} is for {found.modality} here; the model's rows were {prepared.kind}")
    return replace(with_stages(found, note.recipe.stages), input=with_code_of(found.input, prepared))


def _state(content: Read) -> tuple[FittedState | None, dict[str, Tensor]]:
    own = {n.removeprefix(_FITTED): t for n, t in content.tensors.items() if n.startswith(_FITTED)}
    rest = {n: t for n, t in content.tensors.items() if not n.startswith(_FITTED)}
    values = content.bodies.get(FITTED)
    return (None if values is None else FittedState(tensors=own, values=values)), rest


def _network(
    registry: Registry, spec: BackboneSpec, task: Task, note: ModelNote, fitted: FittedState | None
) -> TransferNetwork:
    depths = None if note.head.depths is None else {d.path: d.width for d in note.head.depths}
    width = note.head.width + sum((depths or {}).values())
    with torch.random.fork_rng(devices=[]):  # the random initialisation is replaced, and must leave no trace
        backbone = build_backbone(registry.factory(spec), spec, None)
        head: Any = task.head(note.head.output, width, note.recipe.training.dropout)
    if note.head.rows:
        head = NeighbourHead(note.head.output, width, task.outputs, note.head.rows)
    if spec.fitted:
        if fitted is None:
            raise ModelError(f"{spec.id} is a fitted backbone, and the model folder holds no {FITTED}")
        assert isinstance(backbone, FittedModule)
        backbone.restore(fitted)
    if depths is None:
        return TransferNetwork(backbone, head)
    lost = sorted(depths.keys() - dict(backbone.named_modules()).keys())
    if lost:
        raise ModelError(
            f"the head sees the stages {', '.join(lost)}, which {spec.id} as "
            f"{plugin_note(registry, spec).title} builds it here does not have; the model was saved with "
            f"{note.plugin.title}"
        )
    return DepthNetwork(backbone, head, depths)


def plugin_note(registry: Registry, spec: BackboneSpec) -> PluginNote:
    """Return the plugin that owns a backbone's namespace."""
    own = (i for i in registry.plugins() if i.name == spec.namespace)
    notes = (PluginNote(name=i.name, distribution=i.distribution, version=i.version, sha256=i.sha256) for i in own)
    return next(notes, PluginNote(name=spec.namespace))
