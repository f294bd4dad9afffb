"""Token ids of a dataset's texts, made once for each tokenizer and kept in memory; batches padded and masked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autotransfer.data.masking import hidden
from autotransfer.errors import DataError, PluginContractError

if TYPE_CHECKING:
    from torch import Tensor

    from autotransfer.protocols import Dataset, Tokenizer
    from autotransfer.spec import TextInput

BLOCK = 64
"""Rows that are tokenised together: a survey that reads its first rows pays for little more than those."""
LONGEST = 100_000
"""Characters; what stands beyond is cut before tokenising, as no backbone reads so far."""
Array = np.ndarray[Any, Any]


def tokenised(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[list[Array], list[int]]:
    """Return the token ids of each text ``int32`` [T], cut to the tokenizer's length, and the lengths before the cut.

    Raises:
        PluginContractError: the tokenizer gives something else than one list of ids a text.
    """
    found, lengths = tokenizer([t[:LONGEST] for t in texts])
    if len(found) != len(texts) or len(lengths) != len(texts):
        raise PluginContractError(f"a tokenizer gave {len(found)} rows for {len(texts)} texts; wanted one each")
    return [np.asarray(ids, dtype=np.int32) for ids in found], [int(n) for n in lengths]


def padded(rows: Sequence[Array], pad: int) -> dict[str, Tensor]:
    """Return rows of ids as ``input_ids`` and ``attention_mask``, ``int64`` [B, T], padded on the right.

    A text without any token is one padding token that is looked at: a mask of zeros would give no finite mean.
    """
    width = max(1, max((len(r) for r in rows), default=1))
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = row
        mask[at, : max(1, len(row))] = 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


def masked(inputs: dict[str, Tensor], tools: Tokenizer, kind: str, rng: np.random.Generator) -> dict[str, Tensor]:
    """Return a batch that :func:`padded` made with some of its tokens hidden, see :func:`hidden`.

    In their place stands the tokenizer's ``mask``; where it has none, they are left out and rows are padded anew.
    """
    special = getattr(tools, "special", None)
    if special is None:  # what a text without any word holds
        special = frozenset(tokenised(tools, [""])[0][0].tolist())
    lengths = inputs["attention_mask"].sum(1).tolist()
    rows = [ids[:n] for ids, n in zip(inputs["input_ids"].numpy(), lengths, strict=True)]
    return padded([hidden(r, {*special, tools.pad}, getattr(tools, "mask", None), kind, rng) for r in rows], tools.pad)


class Tokens:
    """Token ids of a dataset's rows, made by blocks when they are first asked for."""

    tight = True

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._rows: dict[str, dict[int, Array]] = {}
        self._full: dict[str, dict[int, int]] = {}

    def batch(self, rows: Array, spec: TextInput, tools: Tokenizer | None) -> Any:
        """Return ``input_ids`` and ``attention_mask`` of these rows; None where the network takes texts."""
        if tools is None or spec.tokenizer is None:
            return None
        held = self._made(rows, tools)
        return None if held is None else padded([held[r] for r in rows.tolist()], tools.pad)

    def lengths(self, rows: Array, spec: TextInput, tools: Tokenizer | None) -> Array | None:
        """Return tokens a row, ``int64`` [N], after the cut; rows not yet tokenised are made now."""
        held = self._made(rows, tools) if tools is not None and spec.tokenizer is not None else None
        return None if held is None else np.asarray([len(held[r]) for r in rows.tolist()], dtype=np.int64)

    def told(self, spec: TextInput, tools: Tokenizer | None) -> str:
        """Return how many tokens texts have, and what share of them is cut."""
        full = list(self._full.get(tools.key, {}).values()) if tools is not None else []
        if tools is None or not full:
            return ""
        cut = sum(n > tools.max_length for n in full) / len(full)
        lost = f"{cut:.1%} of {len(full):,} texts are longer than {tools.max_length} tokens and were cut"
        return f"tokens a text: median {np.median(full):.0f}, most {max(full)}; {lost if cut else 'none was cut'}"

    def _made(self, rows: Array, tokenizer: Tokenizer) -> dict[int, Array] | None:
        """Return ids by row number, with at least these rows; None where one of them cannot be read."""
        held = self._rows.setdefault(tokenizer.key, {})
        full = self._full.setdefault(tokenizer.key, {})
        wanted = [r for r in rows.tolist() if r not in held]
        try:
            for at in range(0, len(wanted), BLOCK):
                block = list(dict.fromkeys(wanted[at : at + BLOCK]))
                ids, lengths = tokenised(tokenizer, [self.dataset.load(r) for r in block])
                held.update(zip(block, ids, strict=True))
                full.update(zip(block, lengths, strict=True))
        except DataError:
            return None  # whoever decodes the row itself hears of it
        return held
