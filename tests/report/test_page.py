"""The page of a run: whole, escaped, and true to the rows."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from autotransfer import engine, load, tasks
from autotransfer.config import Settings
from autotransfer.data.dataset import ItemDataset
from autotransfer.report import page as pages
from autotransfer.report.judged import HeldOut
from autotransfer.report.page import page
from autotransfer.schema import CurvePoint
from autotransfer.targets import TargetProfile
from autotransfer.tasks.judged import evaluation

BAD = "<script>alert('x')</script>\"&"
VOID = ("meta", "img", "br")


class Seen(HTMLParser):
    """Collects elements and texts, and checks that each element is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def text(self) -> str:
        return "\n".join(t.strip() for t in self.texts if t.strip())

    def addresses(self) -> Iterator[str]:
        for _, attrs in self.elements:
            yield from (str(v) for n, v in attrs.items() if n in ("src", "href", "srcset", "data"))


def held(
    values: Any, outputs: Any, items: Any, *, kind: str = "text", task: str = "multiclass", **more: Any
) -> HeldOut:
    made = tasks.make_task(task, values)
    data = ItemDataset("rows", items, {"target": values}, modality=kind, **more)
    return HeldOut(made, data, np.arange(len(values)), torch.tensor(outputs), made.encode(values))


def test_names_and_texts_of_users_are_no_markup(run):
    items = [f"{BAD} good", f"{BAD} bad", "long " * 100]
    curve = tuple(CurvePoint(epoch=e, train_loss=1.0, objective=0.5) for e in (1.0, 2.0))
    trials = (replace(run.trials[0], reason=BAD, curve=curve), replace(run.trials[-1], reason=BAD))
    bad = replace(run, profile=replace(run.profile, name=BAD, classes=(BAD, "b")), notes=(BAD,), trials=trials)
    text = page(bad, held([BAD, "b", BAD], [[2.0, 0.0], [1.0, 0.0], [0.5, 0.0]], items))
    seen = Seen(text)
    assert "<script" not in text.lower()
    assert not seen.named("script")
    assert not any(n.startswith("on") for _, attrs in seen.elements for n in attrs)
    for wanted in (BAD, f"{BAD} good", f"{BAD} bad"):
        assert wanted in seen.texts
    assert ("long " * 100)[:300] + "\u2026" in seen.texts


def test_a_files_name_is_no_markup_and_its_picture_is_small(run, tmp_path: Path):
    names = ["<img src=x onerror=alert(1)>.png", "b\udcff.png"]
    for name in names:
        Image.new("RGB", (300, 200), "red").save(tmp_path / name)
    items = [tmp_path / n for n in names]
    text = page(run, held(["a", "b"], [[1.0, 0.0], [1.0, 0.0]], items, kind="image", root=tmp_path))
    seen = Seen(text)
    pictures = seen.named("img")
    assert len(pictures) == 4  # both rows, among the worst and among the least certain
    assert pictures[0]["alt"] == "b?.png"
    assert names[0] in seen.texts
    assert not any("onerror" in attrs for attrs in pictures)
    kind, body = str(pictures[0]["src"]).split(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(body))).size == (96, 64)
    text.encode()


def test_nothing_is_fetched_and_every_part_is_there(run):
    curve = tuple(CurvePoint(epoch=e, train_loss=1 / e, objective=0.8 + e / 100) for e in (1.0, 2.0, 3.0))
    told = replace(run, trials=(*run.trials[:1], replace(run.trials[1], curve=curve), *run.trials[2:]))
    seen = Seen(page(told, held(["a", "b", "c"], np.eye(3, dtype=np.float32).tolist(), ["x", "y", "z"])))
    assert not list(seen.addresses())
    assert len(seen.named("svg")) == 2
    for part in (
        "pets",
        "Leaderboard",
        "Learning curves",
        "Calibration",
        "Confusion matrix",
        "Highest loss",
        "Least certain",
        "Not used",
        "hub/gone: skipped: its weights are not in the cache",
        "one worker was replaced",
        "3 images cannot be read and were left out",
        "t002 acme/net core/partial freeze 1/3",
    ):
        assert part in seen.texts
    assert "transfer pays here" in seen.text
    assert ".884 to .931" in seen.text


def test_curves_are_those_of_the_best_trials_best_first(run):
    curve = tuple(CurvePoint(epoch=e, train_loss=1.0, objective=0.5) for e in (1.0, 2.0))
    trials = tuple(replace(run.trials[1], id=f"t{i}", curve=curve, objective=(i - 5) / 10) for i in range(8))
    seen = Seen(page(replace(run, trials=(*trials, run.trials[3])), None))
    assert re.findall(r"(t\d) acme/net core/partial freeze", seen.text.split("epoch\n")[-1])[-6:] == [
        *("t7", "t6", "t5", "t4", "t3", "t2")
    ]
    assert len(seen.named("polyline")) == 6


def test_the_matrix_and_the_rows_say_what_was_taken_for_what(run):
    outputs = [[3.0, 0.0], [0.0, 0.1], [4.0, 0.0]]
    seen = Seen(page(run, held(["cat", "cat", "dog"], outputs, ["one", "two", "three"])))
    assert re.findall(r"cat\n1\n1\ndog\n1\n0\n", seen.text)
    first = seen.text.split("Highest loss")[1].split("answer")
    assert "three" in first[0]
    assert "true\ndog" in first[0]
    assert first[1].startswith("\ncat\np .982, p of the true one .018, loss 4.02\nrow 2\n")
    assert "two" in seen.text.split("Least certain")[1].split("answer")[0]


def test_many_classes_are_folded(run):
    names = [f"class {i:02d}" for i in range(30)]
    seen = Seen(page(run, held(names, np.eye(30, dtype=np.float32).tolist(), names)))
    assert "others" in seen.texts
    assert "11 others are folded into one" in seen.text
    assert sum(" strong" in str(attrs.get("class")) for attrs in seen.named("td")) == 20


def test_sounds_can_be_played_and_are_cut(run):
    rng = np.random.default_rng(0)
    clips = [(rng.uniform(-0.5, 0.5, 8000 * s).astype(np.float32), 8000) for s in (1, 7)]
    seen = Seen(page(run, held(["a", "b"], [[1.0, 0.0], [3.0, 0.0]], clips, kind="audio")))
    players = seen.named("audio")
    assert len(players) == 4
    kind, body = str(players[0]["src"]).split(",")  # the worst row is the long one
    assert kind == "data:audio/wav;base64"
    wave, rate = soundfile.read(io.BytesIO(base64.b64decode(body)))
    assert (wave.shape, rate) == ((80_000,), 16_000)


def test_a_row_that_cannot_be_read_any_more_says_so_and_the_others_are_shown(run, tmp_path: Path):
    Image.new("RGB", (8, 8)).save(tmp_path / "there.png")
    items = [tmp_path / "there.png", tmp_path / "gone.png"]
    seen = Seen(page(run, held(["a", "b"], [[1.0, 0.0], [1.0, 0.0]], items, kind="image", root=tmp_path)))
    assert len(seen.named("img")) == 2
    assert seen.text.count("cannot be read") >= 2
    assert "gone.png" in seen.texts


def test_numbers_are_drawn_against_their_predictions(of_numbers):
    values = [float(v) for v in np.linspace(10, 20, 1500)]
    outputs = np.zeros((1500, 1), np.float32)
    seen = Seen(page(of_numbers, held(values, outputs.tolist(), ["x"] * 1500, task="regression")))
    assert "Predicted against actual" in seen.texts
    assert "Residuals" in seen.texts
    assert "1000 of 1500 rows are drawn, evenly spaced." in seen.texts
    assert sum(attrs.get("class") == "point" for attrs in seen.named("circle")) == 2000
    assert "off by +5" in seen.text
    assert "Confusion matrix" not in seen.texts
    assert "Least certain" not in seen.texts


def test_labels_have_a_score_each(run):
    values = [["red"], ["red", "tall"], ["tall"]]
    outputs = [[5.0, -5.0], [5.0, -5.0], [-5.0, 5.0]]
    seen = Seen(page(run, held(values, outputs, ["x", "y", "z"], task="multilabel")))
    assert "tall\n2\n1\n1.00\n.500\n.667" in seen.text
    assert "true\nred, tall\nanswer\nred\n" in seen.text
    assert "Expected calibration error" in seen.text


@pytest.mark.parametrize("rows", [None, 0])
def test_without_held_out_rows_the_page_says_so(run, rows):
    empty = None if rows is None else replace(held(["a", "b"], [[1.0, 0.0]] * 2, ["x", "y"]), rows=np.zeros(0, int))
    bare = replace(run, test=None, baseline=None, unit_cpu_seconds=None, survey=(), trials=(), notes=())
    seen = Seen(page(bare, empty))
    assert "There were no held-out rows." in seen.texts
    assert not seen.named("svg")


def test_a_fit_leaves_a_page_with_pictures_beside_its_model(toy_run: Path, toynet: str):
    file = toy_run / "report.html"
    seen = Seen(file.read_text(encoding="utf-8"))
    record = load(toy_run, plugins=[toynet]).run
    assert len(seen.named("img")) == 24
    assert all(str(attrs["src"]).startswith("data:image/jpeg;base64,") for attrs in seen.named("img"))
    assert f"{record.test.rows:,} held-out rows" in seen.text
    assert f"report {file}   again: " in load(toy_run, plugins=[toynet]).report()
    assert not list(toy_run.glob(".report*"))


def test_a_model_saved_elsewhere_names_no_page(toy_run: Path, toynet: str, tmp_path: Path):
    model = load(toy_run, plugins=[toynet])
    (tmp_path / "report.html").write_text("of something else")
    model.save(tmp_path / "model")
    assert "report.html" not in model.report()


def test_a_page_that_cannot_be_written_does_not_lose_the_model(stripes, toynet, tmp_path, monkeypatch, caplog):
    def broken(*_: Any) -> str:
        raise OSError("no space left")

    def fit(trials: int) -> Any:
        given = {"executor": "serial", "plugins": [toynet], "backbones": "toynet/small", "out": tmp_path / "run"}
        return engine.fit(Settings(data=stripes, trials=trials, **given))

    fit(1)
    assert (tmp_path / "run" / "report.html").exists()
    monkeypatch.setattr(pages, "page", broken)
    model = fit(2)
    assert "report.html was not written: OSError: no space left" in caplog.text
    assert not (tmp_path / "run" / "report.html").exists()
    assert load(tmp_path / "run", plugins=[toynet]).recipe == model.recipe
    assert "report.html" not in model.report()


def test_the_rows_of_each_class_are_drawn_the_most_first_and_closed_where_they_are_many(run):
    seen = Seen(page(run, None))
    (own,) = seen.named("details")
    assert "open" in own
    assert "cat\n620\ndog\n420\nowl\n200" in seen.text
    assert [i["style"] for i in seen.named("i")] == ["width: 100.0%", "width: 67.7%", "width: 32.3%"]
    counts = {f"{BAD} {n}": 300 - n for n in range(250)}
    many = Seen(page(replace(run, profile=replace(run.profile, counts=counts)), None))
    assert "open" not in many.named("details")[0]
    assert f"{BAD} 199\n101\n... and 50 more" in many.text


def several(run: Any) -> tuple[Any, HeldOut]:
    """A run and held-out rows of a class, missing once, a number, and a class that no held-out row has."""
    kinds = tasks.make_task("multiclass", ["cat", "dog"])
    targets = {"kind": kinds, "age": tasks.make_task("regression", [0.0, 2.0]), "pet": kinds}
    task = tasks.Several(targets)
    rows = [("cat", 1.0, None), ("dog", 3.0, None), (None, 5.0, None)]
    data = ItemDataset("rows", ["one", "two", "three"], {"kind": [r[0] for r in rows]}, modality="text")
    outputs = torch.tensor([[2.0, 0.0, 0.0, 0, 0], [1.0, 0.0, 1.0, 0, 0], [0.0, 9.0, 2.0, 0, 0]])
    each = tuple(
        TargetProfile(name=n, task=t.name, metric=t.metric, rows=9, train=5, validation=2, test=2)
        for n, t in targets.items()
    )
    profile = replace(run.profile, task="multi-task", metric="skill", classes=(), counts={}, each=each)
    held = HeldOut(task, data, np.arange(3), outputs, task.encode(rows))
    test = evaluation(task, held.outputs, held.targets)
    scores = {"kind": {"accuracy": 0.75}, "age": {"rmse": 1.25}}
    trials = (replace(run.trials[1], scores=scores), *run.trials[2:])
    return replace(run, profile=profile, test=test, baseline=None, trials=trials), held


def test_each_of_several_targets_has_its_own_part(run):
    made, rows = several(run)
    text = Seen(page(made, rows)).text
    kind, age, pet = (text.index(f"{n}, on the held-out rows") for n in ("kind", "age", "pet"))
    assert kind < age < pet
    of_kind, of_age, of_pet = text[kind:age], text[age:pet], text[pet:]
    assert "Confusion matrix" in of_kind
    assert "accuracy\n.500\n-" in of_kind
    assert re.findall(r"cat\n1\n0\ndog\n1\n0\n", of_kind)
    assert "kind: Highest loss" in of_kind
    assert "three" not in of_kind  # it has no label of kind
    assert "Predicted against actual" in of_age
    assert "Confusion matrix" not in of_age
    assert "true\n5\nanswer\n3\noff by -2" in of_age
    assert "age: Least certain" not in of_age
    assert "No held-out row has this label." in of_pet
    assert "kind accuracy\nage rmse\npet accuracy\nsurvey" in text
    assert ".750\n1.25" in text
