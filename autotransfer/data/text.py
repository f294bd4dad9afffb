"""Texts: decoded whatever their encoding, cleaned of what no text holds, and measured."""

from __future__ import annotations

import codecs
import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

from autotransfer.data.languages import guess_language
from autotransfer.errors import DataError

SUFFIXES = frozenset({".txt", ".text"})
LARGEST = 20_000_000
"""Bytes; a larger file is taken for something else than one text."""
SNIFFED = 1 << 20
"""Bytes of a table that its encoding is told from."""
FALLBACK = "cp1252"
"""Windows' Latin-1: what Western texts that are no UTF-8 nearly always are."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WORD = re.compile(r"\w+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0e7f]")
"""Scripts written without spaces (Japanese, Chinese, Thai): each sign counts as a word."""


def sniff(body: bytes, whole: bool = True) -> str | None:
    """Return the encoding of text in bytes: by its mark, UTF-8, UTF-16 without a mark, or Windows' Latin-1.

    Args:
        body: the bytes, or the first of them.
        whole: they are all; else the last character may be cut.

    Returns:
        The codec's name, None where the bytes are no text at all.
    """
    for mark, name in _MARKS:
        if body.startswith(mark):
            return name
    zeros = body.count(0)
    if zeros <= len(body) // 10 and _is_utf8(body, whole):
        return "utf-8"
    even, odd = body[0::2].count(0), body[1::2].count(0)
    if zeros > len(body) // 10 and max(even, odd) > 0.3 * len(body) / 2 and min(even, odd) < 0.1 * max(even, odd):
        return "utf-16-le" if odd > even else "utf-16-be"
    controls = sum(body.count(c) for c in (*range(9), *range(14, 27), *range(28, 32), 127))
    return FALLBACK if controls <= len(body) // 50 else None


def decode(body: bytes, name: str) -> tuple[str, bool]:
    """Return the text in bytes, and whether its encoding had to be guessed.

    Raises:
        DataError: the bytes are no text.
    """
    found = sniff(body)
    if found is None:
        raise DataError(f"{name} cannot be read as a text: its bytes are no UTF-8, UTF-16 or Latin-1")
    try:
        return clean(body.decode(found, errors="replace" if found == FALLBACK else "strict")), found == FALLBACK
    except UnicodeDecodeError as error:
        raise DataError(f"{name} cannot be read as a text: it is no valid {found}: {error.reason}") from error


def encoding_of(path: Path) -> tuple[str, list[str]]:
    """Return the encoding of a table's file, and what to tell the user of it.

    Raises:
        DataError: the file is no text.
    """
    with path.open("rb") as file:
        body = file.read(SNIFFED)
        whole = not file.read(1)
        while not whole and sniff(body, whole=False) == "utf-8":  # one later byte may be no UTF-8
            more = file.read(SNIFFED)
            if not more:
                break
            body = more if _is_utf8(body, whole=True) else body[-4:] + more
    found = sniff(body, whole=False)
    if found is None:
        raise DataError(f"{path} cannot be read as a table: its bytes are no UTF-8, UTF-16 or Latin-1 text")
    told = [f"{path.name} is no UTF-8; it was read as Western European text (Windows-1252): look at a few accents"]
    return ("utf-8-sig", []) if found == "utf-8" else (found, told if found == FALLBACK else [])


def _is_utf8(body: bytes, whole: bool) -> bool:
    """Return whether bytes are UTF-8; where they are not the whole, the last character may be cut."""
    try:
        codecs.getincrementaldecoder("utf-8")("strict").decode(body, final=whole)
    except UnicodeDecodeError:
        return False
    return True


def clean(text: str) -> str:
    """Return a text without NUL bytes, halves of surrogate pairs and a mark of byte order; nothing else is changed."""
    text = text.removeprefix("\ufeff").replace("\x00", " ")
    return _SURROGATE.sub("\ufffd", text)


def as_text(item: Any) -> tuple[str, bool]:
    """Return an item as a text, and whether its encoding had to be guessed.

    Args:
        item: a text, bytes, a number (as it is written), or a path of a file.

    Raises:
        DataError: it is none of these, or cannot be read.
    """
    if isinstance(item, str):
        return clean(str(item)), False
    if isinstance(item, Path):
        try:
            if item.stat().st_size > LARGEST:
                raise DataError(f"{item.name} has more than {LARGEST / 1e6:.0f} MB; wanted one text a file")
            return decode(item.read_bytes(), item.name)
        except (OSError, ValueError) as error:  # ValueError: a NUL in a path
            raise DataError(f"{item.name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if isinstance(item, (bytes, bytearray)):
        return decode(bytes(item), "a text")
    number = isinstance(item, (int, float)) and not isinstance(item, bool) and item == item
    if number:
        return str(item), False
    shown = "nothing (NaN)" if isinstance(item, float) else type(item).__name__
    raise DataError(f"{shown} is no text; wanted a string, or the path of a text file")


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case; of scripts without spaces, their signs."""
    spaced = _UNSPACED.sub(lambda found: f" {found[0]} ", text) if _UNSPACED.search(text) else text
    return _WORD.findall(spaced.lower())


def content_hash(text: str) -> str:
    """Return a hash that equal texts share."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


class Measure:
    """What is measured of one text."""

    __slots__ = ("characters", "empty", "guessed", "language", "words")

    def __init__(self, text: str, guessed: bool) -> None:
        self.characters = len(text)
        self.empty = not text.strip()
        self.words = Counter(words_of(text))
        self.language = guess_language(text, self.words) if self.words else ""
        self.guessed = guessed
