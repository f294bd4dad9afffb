"""Static embeddings: one vector a token, and their mean over a text."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from autotransfer.plugin import WeightsError


class StaticVectors(nn.Module):
    """The mean of the vectors of a text's tokens. Row 0 of the table is that of padding, and stays zero.

    Source of the method: Mitchell and Lapata 2008, "Vector-based models of semantic composition" (the additive model).
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, width, padding_idx=0)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return ``float32`` [B, width] from ids and mask, ``int64`` [B, T]; zeros for a text of no known token."""
        seen = attention_mask.unsqueeze(2).to(self.embedding.weight.dtype)
        total: Tensor = (self.embedding(input_ids) * seen).sum(1)
        return total / seen.sum(1).clamp_min(1.0)


def build(weights: Path | None, *, words: int, width: int) -> nn.Module:
    """Return the network of a converted file of word vectors.

    Args:
        weights: the folder that the conversion wrote; None: random vectors.
        words: of its vocabulary.
        width: of a vector.

    Raises:
        WeightsError: the folder does not hold these vectors.
    """
    network = StaticVectors(words + 1, width)
    if weights is not None:
        file = Path(weights) / "vectors.safetensors"
        try:
            fill(network, load_file(file)["vectors"], file)
        except (OSError, SafetensorError, KeyError) as error:
            raise WeightsError(
                f"{file} cannot be read: {error}; remove its folder, and it is converted again"
            ) from error
    return network


def fill(network: StaticVectors, vectors: Tensor, file: Path) -> None:
    """Put vectors [words, width] under the row of padding.

    Raises:
        WeightsError: there are more or fewer, or they are wider or narrower.
    """
    table = network.embedding.weight
    if vectors.shape != (table.shape[0] - 1, table.shape[1]):
        wanted = [table.shape[0] - 1, table.shape[1]]
        raise WeightsError(f"{file} holds vectors {list(vectors.shape)}; wanted {wanted}")
    with torch.no_grad():
        table[1:] = vectors.float()
