"""Padded rows: pooled under their mask, taken with their like, stored without padding, whatever they stand beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autotransfer.store import Store
from autotransfer.train.activations import mixed_views, read_activations, write_activations
from autotransfer.train.cuts import check_cuts
from autotransfer.train.depths import DepthNetwork
from autotransfer.train.evaluate import features, predict
from autotransfer.train.heads import LinearHead, pool_activation, pool_output
from autotransfer.train.network import TransferNetwork
from autotransfer.train.prefixes import Prefixes
from autotransfer.train.ragged import ends_of, in_order, pack, unpack, windows
from autotransfer.train.stages import find_stages

WORDS, WIDTH, ROWS = 40, 8, 150


class Layer(nn.Module):
    """Mixes the tokens that the mask holds."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        seen = mask.unsqueeze(2).float()
        middle = (hidden * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True)
        return torch.tanh(self.linear(hidden + middle))


class Reader(nn.Module):
    """A stem, three layers, and tokens or their mean."""

    def __init__(self, output: str = "tokens") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.output = output

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.stem(input_ids)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask[:, : hidden.shape[1]])
        return hidden if self.output == "tokens" else pool_output(hidden, "tokens", attention_mask)


class Pairwise(Reader):
    """Hands a table over pairs of places from layer to layer, as T5 does."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Biased() for _ in range(2))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        held: Any = (self.stem(input_ids), None)
        for layer in self.layers:
            held = layer(*held, attention_mask)
        return held[0]


class Biased(Layer):
    def forward(self, hidden: Tensor, bias: Tensor | None, mask: Tensor) -> Any:  # type: ignore[override]
        bias = mask[:, None, :].float() * mask[:, :, None] if bias is None else bias
        return super().forward(hidden + 0.0 * bias.sum(2, keepdim=True), mask), bias


class Shared(Reader):
    """A table that every layer uses, though it stands behind the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(1, WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.stem(input_ids)
        for layer in self.layers:
            hidden = layer(hidden * self.table.weight, attention_mask)
        return hidden


class Rows:
    """Rows of 1 to 12 tokens."""

    def __init__(self, count: int = ROWS) -> None:
        rng = np.random.default_rng(0)
        self.sizes = rng.integers(1, 13, count)
        self.rows = [rng.integers(1, WORDS, n) for n in self.sizes]
        self.targets = torch.tensor(rng.integers(0, 2, count))
        self.widths: list[int] = []
        self.views = 1

    def __len__(self) -> int:
        return len(self.rows)

    def lengths(self, indices: Any = None) -> Any:
        return self.sizes if indices is None else self.sizes[np.asarray(indices)]

    def view(self, numbers: Any) -> Any:
        return self

    def batch(self, indices: Any, augment: str = "none", rng: Any = None) -> Any:
        chosen = [self.rows[i] for i in indices]
        width = max(map(len, chosen))
        self.widths.append(width)
        ids = torch.zeros(len(chosen), width, dtype=torch.long)
        mask = torch.zeros(len(chosen), width, dtype=torch.long)
        for at, row in enumerate(chosen):
            ids[at, : len(row)], mask[at, : len(row)] = torch.from_numpy(row), 1
        return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture
def _reading_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """These networks are too small for stored activations to pay."""
    monkeypatch.setattr("autotransfer.train.prefixes.READ", 0.0)


@pytest.mark.parametrize("output", ["tokens", "vector"])
def test_a_row_has_the_same_features_at_every_depth_alone_and_among_others(output: str) -> None:
    rows, module = Rows(), Reader(output)
    stages = find_stages(module, rows.batch([0, 1]), declared=[f"layers.{i}" for i in range(3)], output=output)
    whole = [torch.cat(d) for d in zip(*features(module, stages, rows, output, 0, len(rows)), strict=True)]
    for i in (0, 17, 149):
        alone = next(iter(features(module, stages, rows, output, i, i + 1)))
        for depth, (one, all_) in enumerate(zip(alone, whole, strict=True)):
            torch.testing.assert_close(one[0], all_[i], rtol=1e-5, atol=1e-6, msg=f"depth {depth} of row {i}")


def test_rows_of_like_length_go_together_and_come_back_in_order() -> None:
    rows, module = Rows(), Reader("vector")
    network = TransferNetwork(module, LinearHead("vector", WIDTH, 2)).eval()
    nn.init.normal_(network.head.linear.weight)
    found = predict(network, rows)
    spent = sum(rows.widths) * 32
    for i in (0, 33, 149):
        torch.testing.assert_close(found[i], network(rows.batch([i]))[0], rtol=1e-5, atol=1e-6)
    assert spent < 0.85 * 12 * ROWS, "little is padded"
    batches = list(windows(rows, 10, 150, 32))
    assert sorted(n for w in batches for b in w for n in b) == list(range(10, 150))
    assert max(map(max, batches[0])) < 10 + 128, "a window is some batches, not all rows"


def test_depths_of_a_head_are_pooled_under_the_mask() -> None:
    rows, module = Rows(), Reader("vector")
    network = DepthNetwork(module, LinearHead("vector", 3 * WIDTH, 2), {"layers.0": WIDTH, "layers.1": WIDTH}).eval()
    nn.init.normal_(network.head.linear.weight)
    many = network(rows.batch(range(20)))
    torch.testing.assert_close(network(rows.batch([7]))[0], many[7], rtol=1e-5, atol=1e-6)


def test_a_masked_mean_by_hand() -> None:
    tokens = torch.tensor([[[1.0], [3.0], [50.0], [70.0]], [[5.0], [90.0], [90.0], [90.0]]])
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]])
    assert pool_output(tokens, "tokens", mask).flatten().tolist() == [2.0, 5.0]
    assert pool_activation((tokens, None), mask).flatten().tolist() == [2.0, 5.0]
    assert pool_output(tokens, "tokens").flatten().tolist() == [31.0, 68.75]
    frames = mask.repeat_interleave(10, 1)  # a waveform, of which every ten samples make a token
    assert pool_activation(tokens, frames).flatten().tolist() == [2.0, 5.0]
    half = pool_output(tokens.bfloat16(), "tokens", mask)
    assert half.dtype == torch.float32


def test_packing_and_unpacking() -> None:
    lengths = np.array([2, 0, 3])
    ends = ends_of(lengths)
    stored = np.zeros((int(ends[-1]), 2))
    values = np.arange(3 * 3 * 2).reshape(3, 3, 2) + 1.0
    pack(stored, ends, [0, 1, 2], values)
    again = unpack(stored, ends, np.array([2, 0]))
    assert np.array_equal(again[0], values[2])
    assert np.array_equal(again[1, :2], values[0, :2])
    assert not again[1, 2].any()
    assert unpack(stored, ends, np.array([], dtype=np.int64)).shape == (0, 1, 2)
    parts = in_order([[2, 0], [1]], [torch.tensor([2.0, 0.0]), torch.tensor([1.0])])
    assert parts.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("output", ["tokens", "vector"])
@pytest.mark.usefixtures("_reading_is_free")
def test_a_suffix_on_stored_rows_of_any_lengths_gives_what_the_whole_gives(tmp_path: Path, output: str) -> None:
    rows, module, store = Rows(), Reader(output), Store(tmp_path, 10_000_000)
    stages = find_stages(module, rows.batch([0, 1]), declared=[f"layers.{i}" for i in range(3)], output=output)
    assert [c.ok for c in check_cuts(module, stages, rows.batch([0, 1]))] == [True] * 3
    network = TransferNetwork(module, LinearHead(output, WIDTH, 2)).eval()
    nn.init.normal_(network.head.linear.weight)
    found = Prefixes(store, ("test",), {"train": rows}, half=False).find(module, stages, 2, epochs=1000)
    assert found is not None
    kept = sum(a.size for n, a in found.entries["train"][0].items() if n.startswith("a"))
    assert kept == int(rows.sizes.sum()) * WIDTH, "padding is not stored"
    torch.testing.assert_close(found.predict(network, "train"), predict(network, rows), rtol=1e-4, atol=1e-5)
    for chosen in ([3], [149, 2, 77]):
        with torch.no_grad(), found.suffix(module, "train", chosen) as run:
            raw, mask = run()
        whole = module(**rows.batch(chosen))
        torch.testing.assert_close(
            pool_output(raw, output, mask), pool_output(whole, output, mask), rtol=1e-4, atol=1e-5
        )


@pytest.mark.usefixtures("_reading_is_free")
def test_tables_over_pairs_of_places_are_refused_with_the_reason(tmp_path: Path) -> None:
    rows, module = Rows(), Pairwise()
    stages = find_stages(module, rows.batch([0, 1]), declared=["layers.0", "layers.1"], output="tokens")
    cuts = check_cuts(module, stages, rows.batch([0, 1]))
    assert not cuts[0].ok
    assert "a table over pairs of places" in cuts[0].reason
    prefixes = Prefixes(Store(tmp_path, 10_000_000), ("test",), {"train": rows})
    assert prefixes.find(module, stages, 1, epochs=1000) is None
    assert "trained without stored activations" in prefixes.notes[0]


def test_a_parameter_behind_the_cut_that_acts_before_it_is_seen() -> None:
    rows, module = Rows(), Shared()
    stages = find_stages(module, rows.batch([0, 1]), declared=[f"layers.{i}" for i in range(3)], output="tokens")
    reasons = [c.reason for c in check_cuts(module, stages, rows.batch([0, 1]))]
    assert all("act before the cut: table.weight" in r for r in reasons[:2])


def test_views_of_rows_of_different_length_are_refused(tmp_path: Path) -> None:
    rows, module, store = Rows(), Reader(), Store(tmp_path, 10_000_000)
    stages = find_stages(module, rows.batch([0, 1]), declared=["layers.0", "layers.1"], output="tokens")
    (cut,) = check_cuts(module, stages, rows.batch([0, 1]), places=(1,))
    write_activations(store, "k", module, stages, cut, rows)
    entry = store.get("k")
    assert entry is not None
    assert read_activations(entry, [0, 1]).shape == (2, int(rows.sizes[:2].max()), WIDTH)
    with pytest.raises(IndexError, match="there are 150"):
        read_activations(entry, [150])
    with pytest.raises(ValueError, match="one view"):
        mixed_views([entry, entry], [0], np.array([1]))
