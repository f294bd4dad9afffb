"""Parquet whose cells hold whole files: the rows are those of a table in memory, and stay on disk."""

from __future__ import annotations

import errno
import io
import pickle
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image

from autotransfer import engine
from autotransfer.config import Settings
from autotransfer.data import prepare
from autotransfer.data.items import as_items
from autotransfer.data.moved import carried, files, moved, packed, place
from autotransfer.data.readers import parquet, read
from autotransfer.data.readers.parquet import Cells, cells_in
from autotransfer.errors import DataError
from autotransfer.search.nodes import looked_at, unseen
from autotransfer.spec import ImageInput


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every column of files counts as large."""
    monkeypatch.setattr(parquet, "LARGE", 0)


@pytest.fixture(scope="module")
def bodies(stripes: Any) -> list[bytes]:
    """The stripes as PNG files."""
    found = []
    for image in stripes[0]:
        held = io.BytesIO()
        Image.fromarray(image).save(held, "png")
        found.append(held.getvalue())
    return found


@pytest.fixture(params=["bytes", "struct"])
def table(request: pytest.FixtureRequest, tmp_path: Path, bodies: list[bytes], stripes: Any) -> Path:
    """A table of the stripes in one row group, a row without a picture in it."""
    named = [{"bytes": b, "path": f"{n}.png"} for n, b in enumerate(bodies)]
    cells: list[Any] = bodies if request.param == "bytes" else named
    frame = pd.DataFrame({"image": [*cells[:7], None, *cells[7:]], "label": [*stripes[1][:7], "row", *stripes[1][7:]]})
    frame["weight"] = np.arange(len(frame)) % 5
    frame.to_parquet(tmp_path / "pets.parquet")
    return tmp_path / "pets.parquet"


def test_rows_are_those_of_a_table_in_memory(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = prepare(table, target="label")
    monkeypatch.setattr(parquet, "LARGE", 0)
    kept = prepare(table, target="label")
    assert not list(cells_in(held.dataset.items))  # type: ignore[attr-defined]
    assert len(list(cells_in(kept.dataset.items))) == 1  # type: ignore[attr-defined]
    assert kept.profile.fingerprint == held.profile.fingerprint
    assert kept.profile.counts == held.profile.counts
    assert [i.text for i in kept.profile.issues if i.what == "note"] == [
        i.text for i in held.profile.issues if i.what == "note"
    ]
    assert sum(i.count for i in kept.profile.issues if i.what == "unreadable") == 1
    assert kept.dataset.row_name(3) == "row 3"
    for row in (0, 8, 150):
        assert np.array_equal(kept.dataset.load(row), held.dataset.load(row))


@pytest.mark.usefixtures("large")
def test_another_process_reads_the_same_copy_and_makes_its_own_where_there_is_none(table: Path) -> None:
    dataset = prepare(table, target="label").dataset
    (cells,) = cells_in(dataset.items)  # type: ignore[attr-defined]
    there: Cells = pickle.loads(pickle.dumps(cells))
    assert there[3] == cells[3]
    assert there.folder == cells.folder
    shutil.rmtree(cells.folder)
    assert cells[5]  # what is open stays readable
    other: Cells = pickle.loads(pickle.dumps(cells))
    assert other[5] == cells[5]
    assert other[7] is None
    assert other.folder != cells.folder
    assert Path(other.folder).is_dir()
    folder = other.folder
    del other, there
    assert not Path(folder).exists()  # it goes with the rows
    with pytest.raises(IndexError):
        cells[151]


@pytest.mark.usefixtures("large")
def test_a_table_by_url_is_read_in_place(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = fsspec.filesystem("memory")
    store.put(str(table), "/bucket/pets.parquet")
    monkeypatch.setattr(type(store), "get_file", None)  # no copy of the file is asked for
    far, near = prepare("memory://bucket/pets.parquet", target="label"), prepare(table, target="label")
    assert far.profile.fingerprint == near.profile.fingerprint
    assert far.dataset.row_name(3) == "row 3"
    again = pickle.loads(pickle.dumps(far.dataset))
    assert np.array_equal(again.load(3), near.dataset.load(3))
    store.rm("/bucket", recursive=True)


@pytest.mark.usefixtures("large")
def test_tables_travel_to_a_machine_that_does_not_see_them(table: Path, tmp_path: Path) -> None:
    frame, held = pd.read_parquet(table), tmp_path / "held.parquet"
    frame[:100].to_parquet(table)
    frame[100:].to_parquet(held)
    prepared = prepare(table, target="label", validation=held)
    images = [prepared.dataset.load(row) for row in (3, 120)]
    assert list(files(prepared)) == [table, held]
    asked = looked_at(prepared)
    assert asked == [(str(p), p.stat().st_size) for p in (table, held)]
    (body, inside), *_ = packed([table, held], 10**6)
    for path in (table, held):
        there = place(path, tmp_path / "more")
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, there)
    assert "does not see 2 of 2 files" in unseen(asked)[0]
    places = {path: (0, *span) for path, span in inside.items()}
    sent = [moved(prepared, tmp_path / "more").dataset, carried(prepared, places, lambda _: body).dataset]
    for dataset in sent:
        assert [np.array_equal(dataset.load(r), i) for r, i in zip((3, 120), images, strict=True)] == [True, True]
        assert dataset.row_name(120) == prepared.dataset.row_name(120) == "validation row 20"


@pytest.mark.usefixtures("large")
def test_no_room_for_the_copy_is_one_error(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(parquet, "scratch", full)
    with pytest.raises(DataError, match=r"column 'image' are copied to .* No space left on device; let TMPDIR"):
        prepare(table, target="label")


@pytest.mark.usefixtures("large")
def test_damaged_pages_are_one_error(tmp_path: Path, bodies: list[bytes]) -> None:
    path = tmp_path / "damaged.parquet"
    pd.DataFrame({"image": bodies, "label": ["a", "b"] * 75}).to_parquet(path, compression=None)
    body = bytearray(path.read_bytes())
    body[4:60] = b"\xff" * 56
    path.write_bytes(bytes(body))
    with pytest.raises(DataError, match="the column 'image' of the Parquet table cannot be read: "):
        prepare(path, target="label")


@pytest.mark.usefixtures("large")
def test_a_fit_and_its_predictions(table: Path, toynet: str, bodies: list[bytes]) -> None:
    fit = {"target": "label", "plugins": [toynet], "backbones": "toynet/small", "trials": 2, "executor": "serial"}
    model = engine.fit(Settings(data=table, **fit))
    pd.DataFrame({"image": bodies}).to_parquet(table)
    whole = model.predict(table)
    assert len(whole) == 150
    assert [model.predict(b) for b in bodies[:9]] == list(whole[:9])


@pytest.mark.usefixtures("large")
def test_clips_in_cells_are_told_from_images(tmp_path: Path) -> None:
    held = io.BytesIO()
    soundfile.write(held, np.random.default_rng(0).normal(0, 0.1, 800), 8000, format="wav")
    named = {"bytes": held.getvalue(), "path": "sound.wav"}
    cells = [{"bytes": held.getvalue(), "path": None}, held.getvalue(), named]
    for number, cell in enumerate(cells):
        path = tmp_path / f"{number}.parquet"
        pd.DataFrame({"sound": [cell] * 4, "label": list("abab")}).to_parquet(path)
        dataset = read(path)
        assert (dataset.modality, len(dataset.load(2).samples)) == ("audio", 800)


@pytest.mark.usefixtures("large")
def test_a_table_of_nothing_else_can_be_predicted(tmp_path: Path, bodies: list[bytes]) -> None:
    path = tmp_path / "new.parquet"
    pd.DataFrame({"image": bodies[:9]}).to_parquet(path)
    items = as_items(path, "image", ImageInput(size=16))
    assert len(items) == 9
    assert [len(numbers) for numbers, _ in items.batches(4)] == [4, 4, 1]
