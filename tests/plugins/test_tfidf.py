"""Tf-idf as a baseline for texts: what it keeps, for every kind of task, and from a saved state."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from autotransfer.plugin import FittedState
from autotransfer_baselines import tfidf as module
from autotransfer_baselines.build import logistic_head
from autotransfer_baselines.tfidf import TfIdf

RNG = np.random.default_rng(0)
FILLER = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def texts(count: int = 120) -> list[str]:
    rows = []
    for i in range(count):
        words = [*RNG.choice(FILLER, 6), ("splendid", "dreadful")[i % 2]]
        rows.append(" ".join(RNG.permutation(words)))
    return rows


def fitted(rows: list[str], targets: Any) -> tuple[TfIdf, FittedState]:
    made = TfIdf()
    state = made.fit([rows[:50], rows[50:]], torch.as_tensor(targets))
    made.restore(state)
    return made, state


def test_what_tells_the_classes_is_kept_and_a_linear_head_finds_it() -> None:
    rows, labels = texts(), np.arange(120) % 2
    made, state = fitted(rows, labels)
    assert {"splendid", "dreadful"} <= set(state.values["words"])
    features = made(rows)
    assert features.shape == (120, len(state.tensors["idf"]))
    head = logistic_head(features[:80], torch.from_numpy(labels[:80]))
    found = (features[80:] @ head.weight.T + head.bias).argmax(1).numpy()
    assert (found == labels[80:]).all()


def test_the_state_is_tensors_and_json_and_gives_the_same_again() -> None:
    rows = texts()
    made, state = fitted(rows, np.arange(120) % 2)
    values = json.loads(json.dumps(dict(state.values)))
    again = TfIdf()
    again.restore(FittedState(tensors=state.tensors, values=values))
    odd = ["", "\U0001f600", "unheard of", rows[0], "splendid " * 40_000]
    assert torch.equal(again(odd), made(odd))
    assert not made(odd)[0].any()
    alone = torch.cat([made([t]) for t in odd])
    torch.testing.assert_close(alone, made(odd))


def test_no_more_terms_than_allowed_and_the_best_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 6)
    made, state = fitted(texts(), np.arange(120) % 2)
    kept = [*state.values["words"], *state.values["characters"]]
    assert len(kept) == 6
    assert all(k.strip() in "splendid dreadful" for k in kept)
    assert made(["splendid"]).shape == (1, 6)


def test_numbers_and_label_sets() -> None:
    rows = texts()
    scale = torch.tensor([[3.0 if "splendid" in r else -1.0] for r in rows]) + 0.01 * torch.randn(120, 1)
    made, _ = fitted(rows, scale)
    head = logistic_head(made(rows[:80]), scale[:80])
    found = made(rows[80:]) @ head.weight.T + head.bias
    assert float((found - scale[80:]).abs().mean()) < 0.3
    sets = torch.tensor([[float("splendid" in r), float("one" in r.split()), 0.0] for r in rows])
    made, _ = fitted(rows, sets)
    head = logistic_head(made(rows[:80]), sets[:80])
    found = (made(rows[80:]) @ head.weight.T + head.bias) > 0
    assert float((found == (sets[80:] > 0.5)).float().mean()) > 0.95


@pytest.mark.parametrize("rows", [["", " ", ""], ["a", "b", "c"], ["\U0001f600"] * 3])
def test_texts_that_tell_nothing_give_one_constant_feature(rows: list[str]) -> None:
    made, _ = fitted(rows, np.array([0, 1, 0]))
    assert made(rows).isfinite().all()
    assert made(rows).shape[0] == 3
    head = logistic_head(made(rows), torch.tensor([0, 1, 0]))
    assert head.weight.isfinite().all()


def test_sparse_features_are_fitted_like_dense_ones() -> None:
    """What is not centred finds the same head: its intercept takes the place of the mean."""
    thin = torch.zeros(200, 300)
    thin[torch.arange(200), torch.from_numpy(RNG.integers(0, 300, 200))] = 1.0
    thin[:, 0] = torch.arange(200) % 2
    head = logistic_head(thin, (torch.arange(200) % 2).long())
    found = (thin @ head.weight.T + head.bias).argmax(1)
    assert (found == torch.arange(200) % 2).all()
