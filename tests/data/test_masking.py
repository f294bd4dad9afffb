"""Texts augmented: how many tokens are hidden, never special ones, spans, texts without tokens or a tokenizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from autotransfer.data.masking import _spans, hidden
from autotransfer.data.modalities import modality
from autotransfer.data.rows import PreparedRows, augmentations
from autotransfer.data.tokens import Tokens, masked, padded
from autotransfer.spec import TextInput

SPEC = TextInput(tokenizer="toy:tokenizer", max_length=40)
TEXTS = [" ".join(f"w{i % 7}" for i in range(n)) for n in (1, 5, 12, 30, 0)]


class Wordy:
    """Ids from 10 on; 1 begins and 2 ends a row, 0 pads."""

    key, pad, max_length = "wordy", 0, 40

    def __call__(self, texts: Any) -> Any:
        rows = [[1, *(10 + int(w[1:]) for w in t.split()), 2] for t in texts]
        return rows, [len(r) for r in rows]


class Hiding(Wordy):
    mask, special = 5, frozenset({0, 1, 2})


class Source:
    def load(self, index: int) -> str:
        return TEXTS[index]


def _many(kind: str, mask: Any, count: int = 400) -> list[np.ndarray]:
    row = np.array([1, *range(10, 50), 2, 11, 12, 2])
    rng = np.random.default_rng(0)
    return [hidden(row, {1, 2}, mask, kind, rng) for _ in range(count)]


@pytest.mark.parametrize(("kind", "share"), [("light", 0.10), ("strong", 1 - 0.9 * (1 - 7 / 42))])
def test_so_many_tokens_are_hidden_and_special_ones_never(kind: str, share: float) -> None:
    row = np.array([1, *range(10, 50), 2, 11, 12, 2])
    for made in _many(kind, 5):
        assert made.shape == row.shape
        assert ((made == row) | (made == 5)).all()
        assert (made[[0, 41, 44]] == [1, 2, 2]).all()
    found = np.mean([(m == 5).sum() / 42 for m in _many(kind, 5)])
    assert found == pytest.approx(share, abs=0.015)


def test_where_there_is_no_mask_hidden_tokens_are_left_out_in_order() -> None:
    row = np.array([1, *range(10, 50), 2, 11, 12, 2])
    for made in _many("strong", None, 50):
        assert len(made) < len(row)
        kept = iter(row.tolist())
        assert all(token in kept for token in made.tolist())  # a subsequence
        assert (made == 2).sum() == 2
        assert made[0] == 1


def test_spans_hide_their_share_in_runs() -> None:
    rng = np.random.default_rng(0)
    drawn = [_spans(100, rng) for _ in range(300)]
    assert {int(d.sum()) for d in drawn} == {15}
    starts = np.mean([np.diff(d.astype(int), prepend=0).clip(0).sum() for d in drawn])
    assert 2.5 < 15 / starts < 6  # tokens a span; one by one it would be 1.2


@pytest.mark.parametrize("kind", ["light", "strong"])
@pytest.mark.parametrize("mask", [5, None])
def test_something_of_every_text_is_left(kind: str, mask: Any) -> None:
    rng = np.random.default_rng(1)
    for count in range(5):
        row = np.array([1, *range(10, 10 + count), 2])
        for _ in range(100):
            made = hidden(row, {1, 2}, mask, kind, rng)
            assert (made >= 10).sum() >= min(1, count)
            assert {1, 2} <= set(made.tolist())


@pytest.mark.parametrize("tokenizer", [Wordy(), Hiding()])
def test_a_batch_keeps_its_contract(tokenizer: Any) -> None:
    whole = padded([np.array(r, dtype=np.int32) for r in tokenizer(TEXTS)[0]], 0)
    made = masked(whole, tokenizer, "strong", np.random.default_rng(0))
    lengths = made["attention_mask"].sum(1)
    assert made["input_ids"].shape == made["attention_mask"].shape
    for ids, n in zip(made["input_ids"], lengths.tolist(), strict=True):
        assert ids[0] == 1
        assert ids[n - 1] == 2
        assert (ids[n:] == 0).all()
    same = torch.equal(lengths, whole["attention_mask"].sum(1))
    assert same is (tokenizer.__class__ is Hiding)
    assert not torch.equal(made["input_ids"][:, :10], whole["input_ids"][:, :10])


@pytest.mark.parametrize("kept", [False, True])
def test_rows_are_augmented_the_same_for_the_same_numbers_kept_or_not(kept: bool) -> None:
    source: Any = Source()
    rows = PreparedRows(source, range(5), SPEC, torch.zeros(5), Tokens(source) if kept else None, Hiding())

    def drawn(seed: int) -> Any:
        return rows.batch([3, 2, 1], "light", np.random.default_rng(seed))["input_ids"]

    assert torch.equal(drawn(0), drawn(0))
    assert any(not torch.equal(drawn(0), drawn(s)) for s in range(1, 4))
    plain = rows.batch([3, 2, 1], "none", np.random.default_rng(0))["input_ids"]
    assert torch.equal(plain, rows.batch([3, 2, 1])["input_ids"])
    assert ((drawn(0) == plain) | (drawn(0) == 5)).all()


def test_texts_for_a_network_without_a_tokenizer_lose_words() -> None:
    source: Any = Source()
    rows = PreparedRows(source, range(5), TextInput(), torch.zeros(5), Tokens(source))
    made = rows.batch([3, 0, 4], "strong", np.random.default_rng(0))
    assert isinstance(made, list)
    assert 0 < len(made[0].split()) < 30
    assert made[1:] == ["w0", ""]


def test_unknown_kinds_and_missing_numbers_are_refused() -> None:
    source: Any = Source()
    rows = PreparedRows(source, range(5), SPEC, torch.zeros(5), None, Hiding())
    with pytest.raises(ValueError, match="wanted 'none', or with rng one of: light, strong"):
        rows.batch([0], "heavy", np.random.default_rng(0))
    with pytest.raises(ValueError, match="augment is 'light'"):
        rows.batch([0], "light")


def test_every_modality_names_known_kinds() -> None:
    from autotransfer.schema import AUGMENTATIONS

    for name in ("image", "text", "audio"):
        assert set(modality(name).augmentations) < set(AUGMENTATIONS)
    assert augmentations(SPEC)[0] == "light"
