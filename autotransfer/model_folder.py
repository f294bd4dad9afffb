"""Model folders: what is in them, how they are written whole or not at all, and how they are checked when read."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from autotransfer.codec import digest, from_json, to_json
from autotransfer.errors import ModelError
from autotransfer.schema import Recipe
from autotransfer.weights import sha256

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
WEIGHTS, RECIPE, LABELS = "weights.safetensors", "recipe.json", "labels.json"
PREPROCESSING, HISTORY, FITTED, CARD = "preprocessing.json", "history.json", "fitted.json", "README.md"
CHECKED = (WEIGHTS, LABELS, PREPROCESSING, HISTORY, FITTED)
"""Files whose checksums must hold; the card may be edited by its reader."""


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """What the head is made from."""

    output: str
    width: int
    outputs: int


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
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the other files."""
    checksum: str = ""
    """Of this file's own other fields."""

    def signed(self) -> ModelNote:
        """Return the note with its own checksum."""
        return replace(self, checksum=digest(replace(self, checksum=""), 64))


@dataclass(frozen=True)
class Read:
    """A model folder whose files were all there, whole and unaltered."""

    note: ModelNote
    tensors: dict[str, Tensor]
    bodies: Mapping[str, Any]
    """JSON files by name."""


def write(path: Path, note: ModelNote, tensors: Mapping[str, Tensor], bodies: Mapping[str, Any], card: str) -> None:
    """Write a model folder; an older model folder there is replaced.

    Args:
        path: of the folder.
        note: without checksums.
        tensors: by name.
        bodies: JSON files by name.
        card: text of README.md.

    Raises:
        ModelError: something else than a model folder is at ``path``.
    """
    _replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:8]
    temporary, old = path.with_name(f".{path.name}.{mark}"), path.with_name(f".{path.name}.{mark}.old")
    temporary.mkdir()
    try:
        whole = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
        save_file(whole, temporary / WEIGHTS)
        for name, body in bodies.items():
            _dump(temporary / name, body)
        (temporary / CARD).write_text(card, encoding="utf-8")
        sums = {n: sha256(temporary / n) for n in (WEIGHTS, *bodies)}
        _dump(temporary / RECIPE, replace(note, files=sums).signed())
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


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
    unknown = [n for n in note.files if n not in CHECKED]
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
    return Read(note, tensors, {n: _load(path / n) for n in note.files if n != WEIGHTS})


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
    if found != FORMAT:
        raise ModelError(
            f"{path} has the model format {found!r}; this autotransfer reads format {FORMAT}. "
            "Load it with the version that wrote it, or train it again"
        )
    note = from_json(ModelNote, body)
    if note.signed().checksum != note.checksum:
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
