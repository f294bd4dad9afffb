"""The tokenizer of word vectors: words and signs, looked up as they stand, else in lower case."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from autotransfer.plugin import WeightsError

VOCABULARY = "vocabulary.txt"
"""One word a line, in the order of the vectors."""
_TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
_STAND_IN = ("the", "film")
"""Vocabulary of the kit, where the vectors are random: no larger than any file's."""


class Words:
    """Implements :class:`autotransfer.plugin.Tokenizer`: ids are places in the vocabulary, from 1; 0 is padding."""

    pad = 0

    def __init__(self, vocabulary: Sequence[str], max_length: int) -> None:
        self.max_length = max_length
        self._ids: dict[str, int] = {}
        for place, word in enumerate(vocabulary, 1):
            self._ids.setdefault(word, place)
        body = hashlib.sha256("\n".join(vocabulary).encode("utf-8", "surrogatepass")).hexdigest()[:24]
        self.key = f"words {body} {max_length}"

    def __call__(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Return the ids of each text's known words; unknown ones are left out, and not counted."""
        rows = [self._row(text) for text in texts]
        return [r[: self.max_length] for r in rows], [len(r) for r in rows]

    def _row(self, text: str) -> list[int]:
        found = []
        for token in _TOKEN.findall(text):
            place = self._ids.get(token) or self._ids.get(token.lower())
            if place is None and "'" in token.replace("’", "'"):
                parts = re.split("['’]", token)
                found += [p for p in (self._ids.get(w) or self._ids.get(w.lower()) for w in parts) if p]
            elif place is not None:
                found.append(place)
        return found


def words(folder: Path | None, *, max_length: int) -> Words:
    """Return the tokenizer of a folder's vocabulary; None: the kit's stand-in.

    Raises:
        WeightsError: there is none.
    """
    if folder is None:
        return Words(_STAND_IN, max_length)
    file = Path(folder) / VOCABULARY
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} cannot be read: {error}") from error
    return Words(text.removesuffix("\n").split("\n"), max_length)
