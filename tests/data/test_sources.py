"""Sources, from files and from memory, to prepared rows; and what is said of odd ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from autotransfer.data import Prepared, prepare
from autotransfer.data.image import open_image, prepare_image
from autotransfer.errors import DataError
from autotransfer.spec import ImageInput

RNG = np.random.default_rng(0)


def _picture(shade: int = 0) -> Image.Image:
    return Image.fromarray((RNG.integers(0, 100, (12, 10, 3)) + shade).astype(np.uint8))


def _folders(root: Path, classes: str = "ab", rows: int = 10) -> Path:
    for c in classes:
        (root / c).mkdir(parents=True, exist_ok=True)
        for i in range(rows):
            _picture().save(root / c / f"{i}.png")
    return root


def _issue(data: Prepared, what: str) -> str:
    return next(i.text for i in data.profile.issues if i.what == what)


def test_flat_class_folders(tmp_path: Path) -> None:
    data = prepare(str(_folders(tmp_path)))
    p = data.profile
    assert (p.rows, p.task, p.classes, p.counts) == (20, "binary", ("a", "b"), {"a": 10, "b": 10})
    assert (p.train, p.validation, p.test) == (12, 4, 4)
    parts = [set(x.tolist()) for x in (data.train, data.validation, data.test)]
    assert len(set.union(*parts)) == 20
    assert (p.facts["image.width_median"], p.facts["image.height_median"]) == (10, 12)


def test_given_splits_are_used_as_they_are(tmp_path: Path) -> None:
    for split, rows in (("train", 6), ("val", 3), ("test", 4)):
        _folders(tmp_path / split, rows=rows)
    p = prepare(tmp_path).profile
    assert (p.train, p.validation, p.test) == (12, 6, 8)


def test_the_same_seed_gives_the_same_split_and_every_beginning_is_balanced(tmp_path: Path) -> None:
    root = _folders(tmp_path, "abc", 30)
    one, two, other = (prepare(root, seed=s) for s in (1, 1, 2))
    assert one.train.tolist() == two.train.tolist() != other.train.tolist()
    first = one.targets[one.train[:12].tolist()].bincount().tolist()
    assert max(first) - min(first) <= 2


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "jsonl", "frame"])
def test_tables(tmp_path: Path, kind: str) -> None:
    root = _folders(tmp_path / "pictures")
    rows = [(f"pictures/{c}/{i}.png", c) for c in "ab" for i in range(10)]
    frame = pd.DataFrame(rows, columns=["file", "animal"])
    path = tmp_path / f"table.{kind}"
    if kind == "frame":
        source: Any = frame.assign(file=[str(tmp_path / f) for f in frame.file])
    else:
        source = path
        {
            "csv": lambda: frame.to_csv(path, index=False),
            "tsv": lambda: frame.to_csv(path, sep="\t", index=False),
            "parquet": lambda: frame.to_parquet(path),
            "jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        }[kind]()
    assert root.exists()
    data = prepare(source, target="animal")
    assert data.profile.counts == {"a": 10, "b": 10}
    with pytest.raises(DataError, match="did you mean animal"):
        prepare(source, target="anmal")


def test_a_link_to_nowhere_is_counted_and_named(tmp_path: Path) -> None:
    (_folders(tmp_path) / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    issue = next(i for i in prepare(tmp_path).profile.issues if i.what == "unreadable")
    assert (issue.count, issue.rows) == (1, ("a/gone.png",))


def test_missing_labels_and_unreadable_files_are_counted_and_named(tmp_path: Path) -> None:
    _folders(tmp_path)
    (tmp_path / "a" / "3.png").write_text("no picture")
    (tmp_path / "a" / "4.png").write_bytes((tmp_path / "a" / "5.png").read_bytes()[:80])
    names = [f"{c}/{i}.png" for c in "ab" for i in range(10)]
    frame = pd.DataFrame({"image": names, "label": [n[0] for n in names]})
    frame.loc[[12, 13, 14], "label"] = None
    frame.to_csv(tmp_path / "t.csv", index=False)
    data = prepare(tmp_path / "t.csv", target="label")
    assert data.profile.rows == 15
    assert "3 rows have no label" in _issue(data, "missing_labels")
    unreadable = next(i for i in data.profile.issues if i.what == "unreadable")
    assert unreadable.count == 2
    assert {Path(r).name for r in unreadable.rows} == {"3.png", "4.png"}


def test_copies_stay_on_one_side_and_leave_train_for_a_given_test(tmp_path: Path) -> None:
    root = _folders(tmp_path / "flat")
    for i in range(5):
        (root / "a" / f"copy{i}.png").write_bytes((root / "a" / "0.png").read_bytes())
    data = prepare(root)
    same = {
        i
        for i in range(len(data.dataset))
        if "copy" in data.dataset.row_name(i) or data.dataset.row_name(i) == "a/0.png"
    }
    assert sum(bool(same & set(part.tolist())) for part in (data.train, data.validation, data.test)) == 1
    assert "copies" in _issue(data, "duplicates")
    for split in ("train", "test"):
        _folders(tmp_path / "given" / split)
    copied = (tmp_path / "given" / "test" / "a" / "0.png").read_bytes()
    (tmp_path / "given" / "train" / "a" / "again.png").write_bytes(copied)
    given = prepare(tmp_path / "given")
    assert given.profile.rows == 40
    assert "left out" in _issue(given, "duplicates_across_splits")


def test_groups_stay_whole(tmp_path: Path) -> None:
    images = RNG.integers(0, 255, (60, 8, 8, 3)).astype(np.uint8)
    groups = np.repeat(np.arange(20), 3)
    data = prepare((images, np.tile([0, 1, 1], 20)), groups=groups)
    parts = [{int(groups[i]) for i in part} for part in (data.train, data.validation, data.test)]
    assert all(parts)
    assert not (parts[0] & parts[1])
    assert not (parts[0] & parts[2])
    assert not (parts[1] & parts[2])


@pytest.mark.parametrize(
    "shape_and_kind",
    [
        ((30, 9, 7), "uint8"),
        ((30, 9, 7, 1), "uint8"),
        ((30, 9, 7, 3), "float"),
        ((30, 3, 9, 7), "float"),
        ((30, 9, 7), "uint16"),
    ],
)
def test_arrays_of_every_kind(shape_and_kind: Any) -> None:
    shape, kind = shape_and_kind
    x: Any = RNG.random(shape)
    x = {"uint8": (x * 255).astype(np.uint8), "float": x, "uint16": (x * 65535).astype(np.uint16)}[kind]
    data = prepare((x, np.arange(30) % 3))
    batch = data.rows(data.train, ImageInput(size=8)).batch([0, 1])
    assert tuple(batch.shape) == (2, 3, 8, 8)
    assert batch.isfinite().all()


class Pairs:
    """What a torch Dataset looks like."""

    classes = ("cat", "dog")

    def __len__(self) -> int:
        return 20

    def __getitem__(self, i: int) -> Any:
        import torch

        if not 0 <= i < 20:
            raise IndexError(i)
        return torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(i)), i % 2


def test_a_torch_dataset_by_what_it_can_do() -> None:
    assert prepare(Pairs()).profile.classes == ("cat", "dog")


def test_lists_of_pictures_and_labels_of_several_kinds() -> None:
    pictures = [_picture() for _ in range(24)]
    assert prepare((pictures, [i % 3 for i in range(24)])).profile.task == "multiclass"
    assert prepare((pictures, [i * 0.37 for i in range(24)])).profile.task == "regression"
    assert prepare((pictures, [["a", "b"][: 1 + i % 2] for i in range(24)])).profile.task == "multilabel"


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "1", "I;16", "CMYK"])
def test_every_mode_is_read(tmp_path: Path, mode: str) -> None:
    base = _picture(100)
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    if mode == "I;16":
        Image.fromarray(np.asarray(base.convert("L")).astype(np.uint16) * 257).save(path)
    else:
        base.convert(mode).save(path)
    image = open_image(path)
    assert image.mode in ("RGB", "L")
    gap = np.abs(np.asarray(image.convert("L"), float) - np.asarray(base.convert("L"), float)).mean()
    assert gap < (130 if mode == "1" else 12)


def test_transparency_lies_on_white_and_rotation_is_undone(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert np.asarray(open_image(tmp_path / "clear.png")).min() == 255
    turned = Image.new("RGB", (6, 3))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (3, 6)


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (5, 5), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert tuple(np.asarray(open_image(tmp_path / "x.gif"))[0, 0]) == (255, 0, 0)


def test_preparation_is_normalised_and_augmentation_is_drawn_from_its_generator() -> None:
    spec = ImageInput(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    white = Image.new("RGB", (20, 14), "white")
    assert prepare_image(white, spec).allclose(prepare_image(white, spec).new_ones(3, 8, 8))
    picture = _picture()
    one, two, other = (prepare_image(picture, spec, "light", np.random.default_rng(s)) for s in (1, 1, 2))
    assert one.equal(two)
    assert not one.equal(other)


@pytest.mark.parametrize("channels", [3, 1])
def test_strong_augmentation_changes_window_and_colours(channels: int) -> None:
    spec = ImageInput(size=8, channels=channels, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    grey = Image.new("RGB", (20, 14), (120, 60, 180))  # one colour: windows and mirrors do not change it
    made = [prepare_image(grey, spec, "strong", np.random.default_rng(s)) for s in range(60)]
    plain = prepare_image(grey, spec)
    assert all(m.shape == (channels, 8, 8) and float(m.std((1, 2)).max()) < 1e-6 for m in made)
    ratios = [float(m.mean() / plain.mean()) for m in made]
    assert 0.5 < min(ratios) < 0.75 < 1.25 < max(ratios) < 1.5
    assert prepare_image(grey, spec, "light", np.random.default_rng(0)).equal(plain)
    ramp = Image.fromarray(np.tile(np.linspace(0, 250, 40).astype(np.uint8)[:, None], (1, 40))).convert("RGB")
    spans = [float(prepare_image(ramp, spec, "light", np.random.default_rng(s)).std()) for s in range(60)]
    assert min(spans) > 0.18  # no less than 60 % of the area
    with pytest.raises(ValueError, match="augment is 'cutmix'; wanted 'none', or with rng one of: light, strong"):
        prepare_image(grey, spec, "cutmix", np.random.default_rng(0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "nowhere", "does not exist"),
        (lambda root: root, "is empty"),
        (lambda root: _folders(root, "a"), "1 class"),
        (lambda root: _folders(root, "abc", 1), "single row"),
    ],
)
def test_what_cannot_be_used_says_why(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare(make(tmp_path))


def test_all_unreadable(tmp_path: Path) -> None:
    for c in "ab":
        (tmp_path / c).mkdir()
        for i in range(3):
            (tmp_path / c / f"{i}.jpg").write_text("hello")
    with pytest.raises(DataError, match="none of its 6 rows"):
        prepare(tmp_path)


def test_lengths_must_agree() -> None:
    with pytest.raises(DataError, match="X has 5 rows and y has 4"):
        prepare((np.zeros((5, 4, 4), np.uint8), [0, 1, 0, 1]))


def test_the_metric_follows_the_imbalance() -> None:
    x = RNG.integers(0, 255, (60, 6, 6)).astype(np.uint8)
    assert prepare((x, [0] * 30 + [1] * 30)).profile.metric == "accuracy"
    assert prepare((x, [0] * 50 + [1] * 10)).profile.metric == "balanced_accuracy"


def test_the_fingerprint_changes_with_a_label_or_a_pixel() -> None:
    x, y = RNG.integers(0, 255, (40, 6, 6)).astype(np.uint8), [i % 2 for i in range(40)]
    base = prepare((x, y)).profile.fingerprint
    assert prepare((x, y)).profile.fingerprint == base
    other = x.copy()
    other[0, 0, 0] ^= 1
    assert prepare((other, y)).profile.fingerprint != base
    assert prepare((x, [1 - y[0], *y[1:]])).profile.fingerprint != base


@pytest.mark.parametrize("kind", ["folder", "table", "frame", "lists"])
def test_rows_of_a_relative_source_are_found_from_any_working_folder(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _folders(tmp_path / "pets")
    monkeypatch.chdir(tmp_path)
    paths = [f"pets/{c}/{i}.png" for c in "ab" for i in range(10)]
    frame = pd.DataFrame({"image": paths, "label": [p[5] for p in paths]})
    frame.to_csv("pets.csv", index=False)
    sources: dict[str, Any] = {
        "folder": "pets",
        "table": Path("pets.csv"),
        "frame": frame,
        "lists": (paths, list(frame["label"])),
    }
    data = prepare(sources[kind])
    names = [data.dataset.row_name(i) for i in range(3)]
    assert names == ["a/0.png", "a/1.png", "a/2.png"] if kind == "folder" else names == paths[:3]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert all(data.dataset.load(i).shape == (12, 10, 3) for i in range(20))
