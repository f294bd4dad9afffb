"""Pixels kept in a store give what decoding gives, whatever happens to the store or the rows."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autotransfer.data import blocks as module
from autotransfer.data.image import as_image, normalised, prepare_image, window
from autotransfer.data.prepare import Prepared, prepare
from autotransfer.errors import DataError
from autotransfer.spec import ImageInput
from autotransfer.store import Store

SPEC = ImageInput(size=12, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1))
ROWS = 40
PLENTY = 10_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(ROWS):
        place = tmp_path / "rows" / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        mode, shape = ("L", (20, 15)) if i % 3 == 0 else ("RGB", (14, 30, 3))
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).convert(mode).save(place / f"{i}.png")
    return tmp_path / "rows"


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 8)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Row numbers that were decoded."""
    from autotransfer.data.dataset import ItemDataset

    load, seen = ItemDataset.load, list[int]()

    def counted(self: ItemDataset, index: int) -> Any:
        seen.append(index)
        return load(self, index)

    monkeypatch.setattr(ItemDataset, "load", counted)
    return seen


def kept(folder: Path, store: Path, most: int = PLENTY) -> Prepared:
    data = prepare(str(folder), seed=0)
    data.keep(Store(store, most))
    return data


def plain(folder: Path, spec: ImageInput = SPEC) -> torch.Tensor:
    data = prepare(str(folder), seed=0)
    return torch.stack([prepare_image(as_image(data.dataset.load(int(i))), spec) for i in data.train])


def everything(data: Prepared, spec: ImageInput = SPEC) -> torch.Tensor:
    rows = data.rows(data.train, spec)
    return rows.batch(range(len(rows)))


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        ImageInput(size=9, channels=1, mean=(0.5,), std=(0.25,), interpolation="bilinear", crop=1.0),
        ImageInput(size=32, interpolation="nearest", crop=0.5),
    ],
)
def test_pixels_from_the_store_are_those_of_decoding_to_the_bit(folder: Path, tmp_path: Path, spec: ImageInput) -> None:
    data, want = kept(folder, tmp_path / "store"), plain(folder, spec)
    for _ in range(2):
        assert torch.equal(everything(data, spec), want)
    order = [5, 0, 5, len(data.train) - 1]
    assert torch.equal(data.rows(data.train, spec).batch(order), want[order])
    assert data.kept is not None
    assert not data.kept.off


def test_rows_are_decoded_once_for_all_backbones_and_processes(
    folder: Path, tmp_path: Path, decoded: list[int]
) -> None:
    data = kept(folder, tmp_path / "store")
    everything(data)
    assert sorted(decoded) == sorted(data.train.tolist())
    decoded.clear()
    other = ImageInput(size=12, mean=(0.0,) * 3, std=(1.0,) * 3)  # the same window, other numbers
    again = kept(folder, tmp_path / "store")
    decoded.clear()
    everything(again)
    everything(again, other)
    assert decoded == []
    everything(again, ImageInput(size=12, crop=1.0))
    assert len(decoded) == len(data.train)


def test_a_few_rows_decode_one_block_and_the_whole_order_finds_it(
    folder: Path, tmp_path: Path, decoded: list[int]
) -> None:
    data = kept(folder, tmp_path / "store")
    decoded.clear()
    data.rows(data.train[:3], SPEC).batch([0, 1])
    assert decoded == data.train[:8].tolist()
    both = np.concatenate([data.validation, data.train])
    data.rows(both, SPEC).batch(range(len(both)))
    assert sorted(decoded) == sorted(both.tolist())


def test_augmented_rows_come_from_their_source(folder: Path, tmp_path: Path) -> None:
    data = kept(folder, tmp_path / "store")
    bare = prepare(str(folder), seed=0)
    one, two = (d.rows(d.train, SPEC).batch([0, 1, 2], "light", np.random.default_rng(4)) for d in (data, bare))
    assert torch.equal(one, two)
    assert not (tmp_path / "store").exists()


def test_a_transform_too_large_for_the_store_is_not_begun(folder: Path, tmp_path: Path) -> None:
    data = kept(folder, tmp_path / "store", most=ROWS * 12 * 12 * 3)
    assert torch.equal(everything(data), plain(folder))
    assert not (tmp_path / "store").exists()


def test_without_leave_to_write_rows_are_decoded(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")
    data = kept(folder, tmp_path / "store")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(everything(data), plain(folder))
        everything(data)
    assert data.kept is not None
    assert "cannot" in data.kept.off
    assert caplog.text.count("decoded again") == 1


def test_a_store_that_evicts_what_is_in_use_is_given_up(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OPEN", 1)
    data = kept(folder, tmp_path / "store")
    assert data.kept is not None
    data.kept._fits = lambda spec: True  # type: ignore[method-assign] # others fill the store meanwhile
    data.kept.store.most_bytes = 3 * 8 * 12 * 12 * 3
    want = plain(folder)
    for _ in range(3):
        assert torch.equal(everything(data), want)
    assert "evicts" in data.kept.off


@pytest.mark.parametrize("harm", ["truncate", "flip", "remove"])
def test_a_damaged_block_is_decoded_again(folder: Path, tmp_path: Path, harm: str) -> None:
    want = everything(kept(folder, tmp_path / "store"))
    for file in (tmp_path / "store").glob("*/arrays.bin"):
        body = bytearray(file.read_bytes())
        body[len(body) // 2] ^= 4
        if harm == "remove":
            file.unlink()
        else:
            file.write_bytes(bytes(body) if harm == "flip" else bytes(body[:50]))
    assert torch.equal(everything(kept(folder, tmp_path / "store")), want)


def _altered(path: Path) -> None:
    Image.new("RGB", (10, 10), (1, 2, 3)).save(path)


@pytest.mark.parametrize("harm", [_altered, Path.unlink])
def test_a_row_that_changes_during_a_run_is_never_kept(
    folder: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    data = kept(folder, tmp_path / "store")
    victim = data.dataset.items[int(data.train[2])]  # type: ignore[attr-defined]
    harm(victim)
    rows = data.rows(data.train, SPEC)
    assert len(rows.batch([0, 1])) == 2  # its neighbours in the block are read all the same
    assert not list((tmp_path / "store").glob("*/arrays.bin"))
    if harm is Path.unlink:
        with pytest.raises(DataError, match=victim.name):
            rows.batch([2])


def test_changed_rows_of_a_later_run_are_decoded_again(folder: Path, tmp_path: Path) -> None:
    data = kept(folder, tmp_path / "store")
    everything(data)
    _altered(data.dataset.items[int(data.train[2])])  # type: ignore[attr-defined]
    assert torch.equal(everything(kept(folder, tmp_path / "store")), plain(folder))


def test_what_is_open_stays_in_its_process(folder: Path, tmp_path: Path) -> None:
    data = kept(folder, tmp_path / "store")
    everything(data)
    other = pickle.loads(pickle.dumps(data))
    assert other.kept is None
    assert (other.contents == data.contents).all()
    assert torch.equal(everything(other), everything(data))


def test_normalising_a_batch_is_normalising_each_image() -> None:
    image = Image.fromarray(np.arange(30 * 20 * 3, dtype=np.uint8).reshape(30, 20, 3))
    batch = normalised(np.stack([window(image, SPEC)] * 3), SPEC)
    assert batch.shape == (3, 3, 12, 12)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    by_hand = (np.asarray(window(image, SPEC), np.float32) / 255 - np.float32(SPEC.mean)) / np.float32(SPEC.std)
    assert np.array_equal(batch[1].numpy(), by_hand.transpose(2, 0, 1))
    assert torch.equal(prepare_image(image, SPEC), batch[0])


def test_a_view_of_a_row_is_always_the_same_and_no_other(folder: Path, tmp_path: Path) -> None:
    data, bare = kept(folder, tmp_path / "store"), prepare(str(folder), seed=0)
    rows, other = data.rows(data.train, SPEC), bare.rows(bare.train[::-1].copy(), SPEC)
    last = len(rows) - 1
    seen = [rows.view(number).batch([0, 5]) for number in range(rows.views)]
    assert torch.equal(seen[0], rows.batch([0, 5]))
    assert torch.equal(seen[1], rows.batch([0, 5]).flip(3))
    assert len({float(s.sum()) for s in (seen[0], *seen[2:])}) == rows.views - 1
    for number, view in enumerate(seen):  # other rows beside it, another order, no store: all the same
        assert torch.equal(view, rows.view(number).batch([0, 5], rng=np.random.default_rng(number)))
        assert torch.equal(view[1:], other.view(number).batch([last - 5]))
    assert not torch.equal(seen[2][0], seen[2][1])


def test_rows_may_have_a_view_each(folder: Path) -> None:
    data = prepare(str(folder), seed=0)
    rows = data.rows(data.train, SPEC)
    numbers = np.arange(len(rows)) % rows.views
    mixed = rows.view(numbers).batch([3, 1, 4])
    assert all(torch.equal(mixed[k], rows.view(n).batch([i])[0]) for k, (i, n) in enumerate([(3, 3), (1, 1), (4, 0)]))


def test_what_is_no_image_has_one_view() -> None:
    from autotransfer.data.rows import PreparedRows, augmentations
    from autotransfer.spec import TextInput

    rows = PreparedRows(None, [0, 1], TextInput(), torch.zeros(2))  # type: ignore[arg-type]
    assert rows.views == 1
    assert "views" not in augmentations(TextInput())
