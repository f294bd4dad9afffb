"""The card of a file of word vectors: converted once into the cache folder, then a backbone like others."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from autotransfer.plugin import BackboneSpec, Scalar, TextInput, WeightsError, WeightSource, cache_folder
from autotransfer_vectors.files import MOST, read
from autotransfer_vectors.words import VOCABULARY

MAX_LENGTH = 512
"""Words of the longest text: a mean costs next to nothing."""
VERSION = 1
"""Of what is converted; raised whenever the same file gives something else."""
_ABOUT = "vectors.json"


def find(name: str, options: Mapping[str, Scalar]) -> BackboneSpec | None:
    """Return the card of a file of word vectors; None where there is no file, and no saved model's options.

    Raises:
        WeightsError: the file holds no word vectors, or the options are unknown.
    """
    unknown = sorted(set(options) - {"most", "words", "width"})
    if unknown:
        raise WeightsError(f"{name} has no options {', '.join(unknown)}; known: most")
    if "words" in options and "width" in options:
        return _card(name, int(options["words"] or 0), int(options["width"] or 0), None)
    path = Path(name).expanduser()
    if not path.is_file():
        return None
    folder = _converted(path, int(options.get("most") or MOST))
    about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    return _card(name, int(about["words"]), int(about["width"]), folder)


def _card(name: str, words: int, width: int, folder: Path | None) -> BackboneSpec:
    return BackboneSpec(
        id=f"vectors/{name}",
        factory="autotransfer_vectors.build:build",
        options={"words": words, "width": width},
        modality="text",
        summary=f"mean of word vectors: {words:,} words, {width} wide",
        input=TextInput(tokenizer="autotransfer_vectors.words:words", max_length=MAX_LENGTH),
        stages=("embedding",),
        width=width,
        params=(words + 1) * width,
        macs=width * 64,
        # Where the card is made again for a saved model, the weights are those of the model.
        weights=WeightSource(where="file", name=str(folder)) if folder is not None else None,
        assets=(VOCABULARY,),
        pretrained_on=f"whatever {Path(name).name} was made from",
    )


def _converted(path: Path, most: int) -> Path:
    """Return the folder in the cache that holds a file's vectors as safetensors, and its vocabulary."""
    state = path.stat()
    about = (VERSION, str(path.absolute()), state.st_size, state.st_mtime_ns, most)
    target = cache_folder() / "vectors" / hashlib.sha256(repr(about).encode()).hexdigest()[:24]
    if (target / _ABOUT).is_file():
        return target
    found = read(path, most)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    try:
        save_file({"vectors": torch.from_numpy(found.values)}, temporary / "vectors.safetensors")
        lines = (w.replace("\n", " ") for w in found.words)
        (temporary / VOCABULARY).write_text("\n".join(lines) + "\n", encoding="utf-8")
        size = {"words": len(found.words), "width": found.values.shape[1]}
        (temporary / _ABOUT).write_text(json.dumps(size), encoding="utf-8")
        try:
            os.replace(temporary, target)
        except OSError:  # another process was first: its copy is as good
            if not (target / _ABOUT).is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
