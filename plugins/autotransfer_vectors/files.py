"""Reading files of word vectors: word2vec and fastText text (a header line), GloVe text (none), word2vec binary."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from autotransfer.plugin import WeightsError

MOST = 200_000
"""Words that are read: files list them from the commonest down, and rarer ones hardly count in a mean."""
FASTTEXT = 793_712_314
"""The number that fastText's own model files begin with."""
_HEADER = re.compile(rb"^\s*(\d+)\s+(\d+)\s*$")
_LONGEST_WORD = 4096
"""Bytes; a longer one means that the file is something else."""


@dataclass(frozen=True)
class Vectors:
    """The commonest words of a file."""

    words: list[str]
    values: np.ndarray[Any, Any]
    """``float32`` [words, width]."""


def read(path: Path, most: int = MOST) -> Vectors:
    """Return the first words of a file with their vectors; one that stands there twice is taken the first time.

    Args:
        path: of a text or binary file, maybe gzipped.
        most: words at most.

    Raises:
        WeightsError: it is no such file, or is damaged.
    """
    try:
        with _opened(path) as file:
            first = file.readline(1 << 20)
            header = _HEADER.match(first)
            if int.from_bytes(first[:4], "little") == FASTTEXT:
                raise WeightsError(
                    f"{path} is a model of fastText's own binary kind, which holds parts of words; give the .vec file "
                    'beside it, or write one: python -c "import fasttext; ..." (its get_words and get_word_vector)'
                )
            if header is None:
                found = _text(path, [first], file, None, most)
            else:
                count, width = int(header[1]), int(header[2])
                found = _sized(path, file, min(count, most), width)
    except (OSError, EOFError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    if not found.words:
        raise WeightsError(f"{path} holds no word vectors")
    if not np.isfinite(found.values).all():
        raise WeightsError(f"{path} holds values that are not finite; it is damaged")
    return found


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _sized(path: Path, file: IO[bytes], count: int, width: int) -> Vectors:
    """Return the words after a header: as text where the first line reads as numbers, else as binary."""
    if not 1 <= width <= 10_000:
        raise WeightsError(f"{path} says that its vectors are {width} wide; it holds no word vectors")
    line = file.readline(_LONGEST_WORD + 32 * width)
    if _numbers(line, width) is not None:
        return _text(path, [line], file, width, count)
    return _binary(path, file, line, count, width)


def _text(path: Path, lines: list[bytes], file: IO[bytes], width: int | None, most: int) -> Vectors:
    words: dict[str, int] = {}
    rows = []
    number, line = 0, lines[0]
    while line and len(words) < most:
        number += 1
        width = width or len(line.split()) - 1
        values = _numbers(line, width)
        if values is None:
            shown = line[:60].decode("utf-8", "replace").strip()
            raise WeightsError(
                f"{path} is no file of word vectors: its line {number} is no word and {width} numbers ({shown!r} ...)"
            )
        word = b" ".join(line.split()[:-width]).decode("utf-8", "replace")
        if word and word not in words:
            words[word] = number
            rows.append(values)
        line = file.readline()
    made = np.stack(rows) if rows else np.zeros((0, 1), np.float32)
    return Vectors(list(words), made)


def _numbers(line: bytes, width: int) -> np.ndarray[Any, Any] | None:
    """Return the last ``width`` fields of a line as numbers; None where they are none, or there is no word."""
    fields = line.split()
    if width < 2 or len(fields) <= width:
        return None
    try:
        return np.array(fields[-width:], dtype=np.float32)
    except ValueError:
        return None


def _binary(path: Path, file: IO[bytes], begun: bytes, count: int, width: int) -> Vectors:
    words: dict[str, int] = {}
    rows = []
    held = begun
    for _ in range(count):
        held = held.lstrip(b"\n") if held.lstrip(b"\n") else held
        while b" " not in held.lstrip(b"\n")[:_LONGEST_WORD]:
            more = file.read(1 << 16)
            if not more or len(held) > _LONGEST_WORD + (1 << 16):
                raise WeightsError(f"{path} ends, or holds no word, after {len(words)} words; it is damaged")
            held += more
        name, _, held = held.lstrip(b"\n").partition(b" ")
        size = 4 * width
        if len(held) < size:
            held += file.read(max(size - len(held), 1 << 20))
        if len(held) < size:
            raise WeightsError(f"{path} ends inside the vector of a word, after {len(words)} words; it is damaged")
        word = name.decode("utf-8", "replace")
        if word not in words:
            words[word] = len(words)
            rows.append(np.frombuffer(held[:size], "<f4").astype(np.float32))
        held = held[size:]
    return Vectors(list(words), np.stack(rows))
