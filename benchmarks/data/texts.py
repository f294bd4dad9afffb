"""Real text data sets by the names of their packages, as tables with the columns ``text`` and ``label``."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

VADER, VADER_ARCHIVE = "vaderSentiment==3.3.2", "additional_resources/hutto_ICWSM_2014.tar.gz"
NEUTRAL = 0.5
"""Rated sentences (-4 to 4) nearer to 0 are left out: they are neither for nor against."""
TOPICS = 12
LONGEST = 1000
"""Characters; longer fortunes are scenes and essays."""
NOUNS = (
    *("Tops", "act", "animal", "artifact", "attribute", "body", "cognition", "communication", "event", "feeling"),
    *("food", "group", "location", "motive", "object", "person", "phenomenon", "plant", "possession", "process"),
    *("quantity", "relation", "shape", "state", "substance", "time"),
)
"""WordNet's lexicographer files of nouns, numbers 3 to 28 (lexnames(5WN))."""
Rows = list[tuple[str, str]]


def sentences(into: Path, file: str) -> Rows:
    """Return the rated sentences of one file of vaderSentiment's source package, as positive and negative ones."""
    return [(words, "positive" if score > 0 else "negative") for words, score in rated(into, file).items()]


def rated(into: Path, file: str) -> dict[str, float]:
    """Return those sentences with their mean rating, without what is neither for nor against."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary=:all:", "-d", str(into), VADER]
    subprocess.run(command, check=True, stdout=sys.stderr)
    (package,) = into.glob("*.tar.gz")
    with tarfile.open(package) as outer:
        member = next(m for m in outer.getmembers() if m.name.endswith(VADER_ARCHIVE))
        held = outer.extractfile(member)
        assert held is not None
        with tarfile.open(fileobj=io.BytesIO(held.read())) as inner:
            name = next(m for m in inner.getmembers() if m.name.endswith(file) and "/._" not in m.name)
            found = inner.extractfile(name)
            assert found is not None
            text = found.read().decode("utf-8", "replace")
    rows = [line.split("\t", 2) for line in text.splitlines() if line.count("\t") >= 2]
    scores = ((words.strip(), float(score)) for _, score, words in rows)
    return {words: score for words, score in scores if abs(score) >= NEUTRAL}


def fortunes(root: Path) -> Rows:
    """Return the sayings of the largest topics."""
    rows: Rows = []
    for file in sorted((root / "usr/share/games/fortunes").iterdir()):
        if file.suffix or not file.is_file():
            continue
        texts = file.read_text(encoding="utf-8", errors="replace").split("\n%\n")
        rows += [(t.strip(), file.name) for t in texts if 20 <= len(t.strip()) <= LONGEST]
    return _largest(rows)


def glosses(root: Path) -> Rows:
    """Return what WordNet says of nouns, with the lexicographer's file that each stands in."""
    folder = root / "usr/share/wordnet"
    rows: Rows = []
    for line in (folder / "data.noun").read_text(encoding="utf-8").splitlines():
        if line.startswith(" ") or " | " not in line:
            continue
        fields, _, gloss = line.partition(" | ")
        rows.append((gloss.split('"')[0].strip(" ;"), NOUNS[int(fields.split()[1]) - 3]))
    return _largest([r for r in rows if r[1] != "Tops" and r[0]])


def _largest(rows: Rows) -> Rows:
    kept = {name for name, _ in Counter(label for _, label in rows).most_common(TOPICS)}
    return [r for r in rows if r[1] in kept]


def written(
    rows: Rows, path: Path, count: int, seed: int = 0, numbers: Mapping[str, float] | None = None
) -> dict[str, int]:
    """Write so many distinct rows as a table, as even over the labels as they allow, and return their counts.

    Where there are numbers by text, they are a third column, ``rating``.
    """
    rows = list(dict.fromkeys(rows))
    rng = np.random.default_rng(seed)
    labels = sorted({label for _, label in rows})
    drawn: Rows = []
    for left, label in zip(range(len(labels), 0, -1), sorted(labels, key=lambda n: _count(rows, n)), strict=True):
        own = [r for r in rows if r[1] == label]
        take = min(len(own), (count - len(drawn)) // left)
        drawn += [own[i] for i in sorted(rng.choice(len(own), take, replace=False).tolist())]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["text", "label", *(["rating"] if numbers else [])])
        chosen = [drawn[i] for i in rng.permutation(len(drawn))]
        table.writerows([*row, *([numbers[row[0]]] if numbers else [])] for row in chosen)
    return dict(sorted(Counter(label for _, label in drawn).items()))


def _count(rows: Rows, label: str) -> int:
    return sum(r[1] == label for r in rows)
