"""Tf-idf of words and of characters, as features that are fitted on training rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.feature_selection import chi2, f_regression
from sklearn.preprocessing import normalize
from torch import Tensor, nn

from autotransfer.plugin import FittedState

KEPT = 4096
"""Terms kept, words and characters together: those that tell most of the targets on training rows."""
MOST_TERMS = 400_000
"""Terms of each kind that are counted at all, the most frequent ones."""
LONGEST = 20_000
"""Characters of a text that are looked at."""
Array = np.ndarray[Any, Any]


class TfIdf(nn.Module):
    """Words and pairs of them, and runs of 3 to 5 characters within words, weighted by tf-idf.

    Counts are damped (1 + log) and each kind is brought to unit norm in each row, so that long texts and the many
    characters do not drown the rest. Source of the selection: Yang and Pedersen 1997, "A comparative study on feature
    selection in text categorization" (chi squared; the F statistic for numbers).
    """

    idf: Tensor

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self.register_buffer("idf", torch.zeros(1))
        self.words: list[str] = []
        self.characters: list[str] = []

    def fit(self, rows: Iterable[Any], targets: Tensor) -> FittedState:
        """Return the chosen terms and their inverse document frequencies ``float32`` [terms]."""
        texts = [t[:LONGEST] for batch in rows for t in batch]
        kinds: list[tuple[list[str], Array, Array]] = []
        for make in (_word_counter, _character_counter):
            kinds.append(_scored(make(), texts, targets[: len(texts)].numpy()))
        scores = np.concatenate([s for _, _, s in kinds])
        chosen = np.zeros(len(scores), dtype=bool)
        chosen[np.argsort(-scores, kind="stable")[:KEPT]] = scores[np.argsort(-scores, kind="stable")[:KEPT]] > 0
        named: list[list[str]] = []
        idf: list[Array] = []
        at = 0
        for terms, values, _ in kinds:
            here = np.flatnonzero(chosen[at : at + len(terms)])
            named.append([terms[i] for i in here])
            idf.append(values[here])
            at += len(terms)
        found = np.concatenate(idf) if sum(map(len, idf)) else np.zeros(0)
        return FittedState(
            tensors={"idf": torch.tensor(found, dtype=torch.float32)},
            values={"words": named[0], "characters": named[1]},
        )

    def restore(self, state: FittedState) -> None:
        """Take on terms and frequencies."""
        self.idf = state.tensors["idf"].clone()
        self.words, self.characters = list(state.values["words"]), list(state.values["characters"])

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Return ``float32`` [B, terms], at least one column wide."""
        cut = [t[:LONGEST] for t in texts]
        parts = []
        idf = self.idf.numpy()
        begin = 0
        for make, terms in ((_word_counter, self.words), (_character_counter, self.characters)):
            if terms:
                counts = make(vocabulary=terms).transform(cut)
                parts.append(_weighted(counts, idf[begin : begin + len(terms)]))
            begin += len(terms)
        if not parts:
            return torch.zeros(len(cut), 1)
        return torch.from_numpy(np.asarray(sparse.hstack(parts).todense(), dtype=np.float32))


def _word_counter(**given: Any) -> Any:
    return CountVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", dtype=np.float32, **given)  # noqa: S106


def _character_counter(**given: Any) -> Any:
    return CountVectorizer(analyzer="char_wb", ngram_range=(3, 5), dtype=np.float32, **given)


def _scored(counter: Any, texts: Sequence[str], targets: Array) -> tuple[list[str], Array, Array]:
    """Return the terms that stand in two texts or more, their inverse document frequencies, and what they tell."""
    try:
        counts = counter.fit_transform(texts)
    except ValueError:  # no text has a single term
        return [], np.zeros(0), np.zeros(0)
    terms = counter.get_feature_names_out()
    frequency = np.bincount(counts.indices, minlength=counts.shape[1])
    common = np.flatnonzero(frequency >= min(2, len(texts)))
    common = np.sort(common[np.argsort(-frequency[common], kind="stable")[:MOST_TERMS]])
    if not len(common):
        return [], np.zeros(0), np.zeros(0)
    idf = np.log((1 + len(texts)) / (1 + frequency[common])) + 1.0
    return [str(t) for t in terms[common]], idf, _told(_weighted(counts[:, common], idf), targets)


def _weighted(counts: Any, idf: Array) -> Any:
    counts = counts.astype(np.float64)
    counts.data = 1.0 + np.log(counts.data)
    return normalize(counts @ sparse.diags(idf), norm="l2")


def _told(values: Any, targets: Array) -> Array:
    """Return how much each term tells of the targets, 0 for nothing: of label sets, of the label that it tells most."""
    if targets.dtype.kind != "f":
        return np.asarray(np.nan_to_num(chi2(values, targets)[0]))
    columns = targets.T if targets.ndim == 2 else targets[None]
    binary = np.isin(columns, (0.0, 1.0)).all()
    varied = [c for c in columns if c.std() > 0]
    if not varied:
        return np.zeros(values.shape[1])
    found = [chi2(values, c > 0.5)[0] if binary else f_regression(values, c)[0] for c in varied]
    return np.asarray(np.nan_to_num(np.max(found, axis=0), posinf=0.0))
