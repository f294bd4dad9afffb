"""The tasks: real pictures, texts and recordings by name, and the rows of one cell, drawn by a seed: class folders."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from autotransfer.data.targets import IMBALANCED
from autotransfer.weights import cache_folder


class Item(NamedTuple):
    """A picture, a text or a recording as a file holds it."""

    content: bytes
    suffix: str


Rows = list[tuple[Item, str]]
PIXELS = 160
"""Pictures are laid out with their shorter side no longer than this, so that decoding is no part of what differs."""
LARGE = 7000
"""Rows of the data sets that have many, where a task is to be large."""
EXTRA = 60
"""Held-out rows that an arm may look at while it is measured; all others are kept for the score of its model."""
FETCH = Path(__file__).resolve().parents[1] / "data" / "fetch.py"


@dataclass(frozen=True)
class Layout:
    """Folders of one cell's rows."""

    root: Path

    @property
    def train(self) -> Path:
        """Class folders of what a search is given; it draws its validation rows from them."""
        return self.root / "train"

    @property
    def test(self) -> Path:
        """Class folders of the few held-out rows that a search may be given."""
        return self.root / "test"

    @property
    def heldout(self) -> Path:
        """Class folders that no search sees."""
        return self.root / "heldout"

    @property
    def metric(self) -> str:
        """What decides in every arm: accuracy, balanced where the classes of the training rows are uneven."""
        counts = json.loads((self.root / "counts.json").read_text(encoding="utf-8"))["train"].values()
        return "balanced_accuracy" if max(counts) > IMBALANCED * min(counts) else "accuracy"


@dataclass(frozen=True)
class Task:
    """A task of the benchmark."""

    modality: str
    load: Callable[[Path], Rows]
    """From the folder of downloads to all its rows."""


def home() -> Path:
    """Return the folder of downloads and laid-out rows, below autotransfer's cache folder."""
    return cache_folder() / "benchmarks"


def _fetched(downloads: Path, name: str, rows: int | None = None) -> Path:
    """Return the folder of a data set of ``benchmarks/data``, fetched the first time."""
    place = downloads / (name if rows is None else f"{name}-{rows}")
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(FETCH), name, "--out", str(place)]
        command += [] if rows is None else ["--rows", str(rows)]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return place


def _pictures(name: str, rows: int | None = None) -> Callable[[Path], Rows]:
    def load(downloads: Path) -> Rows:
        paths = sorted(_fetched(downloads, name, rows).glob("*/*.png"))
        return [(_picture(path), path.parent.name) for path in paths]

    return load


def _texts(name: str, rows: int | None = None) -> Callable[[Path], Rows]:
    def load(downloads: Path) -> Rows:
        with (_fetched(downloads, name, rows) / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            return [(Item(row["text"].encode(), ".txt"), row["label"]) for row in csv.DictReader(file)]

    return load


def _sounds(name: str) -> Callable[[Path], Rows]:
    def load(downloads: Path) -> Rows:
        paths = [p for p in sorted(_fetched(downloads, name).glob("*/*")) if p.suffix in (".wav", ".ogg")]
        return [(Item(path.read_bytes(), path.suffix), path.parent.name) for path in paths]

    return load


def _digits(downloads: Path) -> Rows:
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = np.round(found.images * 255 / 16).astype(np.uint8)
    return [(_png(Image.fromarray(p)), str(t)) for p, t in zip(pixels, found.target, strict=True)]


def _emoji(downloads: Path) -> Rows:
    from autotransfer.demo import rows

    return [(_picture(path), kind) for path, kind in zip(*rows(), strict=True)]


def _picture(path: Path) -> Item:
    from autotransfer.data.image import open_image

    image = open_image(path)
    scale = PIXELS / min(image.size)
    if scale < 1:
        image = image.resize([max(1, round(n * scale)) for n in image.size], Image.Resampling.BICUBIC)
    return _png(image)


def _png(image: Image.Image) -> Item:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return Item(file.getvalue(), ".png")


TASKS: Mapping[str, Task] = {
    "tux": Task("image", _pictures("tux")),
    "fashion": Task("image", _pictures("fashion")),
    "digits": Task("image", _digits),
    "emoji": Task("image", _emoji),
    "fashion-large": Task("image", _pictures("fashion", LARGE)),
    "glosses-large": Task("text", _texts("glosses", LARGE)),
    "movies": Task("text", _texts("movies")),
    "fortunes": Task("text", _texts("fortunes")),
    "glosses": Task("text", _texts("glosses")),
    "prompts": Task("audio", _sounds("prompts")),
    "names": Task("audio", _sounds("names")),
}
"""By name."""


def lay_out(name: str, seed: int, rows: int) -> Layout:
    """Return the folders of a cell's rows, written the first time.

    ``rows`` rows are drawn so that each class has its share; copies of an item are left out before. Of the rest
    ``EXTRA`` are for the search to look at and all others are held out.

    Raises:
        ValueError: the task has too few rows.
    """
    layout = Layout(home() / f"{name}-{seed}-{rows}")
    if (layout.root / "counts.json").exists():
        return layout
    found = _distinct(TASKS[name].load(home() / "downloads"))
    if len(found) < rows + 2 * EXTRA:
        raise ValueError(f"{name} has {len(found)} rows; wanted {rows} and {2 * EXTRA} or more to hold out")
    order = _stratified([label for _, label in found], np.random.default_rng(seed))
    parts = {"train": order[:rows], "test": order[rows : rows + EXTRA], "heldout": order[rows + EXTRA :]}
    temporary = layout.root.with_name(f".{layout.root.name}.{os.getpid()}")
    for part, places in parts.items():
        for place in places:
            item, label = found[place]
            folder = temporary / part / label
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{place:05d}{item.suffix}").write_bytes(item.content)
    counts = {part: dict(Counter(found[p][1] for p in places)) for part, places in parts.items()}
    (temporary / "counts.json").write_text(json.dumps(counts), encoding="utf-8")
    shutil.rmtree(layout.root, ignore_errors=True)
    temporary.rename(layout.root)
    return layout


def _distinct(found: Rows) -> Rows:
    """Leave out every item that comes twice: a copy among the held-out rows would be known by heart."""
    names = [hashlib.sha256(item.content).digest() for item, _ in found]
    often = Counter(names)
    return [row for row, name in zip(found, names, strict=True) if often[name] == 1]


def _stratified(labels: list[str], rng: np.random.Generator) -> list[int]:
    """Return all places in an order whose every beginning holds each class in about its share of the whole."""
    keyed = []
    for label in sorted(set(labels)):
        places = [i for i, one in enumerate(labels) if one == label]
        offset = rng.random()
        keyed += [((rank + offset) / len(places), p) for rank, p in enumerate(rng.permutation(places).tolist())]
    return [p for _, p in sorted(keyed)]
