"""Mistakes in data that are told and not guessed away."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from autotransfer.data import prepare, readers
from autotransfer.data.items import as_items
from autotransfer.errors import DataError
from autotransfer.spec import ImageInput, TextInput
from autotransfer.tasks import make_task

PICTURES = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 3), dtype=np.uint8)
TEXTS = [f"row {n}" for n in range(20)]


@pytest.mark.parametrize("source", ["", "  ", None])
def test_no_data_are_not_the_working_folder(source: Any) -> None:
    with pytest.raises(DataError, match="the data are"):
        readers.read(source)


@pytest.mark.parametrize("values", [(-1, 1), (0, 2), (0.0, 0.5)])
def test_a_matrix_that_is_not_of_0_and_1_is_refused(values: Any) -> None:
    matrix = np.array([values, values[::-1]] * 10)
    with pytest.raises(DataError, match=r"y is a matrix \[20, 2\] that holds .*; wanted 0 and 1"):
        readers.read((PICTURES, matrix))


def test_words_that_tables_read_as_missing_are_told(tmp_path: Path) -> None:
    table = pd.DataFrame({"text": TEXTS, "y": ["None", "dent", "scratch", ""] * 5})
    table.to_csv(tmp_path / "t.csv", index=False)
    told = " ".join(readers.read(tmp_path / "t.csv", target="y").notes)  # type: ignore[attr-defined]
    assert "the column 'y' holds 'None' in 5 rows, read as missing" in told
    pd.DataFrame({"text": TEXTS, "y": ["NA", "EU"] * 10}).to_csv(tmp_path / "u.csv", index=False)
    with pytest.raises(DataError, match=r"(?s)1 class.*'NA' in 10 rows"):
        prepare(tmp_path / "u.csv", target="y")


def test_pictures_of_phones_are_told_of(tmp_path: Path) -> None:
    for number, picture in enumerate(PICTURES):
        folder = tmp_path / "pets" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{number}.png")
        (folder / f"{number}.heic").write_bytes(b"ftypheic")
    told = " ".join(readers.read(tmp_path / "pets").notes)  # type: ignore[attr-defined]
    assert "were left aside: 20 .heic (convert them to .jpg or .png)" in told
    for file in (tmp_path / "pets").rglob("*.png"):
        file.unlink()
    with pytest.raises(DataError, match=r"it holds 20 \.heic \(convert"):
        readers.read(tmp_path / "pets")


@pytest.mark.parametrize("part", ["validation", "test"])
def test_an_error_in_held_out_rows_says_whose_it_is(part: str) -> None:
    frame = pd.DataFrame({"text": TEXTS, "label": ["a", "b"] * 10})
    with pytest.raises(DataError, match=f"^{part}: the table cannot be used"):
        prepare(frame, target="label", **{part: frame.drop(columns="label")})


def test_groups_of_one_number_are_no_groups() -> None:
    with pytest.raises(DataError, match="groups is 3; wanted the name of a column, or one value"):
        readers.read((PICTURES, ["a", "b"] * 10), groups=3)


def test_targets_beyond_float32_are_refused() -> None:
    with pytest.raises(DataError, match=r"the target reaches 3e\+200, beyond what float32 networks answer"):
        make_task("regression", [1e200, 2e200, 3e200])
    make_task("regression", [1e29, 2e29])


def test_a_path_that_is_not_there_is_no_text() -> None:
    with pytest.raises(DataError, match="'/no/such/folder' does not exist"):
        as_items("/no/such/folder", "text", TextInput())
    assert len(as_items("and/or", "text", TextInput())) == 1


@pytest.mark.parametrize("wrong", [np.array(5), io.BytesIO(b"picture")])
def test_what_is_no_picture_is_one_error(wrong: Any) -> None:
    with pytest.raises(DataError, match="cannot be predicted; wanted images"):
        as_items(wrong, "image", ImageInput(size=8))
