"""Texts behind the protocol of modalities: found in tables, measured, turned into token ids and a mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotransfer.codec import Scalar
from autotransfer.data.masking import hidden
from autotransfer.data.modalities import TABLES, Look, Preview
from autotransfer.data.text import SUFFIXES, Measure, as_text, content_hash
from autotransfer.data.tokens import Tokens, masked, padded, tokenised
from autotransfer.errors import DataError
from autotransfer.profiles import DataIssue
from autotransfer.spec import TextInput

if TYPE_CHECKING:
    from autotransfer.protocols import Dataset, Inputs, Tokenizer
    from autotransfer.registry import Registry
    from autotransfer.spec import BackboneSpec
    from autotransfer.store import Store

LONG = 2000
"""Words; longer texts are counted, as no backbone reads them whole."""
MOST_WORDS = 1_000_000
"""Distinct words that are counted; more are told as so many."""
LANGUAGES = 5
"""The commonest languages are named."""
SHOWN = 300
"""Characters of a text that a report shows."""
SHORT = 3.0
"""Mean words of a column from which on it holds texts, and not names or categories."""
WORDS = ("the", "film", "was", "seen", "by", "people", "who", "did", "not", "like", "it", "yet", "went", "again")
"""Of the kit's made-up texts."""
DISTINCT = 0.5
"""Share of distinct values that texts have at least: categories repeat."""
Array = np.ndarray[Any, Any]


class Words:
    """A tally of lengths, words and languages."""

    def __init__(self) -> None:
        self.characters: list[int] = []
        self.lengths: list[int] = []
        self.vocabulary: set[int] = set()
        self.languages: Counter[str] = Counter()
        self.empty: list[int] = []
        self.long: list[int] = []
        self.guessed: list[int] = []

    def add(self, index: int, measure: Measure) -> None:
        """Take the measure of one text."""
        count = measure.words.total()
        self.characters.append(measure.characters)
        self.lengths.append(count)
        if len(self.vocabulary) < MOST_WORDS:
            self.vocabulary.update(map(hash, measure.words))
        if measure.language:
            self.languages[measure.language] += 1
        if measure.empty:
            self.empty.append(index)
        if count > LONG:
            self.long.append(index)
        if measure.guessed:
            self.guessed.append(index)

    def facts(self) -> dict[str, Scalar]:
        """Return characters and words a text, the vocabulary, and the share of each language."""
        if not self.lengths:
            return {}
        total = max(1, self.languages.total())
        named = [f"{name} {count / total:.0%}" for name, count in self.languages.most_common(LANGUAGES)]
        return {
            "text.characters_median": float(np.median(self.characters)),
            "text.characters_max": max(self.characters),
            "text.words_median": float(np.median(self.lengths)),
            "text.words_max": max(self.lengths),
            "text.vocabulary": len(self.vocabulary),
            "text.empty": len(self.empty),
            "text.languages": ", ".join(named),
        }

    def numbers(self) -> Array:
        """Return characters and words of each text, ``float64`` [N, 2]."""
        return np.asarray([self.characters, self.lengths], dtype=np.float64).reshape(2, -1).T

    def issues(self, name: Callable[[int], str]) -> list[DataIssue]:
        """Return empty and over-long texts, and those whose encoding was guessed."""
        told = (
            ("empty_texts", self.empty, "texts are empty; they were kept, and have nothing to tell a class by"),
            ("long_texts", self.long, f"texts have more than {LONG:,} words; a backbone reads their beginning"),
            ("guessed_encoding", self.guessed, "files are no UTF-8 and were read as Western European text"),
        )
        return [
            DataIssue(what=what, count=len(rows), text=f"{len(rows)} {text}", rows=tuple(map(name, rows)))
            for what, rows, text in told
            if rows
        ]


class TextModality:
    """Implements :class:`autotransfer.data.modalities.Modality`. Items are strings, paths of files, or bytes."""

    name = "text"
    many = "texts"
    suffixes = SUFFIXES
    names = (
        *("text", "texts", "sentence", "review", "comment", "content", "body", "message", "title", "headline"),
        *("description", "abstract", "summary", "question", "answer", "tweet", "post", "document", "article"),
        *("sentence1", "sentence2", "premise", "hypothesis", "query", "passage", "context", "utterance", "gloss"),
    )
    feature = ""
    by_name = False
    ragged = True
    augmentations = ("light", "strong", "mixup")
    views = ()

    def owns(self, x: Any) -> bool:
        """Return whether X is a list of strings, or of paths of text files; some may be missing."""
        values = [v for v in x[:50] if not _missing(v)] if isinstance(x, (list, tuple)) else []
        return bool(values) and all(
            isinstance(v, str) or (isinstance(v, Path) and v.suffix.lower() in SUFFIXES) for v in values
        )

    def listed(self, x: Any) -> tuple[Any, list[str]]:
        """Return X as a list of texts and paths; what is missing is an empty text."""
        if isinstance(x, np.ndarray) and x.ndim == 1:
            x = x.tolist()
        if not isinstance(x, (list, tuple)):
            raise DataError(f"X is {type(x).__name__}; wanted a list of texts, or of paths of text files")
        if not len(x):
            raise DataError("X has no rows")
        return [_item(v, None) for v in x], []

    def columns(self, samples: Mapping[str, Sequence[Any]], asked: bool) -> list[str]:
        """Return the columns of texts, all of them: a name that says so, or values that are distinct and wordy."""
        strings = {c: [v for v in values if isinstance(v, str)] for c, values in samples.items()}
        strings = {c: v for c, v in strings.items() if v and len(v) > 0.5 * len(samples[c])}
        named = [c for c in strings if c.lower() in self.names]
        found = [c for c in strings if c in named or _wordy(strings[c])]
        if found or not asked:
            return found
        if len(strings) > 1:
            raise DataError(
                f"which of the columns {', '.join(strings)} hold texts? Call the right one 'text', or leave others out"
            )
        return list(strings)

    def cell(self, values: Mapping[str, Any], root: Path | None) -> Any:
        """Return a row's text: of several columns, each under its name; missing ones are left out."""
        if len(values) == 1:
            return _item(next(iter(values.values())), root)
        there = {c: as_text(v)[0] for c, v in values.items() if not _missing(v)}
        return "\n".join(f"{c}: {text}" for c, text in there.items())

    def path_of(self, item: Any) -> Path | None:
        """Return the path of an item that is one; a string is a text."""
        return item if isinstance(item, Path) else None

    def load(self, item: Any) -> str:
        """Return an item as a text."""
        return as_text(item)[0]

    def look(self, item: Any, name: str) -> Look:
        """Return hash and measurements of a text."""
        text, guessed = as_text(item)
        return Look(content_hash(text), Measure(text, guessed))

    def measure(self, decoded: Any) -> Measure:
        """Return the measurements of a text."""
        return Measure(*as_text(decoded))

    def steps(self, spec: TextInput, tools: Tokenizer | None) -> list[str]:
        """Return the steps from a text to its input."""
        if tools is None:
            return ["give the texts as they are"]
        return [
            f"make token ids with the backbone's tokenizer, whose files are the assets, cut to {spec.max_length} "
            "tokens with the special ones",
            f"pad on the right to the longest text of the batch with the id {tools.pad}: int64 [batch, length]",
            "attention_mask is 1 where there is a token and 0 where it is padded; an empty text has one 1",
        ]

    def preview(self, decoded: Any) -> Preview:
        """Return the first 300 characters of a text."""
        text = as_text(decoded)[0]
        return Preview("text/plain", (text[:SHOWN] + ("\u2026" if len(text) > SHOWN else "")).encode())

    def hash(self, item: Any) -> str:
        """Return a hash of a text."""
        return content_hash(self.load(item))

    def tally(self) -> Words:
        """Return an empty tally."""
        return Words()

    def adjusted(self, spec: TextInput, facts: Mapping[str, Scalar]) -> TextInput:
        """Return the input as it is."""
        return spec

    def tools(self, spec: BackboneSpec, registry: Registry, folder: Path | None) -> Tokenizer | None:
        """Return the tokenizer that the spec's input names, opened on its folder; None: the network takes texts."""
        assert isinstance(spec.input, TextInput)
        if spec.input.tokenizer is None:
            return None
        make = registry.resolve(spec, spec.input.tokenizer, "tokenizer")
        made: Tokenizer = make(folder, max_length=spec.input.max_length)
        return made

    def stack(
        self, items: Sequence[Any], spec: TextInput, tools: Any, augment: str, rng: np.random.Generator | None
    ) -> Inputs:
        """Return the texts as they are, or ``input_ids`` and ``attention_mask``, both ``int64`` [B, T].

        Raises:
            DataError: the input names a tokenizer, and it was not loaded.
        """
        texts = [as_text(i)[0] for i in items]
        if spec.tokenizer is not None and tools is None:
            raise DataError("this backbone takes token ids, and its tokenizer was not loaded")
        inputs = texts if spec.tokenizer is None else padded(tokenised(tools, texts)[0], tools.pad)
        return inputs if augment == "none" or rng is None else self.altered(inputs, spec, tools, augment, rng)

    def altered(self, inputs: Any, spec: TextInput, tools: Any, augment: str, rng: np.random.Generator) -> Inputs:
        """Return texts with some of their words, or token ids with some of their tokens, hidden."""
        if spec.tokenizer is not None:
            return masked(inputs, tools, augment, rng)
        rows = (np.asarray(text.split(), dtype=object) for text in inputs)
        return [" ".join(hidden(words, (), None, augment, rng)) for words in rows]

    def view(
        self, items: Sequence[Any], spec: TextInput, tools: Any, numbers: Sequence[int], rows: Sequence[int]
    ) -> Inputs:
        """Return the texts as they are: they have no other view."""
        return self.stack(items, spec, tools, "none", None)

    def keep(self, dataset: Dataset, contents: Array, splits: Sequence[Array], store: Store | None) -> Tokens:
        """Return where the tokens of all rows are kept, in memory."""
        return Tokens(dataset)

    def one(self, x: Any) -> Any:
        """Return x where it is one text, or the path of one; a string that names a table or a folder is many.

        Raises:
            DataError: a path that names nothing.
        """
        if isinstance(x, (bytes, bytearray)):
            return x
        if not isinstance(x, (str, Path)):
            return None
        path = x if isinstance(x, Path) else _named(x)
        if path is None:
            return x
        if not path.exists():
            raise DataError(f"{str(path)!r} does not exist; wanted a text file, a folder of them, or a table")
        return path if path.is_file() and path.suffix.lower() not in TABLES else None

    def many_of(self, x: Sequence[Any]) -> list[Any]:
        """Return the list: each string is a text."""
        return list(x)

    def samples(self, spec: TextInput, count: int) -> list[str]:
        """Return made-up texts of different lengths."""
        rng = np.random.default_rng(0)
        words = WORDS
        return [" ".join(rng.choice(words, 3 + 4 * i)) for i in range(count)]

    def odd(self) -> Mapping[str, str]:
        """Return odd texts."""
        return {
            "empty": "",
            "blank": " \n\t",
            "emoji": "\U0001f600\U0001f1eb\U0001f1f7 \U0001f468\u200d\U0001f469\u200d\U0001f467",
            "another script": "\u4f60\u597d\uff0c\u4e16\u754c \u0645\u0631\u062d\u0628\u0627",
            "one long word": "a" * 5000,
            "very long": "word " * 20_000,
        }


MODALITY = TextModality()


_PLACES = ("/", "./", "../", "~/")
"""How a path begins that no text does: one that is not there is a mistake, not a text to answer for."""


def _named(text: str) -> Path | None:
    """Return the path that a string names: something that is there, or a file's name and nothing else."""
    if len(text) > 500 or "\n" in text or "\x00" in text or not text.strip():
        return None
    path = Path(text)
    suffixed = path.suffix.lower() in (TABLES | SUFFIXES)
    blank = any(c.isspace() for c in text)
    alone = not blank and (suffixed or text.startswith(_PLACES))
    return path if alone or path.is_dir() or (suffixed and path.exists()) else None


def _item(value: Any, root: Path | None) -> Any:
    """Return a value as an item: a string that is a text file's name as its path, where there is a root."""
    if _missing(value):
        return ""
    if isinstance(value, Path):
        return root / value if root is not None else value.absolute()
    one_name = isinstance(value, str) and len(value) < 500 and not any(c.isspace() for c in value)
    if root is not None and one_name and Path(value).suffix.lower() in SUFFIXES:
        return root / value
    return value


def _missing(value: Any) -> bool:
    number = isinstance(value, (float, np.floating))
    return value is None or type(value).__name__ in ("NAType", "NaTType") or bool(number and value != value)


def _wordy(values: Sequence[str]) -> bool:
    """Return whether strings are texts: of several words and mostly distinct, or names of text files."""
    files = sum(Path(v[-200:]).suffix.lower() in SUFFIXES and not any(c.isspace() for c in v) for v in values)
    words = sum(len(v.split()) for v in values) / len(values)
    unspaced = sum(len(v) for v in values) / len(values) > 30 and words < SHORT  # Chinese, Japanese, Thai
    distinct = len(set(values)) >= DISTINCT * len(values)
    return files > 0.5 * len(values) or (distinct and (words >= SHORT or (unspaced and not _codes(values))))


def _codes(values: Sequence[str]) -> bool:
    """Return whether strings are ids, links or paths: plain signs without a space."""
    return sum(v.isascii() and not any(c.isspace() for c in v) for v in values) > 0.5 * len(values)
