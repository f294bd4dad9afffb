"""Fetch a real data set by the name of its package, and lay it out as class folders, or as a table of texts or sounds.

    python benchmarks/data/fetch.py tux --out data/tux           # 8 folders of drawings and photographs, about 700 rows
    python benchmarks/data/fetch.py fashion --out data/fashion   # 2,000 rows of 10 classes, 28 x 28, grey
    python benchmarks/data/fetch.py movies --out data/movies     # movies.csv: 2,000 snippets of reviews, 2 classes
    python benchmarks/data/fetch.py ratings --out data/ratings   # ratings.csv: the same with the rating, -4 to 4
    python benchmarks/data/fetch.py tweets --out data/tweets     # tweets.csv: 2,000 rated tweets, the same 2 classes
    python benchmarks/data/fetch.py fortunes --out data/fortunes # fortunes.csv: 3,000 sayings of 12 topics
    python benchmarks/data/fetch.py glosses --out data/glosses   # glosses.csv: 3,000 definitions of nouns of 12 topics
    python benchmarks/data/fetch.py drums --out data/drums       # drum hits of 14 kits: drums.csv with a kit column
    python benchmarks/data/fetch.py prompts --out data/prompts   # telephone prompts in 5 languages, 8 kHz, 500 rows
    python benchmarks/data/fetch.py names --out data/names       # spoken names in 8 languages: names.csv

``--rows`` makes fashion and the tables of texts larger or smaller, as far as there are rows.

Needs apt-get and dpkg-deb, and a package list (apt-get update) that knows the package; nothing is installed.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import sounds  # beside this file
import texts
from PIL import Image

TUX_PACKAGE, TUX_FOLDER, TUX_CLASSES = "tuxpaint-stamps-default", "usr/share/tuxpaint/stamps", 8
FASHION_PACKAGE, FASHION_FOLDER, FASHION_ROWS = "dataset-fashion-mnist", "usr/share/datasets/fashion-mnist", 2000
FASHION_CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")

PICTURES = ("tux", "fashion")
TEXTS = ("movies", "ratings", "tweets", "fortunes", "glosses")


def unpack(package: str, into: Path) -> Path:
    """Download a package, unpack it under ``into`` without installing it, and return its root."""
    subprocess.run(["apt-get", "download", "-q", package], cwd=into, check=True, stdout=sys.stderr)
    (archive,) = into.glob(f"{package}_*.deb")
    subprocess.run(["dpkg-deb", "-x", archive.name, "root"], cwd=into, check=True)
    return into / "root"


def tux(root: Path, out: Path) -> dict[str, int]:
    """Copy the PNG files of the largest folders; a file's name keeps its path, so that none hides another."""
    stamps = root / TUX_FOLDER
    found = {folder.name: sorted(folder.rglob("*.png")) for folder in stamps.iterdir() if folder.is_dir()}
    largest = sorted(found, key=lambda name: (-len(found[name]), name))[:TUX_CLASSES]
    for name in sorted(largest):
        (out / name).mkdir(parents=True)
        for path in found[name]:
            shutil.copyfile(path, out / name / "-".join(path.relative_to(stamps / name).parts))
    return {name: len(found[name]) for name in sorted(largest)}


def fashion(root: Path, out: Path, rows: int = FASHION_ROWS, seed: int = 0) -> dict[str, int]:
    """Write as many training rows of each class as PNG, drawn by ``seed``."""
    folder = root / FASHION_FOLDER
    images = read_idx(folder / "train-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
    labels = read_idx(folder / "train-labels-idx1-ubyte.gz", header=8)
    rng = np.random.default_rng(seed)
    each = rows // len(FASHION_CLASSES)
    for label, name in enumerate(FASHION_CLASSES):
        (out / name).mkdir(parents=True)
        for i in sorted(rng.choice(np.flatnonzero(labels == label), each, replace=False).tolist()):
            Image.fromarray(images[i]).save(out / name / f"{i:05d}.png")
    return dict.fromkeys(FASHION_CLASSES, each)


def read_idx(path: Path, header: int) -> np.ndarray:
    """Return the bytes of an IDX file after its header."""
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), dtype=np.uint8, offset=header)


def table(name: str, folder: Path, out: Path, count: int | None = None) -> dict[str, int]:
    """Write a table of texts, of so many rows."""
    snippets = "movieReviewSnippets_GroundTruth.txt"
    files = {"movies": snippets, "ratings": snippets, "tweets": "tweets_GroundTruth.txt"}
    numbers = texts.rated(folder, snippets) if name == "ratings" else None
    if numbers is not None:
        rows = [(words, "positive" if score > 0 else "negative") for words, score in numbers.items()]
    elif name in files:
        rows = texts.sentences(folder, files[name])
    else:
        package = {"fortunes": "fortunes", "glosses": "wordnet-base"}[name]
        rows = {"fortunes": texts.fortunes, "glosses": texts.glosses}[name](unpack(package, folder))
    return texts.written(rows, out / f"{name}.csv", count or (2000 if name in files else 3000), numbers=numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*PICTURES, *TEXTS, *sounds.SETS])
    parser.add_argument("--out", type=Path, required=True, help="folder to make; it must not hold anything yet")
    parser.add_argument("--rows", type=int, help="of fashion and the tables of texts; none: as above")
    given = parser.parse_args()
    if given.rows is not None and (given.rows < 1 or given.name not in ("fashion", *TEXTS)):
        parser.error("--rows wants a number, 1 or more, and goes with fashion and the tables of texts")
    if given.out.exists() and any(given.out.iterdir()):
        parser.error(f"{given.out} is not empty")
    enough = partial(fashion, rows=given.rows or FASHION_ROWS)
    pictures: dict[str, tuple[str, Callable[[Path, Path], dict[str, int]]]] = {
        "tux": (TUX_PACKAGE, tux),
        "fashion": (FASHION_PACKAGE, enough),
    }
    with tempfile.TemporaryDirectory() as folder:
        if given.name in pictures:
            package, lay_out = pictures[given.name]
            counts = lay_out(unpack(package, Path(folder)), given.out)
        elif given.name in sounds.SETS:
            given.out.mkdir(parents=True, exist_ok=True)
            counts = sounds.SETS[given.name](Path(folder), given.out)
        else:
            counts = table(given.name, Path(folder), given.out, given.rows)
    for name, count in counts.items():
        print(f"{count:6d}  {name}")
    print(f"{sum(counts.values()):6d}  in {given.out}")


if __name__ == "__main__":
    main()
