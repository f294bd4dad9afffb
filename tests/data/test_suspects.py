"""Columns that look like groups are told of, and others are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from autotransfer.data.prepare import prepare
from autotransfer.data.suspects import suspects

ROWS = 240
TRAIN, TEST = np.arange(0, 180), np.arange(180, 240)
NOTHING = np.zeros((ROWS, 0))


def labels(classes=3, seed=0):
    return [f"c{i}" for i in np.random.default_rng(seed).integers(0, classes, ROWS)]


def ids(count, seed=1):
    return [f"v{i}" for i in np.random.default_rng(seed).integers(0, count, ROWS)]


def told(columns, own=None, measures=NOTHING):
    return [i.rows[0] for i in suspects(columns, own or labels(), measures, TRAIN, TEST)]


@pytest.mark.parametrize(
    "name", ["speaker", "Patient_ID", "kit", "source", "user id", "session", "recording_id", "authors"]
)
def test_a_name_that_says_so_is_enough(name):
    (issue,) = suspects({name: ids(12)}, labels(), NOTHING, TRAIN, TEST)
    assert issue.what == "group_like_column"
    assert f"groups={name!r}" in issue.text
    assert "by its name" in issue.text
    assert "100% of the held-out rows" in issue.text


@pytest.mark.parametrize("name", ["colour", "resource", "kitchen_colour", "x", "useful"])
def test_other_names_without_evidence_are_none(name):
    assert told({name: ids(12)}) == []


def test_a_column_whose_values_decide_the_label_is_one():
    place = np.random.default_rng(2).integers(0, 24, ROWS)
    own = [f"c{p % 3}" for p in place]
    assert told({"x": [f"v{p}" for p in place]}, own) == ["x"]
    assert told({"x": [f"v{p % 3}" for p in place]}, own) == []  # one value a class: the label by another name
    assert told({"x": ids(24)}, own) == []


def test_a_column_whose_rows_measure_alike_is_one():
    rng = np.random.default_rng(3)
    place = rng.integers(0, 15, ROWS)
    alike = np.stack([rng.normal(size=ROWS), rng.normal(size=15)[place] + 0.3 * rng.normal(size=ROWS)], 1)
    assert told({"x": place.tolist()}, measures=alike) == ["x"]
    assert told({"x": rng.permutation(place).tolist()}, measures=alike) == []


def test_measurements_that_follow_the_class_alone_are_no_evidence():
    rng = np.random.default_rng(4)
    own = labels()
    loud = np.asarray([int(v[1]) for v in own], float)[:, None] + 0.1 * rng.normal(size=(ROWS, 1))
    within = [f"{v}-{k}" for v, k in zip(own, rng.integers(0, 2, ROWS), strict=True)]  # two values a class
    assert "measure alike" not in str(suspects({"x": within}, own, loud, TRAIN, TEST))


@pytest.mark.parametrize(
    "values",
    [
        [f"row{i}" for i in range(ROWS)],
        ["same"] * ROWS,
        [None] * 200 + ["a", "b", "c", "d"] * 10,
        (np.arange(ROWS) % 12 + 0.5).tolist(),
        [[1, 2]] * ROWS,
    ],
    ids=["all different", "one value", "mostly missing", "measurements", "lists"],
)
def test_what_is_no_repeated_name_is_left_alone(values):
    assert told({"speaker": values}) == []


def test_values_that_training_rows_do_not_have_inflate_nothing():
    values = [f"v{i % 6}" for i in range(180)] + [f"w{i % 6}" for i in range(60)]
    assert told({"speaker": values}) == []


def test_numbers_as_labels_and_rows_without_labels_do_no_harm():
    own = [None if i % 7 == 0 else float(i) * 1.37 for i in range(ROWS)]
    assert told({"speaker": ids(12), "x": ids(12)}, own, np.full((ROWS, 2), np.nan)) == ["speaker"]


def table(folder: Path) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(60):
        path = folder / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
        rows.append({"image": str(path), "kind": "ab"[i % 2], "camera": f"cam{i % 5}", "note": f"n{i}"})
    return pd.DataFrame(rows)


def test_the_profile_of_a_table_tells_of_them_until_groups_are_said(tmp_path):
    frame = table(tmp_path)
    found = prepare(frame, target="kind").profile
    assert [i.rows for i in found.issues if i.what == "group_like_column"] == [("camera",)]
    grouped = prepare(frame, target="kind", groups="camera")
    assert [i for i in grouped.profile.issues if i.what == "group_like_column"] == []
    cameras = frame["camera"].to_numpy()
    parts = [set(cameras[part]) for part in (grouped.train, grouped.validation, grouped.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 5
    assert grouped.train_groups() is not None
    assert len(set(grouped.train_groups().tolist())) == len(parts[0])
