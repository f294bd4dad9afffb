"""Text networks of the packs: MiniLM, and static token vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from autotransfer.plugin import WeightsError
from autotransfer_transformers import text_build, tokenizer
from autotransfer_vectors.build import StaticVectors

WORDLLAMA_TOKENIZER = "l2_supercat_tokenizer_config.json"
_ROWS, _WIDTH = 32_000, 256


def minilm(weights: Path | None) -> nn.Module:
    """Return MiniLM-L6: token ids and mask [N, T] -> ``float32`` [N, 384], the mean under the mask.

    Raises:
        WeightsError: the folder does not hold it.
    """
    return text_build.build(weights, config="all-MiniLM-L6-v2", pooling="mean")


def minilm_tokenizer(folder: Path | None, *, max_length: int) -> Any:
    """Return MiniLM's tokenizer; None: the kit's stand-in."""
    return tokenizer.tokenizer(folder, max_length=max_length)


def wordllama(weights: Path | None) -> nn.Module:
    """Return the mean of token vectors: token ids and mask [N, T] -> ``float32`` [N, 256].

    Raises:
        WeightsError: the file does not hold the table.
    """
    network = StaticVectors(_ROWS, _WIDTH)
    network.embedding.padding_idx = None  # the first token of its vocabulary is a token like others
    if weights is not None:
        try:
            network.load_state_dict(load_file(weights))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise WeightsError(f"{weights} does not hold the vectors: {' '.join(str(error).split())[:200]}") from error
    return network.float()


class Pieces:
    """Implements :class:`autotransfer.plugin.Tokenizer`: pieces of words without special tokens."""

    pad = 0

    def __init__(self, file: Path, max_length: int) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain exceptions
            raise WeightsError(f"{file} is no tokenizer: {error}") from error
        self.max_length = max_length
        self.key = f"wordllama {max_length}"

    def __call__(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Return the ids of each text, cut to ``max_length``, and the lengths before the cut."""
        rows = [e.ids for e in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]
        return [r[: self.max_length] for r in rows], [len(r) for r in rows]


def wordllama_tokenizer(folder: Path | None, *, max_length: int) -> Any:
    """Return the tokenizer of the token vectors; None: the kit's stand-in."""
    if folder is None:
        return tokenizer.tokenizer(None, max_length=max_length)
    return Pieces(folder / WORDLLAMA_TOKENIZER, max_length)
