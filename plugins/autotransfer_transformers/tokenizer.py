"""The tokenizer of a text network, opened from its folder."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotransfer.plugin import WeightsError, mend_torchvision
from autotransfer_transformers.tokenizer_files import FILES

_IDS = (5, 95)
"""Ids of the kit's stand-in, which every vocabulary has."""


class FolderTokenizer:
    """Implements :class:`autotransfer.plugin.Tokenizer` over the tokenizer that transformers reads from a folder."""

    def __init__(self, folder: Path, max_length: int) -> None:
        mend_torchvision()
        from transformers import AutoTokenizer

        try:
            found: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # it raises whatever its parts raise
            text = " ".join(str(error).split())[:300]
            raise WeightsError(
                f"no tokenizer can be read from {folder}: {type(error).__name__}: {text}; a folder that "
                "tokenizer.save_pretrained wrote can be (old SentencePiece models need: pip install sentencepiece)"
            ) from error
        self._tokenizer = found
        self.max_length = max_length
        self.pad = int(next((i for i in (found.pad_token_id, found.eos_token_id) if i is not None), 0))
        self.special = frozenset(int(i) for i in found.all_special_ids)
        self.mask = self._mask()
        self.key = f"{_digest(folder)} {max_length}"

    def _mask(self) -> int | None:
        """Return the id that stands for a hidden token: that of the mask, else of what is unknown, where it has one."""
        found = self._tokenizer
        ends = (found.bos_token_id, found.eos_token_id, found.pad_token_id)  # GPT-2's unknown token ends a text
        known = (i for i in (found.mask_token_id, found.unk_token_id) if i is not None and i not in ends)
        return next(known, None)

    def __call__(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Return the ids of each text with special tokens, cut to ``max_length``, and the lengths before the cut."""
        whole: list[list[int]] = self._tokenizer(list(texts), verbose=False)["input_ids"]
        lengths = [len(ids) for ids in whole]
        long = [i for i, n in enumerate(lengths) if n > self.max_length]
        if long:
            cut = self._tokenizer([texts[i] for i in long], truncation=True, max_length=self.max_length, verbose=False)
            for i, ids in zip(long, cut["input_ids"], strict=True):
                whole[i] = ids
        return whole, lengths


class StandIn:
    """Ids of words without any vocabulary: for the kit, whose networks are random."""

    pad, mask, special = 0, 3, frozenset({0, 1, 2})

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self.key = f"stand-in {max_length}"

    def __call__(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Return made-up ids, the same for the same word."""
        rows = [[1, *(_IDS[0] + zlib.crc32(w.encode()) % (_IDS[1] - _IDS[0]) for w in t.split()), 2] for t in texts]
        return [r[: self.max_length] for r in rows], [len(r) for r in rows]


def tokenizer(folder: Path | None, *, max_length: int) -> FolderTokenizer | StandIn:
    """Return the tokenizer of a folder; None: the kit's stand-in.

    Raises:
        WeightsError: the folder holds none that can be read.
    """
    return StandIn(max_length) if folder is None else FolderTokenizer(folder, max_length)


def _digest(folder: Path) -> str:
    found = hashlib.sha256()
    for file in sorted({p for name in FILES for p in folder.glob(name)}):
        found.update(f"{file.name} ".encode() + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()[:24]
