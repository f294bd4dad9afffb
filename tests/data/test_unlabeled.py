"""Rows without labels: any source, checked and named like labelled ones, of the same modality, part of a run's name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from PIL import Image

from autotransfer.config import Settings, identity
from autotransfer.data import Prepared, prepare
from autotransfer.errors import DataError
from autotransfer.gap import rows_hash
from autotransfer.spec import ImageInput

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 255, (40, 16, 16, 3)).astype(np.uint8)
LABELS = np.array(list("ab" * 20))
OTHERS = RNG.integers(0, 255, (9, 16, 16, 3)).astype(np.uint8)
TEXTS = [f"a film with {i} good parts" for i in range(40)]


def issues(prepared: Prepared) -> dict[str, Any]:
    return {i.what: i for i in prepared.profile.issues}


def files(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(OTHERS[number % len(OTHERS)]).save(path)
    return folder


class Pairs:
    """A torch Dataset of pairs."""

    def __len__(self) -> int:
        return len(OTHERS)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if index >= len(OTHERS):
            raise IndexError(index)
        return OTHERS[index], 1


@pytest.mark.parametrize(
    "source",
    [
        OTHERS,
        list(OTHERS),
        (OTHERS, ["x"] * 9),
        torch.from_numpy(OTHERS).permute(0, 3, 1, 2),
        [Image.fromarray(o) for o in OTHERS],
        Pairs(),
    ],
    ids=["array", "list", "pair", "tensor", "pil", "dataset"],
)
def test_rows_in_memory(source: Any) -> None:
    prepared = prepare((IMAGES, LABELS), unlabeled=source)
    assert prepared.profile.unlabeled is not None
    assert prepared.profile.unlabeled.rows == 9
    assert prepared.profile.unlabeled.gap is None
    assert "not looked at" in issues(prepared)["unlabeled"].text
    assert prepared.profile.rows == 40


def test_an_item_of_two_is_no_pair_of_rows_and_labels() -> None:
    prepared = prepare((IMAGES, LABELS), unlabeled=(OTHERS[0], OTHERS[1]))
    assert prepared.profile.unlabeled is not None
    assert prepared.profile.unlabeled.rows == 2


def test_folders_and_tables_with_and_without_labels(tmp_path: Path) -> None:
    flat = files(tmp_path / "flat", "1.png", "2.png", "3.png")
    classes = files(tmp_path / "classes", "cat/1.png", "dog/2.png", "train/cat/3.png")
    table = pd.DataFrame({"file": ["flat/1.png", "flat/2.png"], "label": ["x", "y"], "split": ["train", "test"]})
    table.to_csv(tmp_path / "with.csv", index=False)
    table[["file"]].to_csv(tmp_path / "without.csv", index=False)
    wanted = {flat: 3, classes: 3, tmp_path / "with.csv": 2, tmp_path / "without.csv": 2}
    for source, rows in wanted.items():
        found = prepare((IMAGES, LABELS), unlabeled=str(source)).profile.unlabeled
        assert found is not None
        assert (found.rows, found.name) == (rows, str(source))


def test_a_table_of_texts_keeps_its_columns() -> None:
    labelled = pd.DataFrame({"review": TEXTS, "stars": LABELS})
    others = pd.DataFrame(
        {"review": ["quite a nice place", "not so nice"], "stars": ["c", "d"], "note": ["some", "other"]}
    )
    prepared = prepare(labelled, target="stars", unlabeled=others)
    assert prepared.unlabeled is not None
    held = prepared.unlabeled.dataset
    assert sorted(held.load(i) for i in range(2)) == ["not so nice", "quite a nice place"]
    both = labelled.assign(title=[f"the {i}th of all these films" for i in range(40)])[["title", "review", "stars"]]
    with pytest.raises(DataError, match="unlabeled: .*the items were taken from the columns title, review before"):
        prepare(both, target="stars", unlabeled=others)


def test_clips(tmp_path: Path) -> None:
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", RNG.normal(size=800) * 0.1, 8000)
    waves = [(RNG.normal(size=900) * 0.1, 8000) for _ in range(20)]
    for source in (str(tmp_path), waves[:3]):
        prepared = prepare((waves, LABELS[:20]), unlabeled=source)
        assert prepared.profile.modality == "audio"
        assert prepared.profile.unlabeled is not None
        assert prepared.profile.unlabeled.rows == 3


def test_unreadable_rows_are_counted_and_named(tmp_path: Path) -> None:
    folder = files(tmp_path, "1.png", "2.png")
    (folder / "broken.png").write_bytes(b"no picture")
    prepared = prepare((IMAGES, LABELS), unlabeled=folder)
    issue = issues(prepared)["unlabeled_unreadable"]
    assert (issue.count, issue.rows) == (1, ("broken.png",))
    assert issue.text.startswith("unlabeled: 1 rows cannot be read")
    assert prepared.unlabeled is not None
    assert len(prepared.unlabeled.indices) == 2


def test_copies_of_labelled_rows_are_told() -> None:
    prepared = prepare((IMAGES, LABELS), test=(OTHERS[:4], LABELS[:4]), unlabeled=[*OTHERS[3:], IMAGES[0]])
    found = issues(prepared)
    assert found["unlabeled_copies_of_test"].count == 1
    assert "held-out rows" in found["unlabeled_copies_of_test"].text
    assert found["unlabeled_copies_of_labelled"].count == 1


@pytest.mark.parametrize(
    ("labelled", "unlabeled", "said"),
    [
        (IMAGES, ["good morning", "good night"], "looks like texts, and both must hold the same"),
        (TEXTS, OTHERS, "looks like images, and both must hold the same"),
        (IMAGES, "nowhere/at/all", "'nowhere/at/all' does not exist"),
        (IMAGES, OTHERS[:0], "there are no rows"),
        (IMAGES, [], "X has no rows"),
        (IMAGES, 3, "X is int"),
        (IMAGES, [np.zeros(7)] * 3, "none of its 3 rows is usable"),
    ],
    ids=["texts", "images", "missing", "empty array", "empty list", "number", "odd"],
)
def test_what_cannot_be_used_is_said(labelled: Any, unlabeled: Any, said: str) -> None:
    with pytest.raises(DataError) as caught:
        prepare((labelled, LABELS), unlabeled=unlabeled)
    assert str(caught.value).startswith("unlabeled: ")
    assert said in str(caught.value)


def test_an_empty_folder_and_a_folder_of_clips_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "clips").mkdir()
    soundfile.write(tmp_path / "clips" / "1.wav", np.zeros(800), 8000)
    with pytest.raises(DataError, match="unlabeled: .*empty.* holds no image"):
        prepare((IMAGES, LABELS), unlabeled=tmp_path / "empty")
    with pytest.raises(DataError, match="holds no image; it looks like clips"):
        prepare((IMAGES, LABELS), unlabeled=tmp_path / "clips")


def test_a_table_of_pictures_is_no_table_of_texts(tmp_path: Path) -> None:
    files(tmp_path, "1.png", "2.png")
    table = pd.DataFrame({"file": [str(tmp_path / "1.png"), str(tmp_path / "2.png")] * 5})
    with pytest.raises(DataError, match="does not hold texts.*it looks like images"):
        prepare((TEXTS, LABELS), unlabeled=table)


def test_workers_get_prepared_rows_in_one_drawn_order() -> None:
    prepared = pickle.loads(pickle.dumps(prepare((IMAGES, LABELS), unlabeled=OTHERS, seed=3)))
    again = prepare((IMAGES, LABELS), unlabeled=OTHERS, seed=3)
    other = prepare((IMAGES, LABELS), unlabeled=OTHERS, seed=4)
    assert prepared.unlabeled.indices.tolist() == again.unlabeled.indices.tolist()
    assert prepared.unlabeled.indices.tolist() != other.unlabeled.indices.tolist()
    assert sorted(other.unlabeled.indices) == list(range(9))
    prepared.keep(None)
    rows = prepared.unlabeled.rows(ImageInput(size=16, crop=1.0))
    assert rows.targets.shape == (9, 0)
    plain = prepare((OTHERS, list("ab" * 4 + "a"))).rows(
        [int(prepared.unlabeled.indices[2])], ImageInput(size=16, crop=1.0)
    )
    assert torch.equal(rows.batch([2]), plain.batch([0]))


def test_they_are_part_of_a_runs_name() -> None:
    names = {}
    for key, given in {"none": None, "some": OTHERS, "again": OTHERS, "fewer": OTHERS[:8]}.items():
        profile = prepare((IMAGES, LABELS), unlabeled=given).profile
        names[key] = identity(Settings(data="x"), rows_hash(profile.fingerprint, profile.unlabeled))
        assert profile.fingerprint == prepare((IMAGES, LABELS)).profile.fingerprint
    assert names["some"] == names["again"]
    assert len(set(names.values())) == 3
