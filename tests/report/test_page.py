"""The page about a run: sound HTML that loads nothing, in which no text of a user becomes markup."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotransfer.data.modalities import Shown
from autotransfer.errors import ModelError
from autotransfer.report import judged
from autotransfer.report.held_out import Case, HeldOut
from autotransfer.report.page import CLASSES, page, write_page
from autotransfer.schema import CurvePoint, DataIssue, RunRecord

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)> & \x00\udc80"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Sound(HTMLParser):
    """Collects tags, attributes and texts; an end tag that closes nothing, or the wrong thing, is a fault."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts.append(" ")
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} stands twice"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        self.texts.append(" ")

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


@pytest.fixture
def told() -> HeldOut:
    """Three classes of which two are confused, and a picture, a text and a sound among the rows."""
    truth, answers = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 2])
    numbers, chances = np.arange(3), np.array([0.9, 0.8, 0.6, 0.7, 1.0])
    cases = tuple(
        Case(
            name=f"{media or 'text'} row",
            truth="cat",
            answer="dog",
            right=False,
            loss=2.5,
            chances=(("dog", 0.8), ("cat", 0.1)),
            shown=Shown("told", media, b"body" if media else b""),
        )
        for media in ("image/jpeg", "audio/mpeg", "")
    )
    return HeldOut(
        rows=5,
        classes=("cat", "dog", "owl"),
        confusion=judged.confusion(truth, answers, 3),
        per_class=tuple(
            judged.per_class(truth[:, None] == numbers, answers[:, None] == numbers, ("cat", "dog", "owl"))
        ),
        calibration=judged.calibration(chances, truth == answers),
        worst=cases,
        uncertain=cases[:1],
    )


def curved(run: RunRecord) -> RunRecord:
    curve = tuple(CurvePoint(epoch=e, train_loss=2.0 - e / 10, objective=0.5 + e / 25) for e in range(1, 11))
    return replace(run, trials=tuple(replace(t, curve=curve) if t.id in ("t002", "t003") else t for t in run.trials))


def test_the_page_says_everything(run: RunRecord, told: HeldOut) -> None:
    found = Sound(page(curved(run), told))
    for part in (
        "pets: 1,240 images, 3 classes (3.1 : 1), multiclass, judged by accuracy; 794 train, 199 validation, 247 test",
        "3 images cannot be read and were left out",
        "lies outside the interval: transfer pays here",
        ".908 accuracy on 310 held-out rows, used once 95 %: .884 to .931",
        "4:12 wall, 7:40 CPU = 0.9 of one full fine-tune",
        "tried because: the default recipe",
        "hub/gone: skipped: its weights are not in the cache",
        "failed: the loss is not finite",
        "one worker was replaced",
        "winner: batches were halved",
        "accuracy on validation by epoch",
        "training loss by epoch",
        "t002 acme/net core/partial the winner",
        "cat 1 1 0 dog 1 1 0 owl 0 0 1",
        "dog cat 1",
        "Expected calibration error .360",
        "Rows with the largest loss",
        "loss 2.50; dog .800, cat .100",
        "Most uncertain rows",
    ):
        assert part in found.text, part


def test_the_page_loads_nothing_and_runs_nothing(run: RunRecord, told: HeldOut) -> None:
    text = page(curved(run), told)
    found = Sound(text)
    kinds = {tag for tag, _ in found.tags}
    assert not kinds & {"script", "link", "iframe", "object", "embed", "base", "form"}
    places = [v or "" for _, own in found.tags for n, v in own.items() if n in ("src", "href", "srcset", "data")]
    assert {p.split(",")[0] for p in places if not p.startswith("#")} == {
        "data:image/jpeg;base64",
        "data:audio/mpeg;base64",
    }
    ids = [own["id"] for _, own in found.tags if "id" in own]
    assert len(ids) == len(set(ids))
    assert {p[1:] for p in places if p.startswith("#")} <= set(ids)
    assert not re.search(r"url\(|@import|https?:", text)
    (policy,) = [own["content"] for tag, own in found.tags if tag == "meta" and "http-equiv" in own]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_no_text_of_a_user_becomes_markup(run: RunRecord, told: HeldOut) -> None:
    issue = DataIssue(what="unreadable", count=1, text=EVIL, rows=(EVIL,))
    profile = replace(
        run.profile, name=EVIL, classes=(EVIL, "b"), counts={EVIL: 3, "b": 1}, issues=(issue,), facts={EVIL: EVIL}
    )
    word = EVIL.replace("\udc80", "")  # recipes are hashed, and their words have an encoding
    recipe = replace(run.trials[1].recipe, backbone=word, strategy=word, values={"lr": word})
    trials = tuple(replace(t, recipe=recipe, reason=EVIL, notes=(EVIL,)) for t in curved(run).trials)
    refusals = tuple(replace(r, name=EVIL, reason=EVIL) for r in run.plan.refusals)
    evil = replace(run, profile=profile, trials=trials, notes=(EVIL,), plan=replace(run.plan, refusals=refusals))
    case = replace(told.worst[0], name=EVIL, truth=EVIL, answer=EVIL, chances=((EVIL, 0.5),))
    shown = (replace(case, shown=Shown(EVIL)), replace(case, shown=Shown(EVIL, "image/jpeg", b"x")))
    classes = (EVIL, "b", "c")
    own = tuple(replace(p, name=EVIL) for p in told.per_class)
    plain, bad = Sound(page(curved(run), told)), Sound(page(evil, replace(told, classes=classes, per_class=own)))
    assert "<script>alert('x')</script>" in bad.text
    for found in (bad, Sound(page(evil, replace(told, worst=shown, uncertain=shown)))):
        assert {tag for tag, _ in found.tags} <= {tag for tag, _ in plain.tags} | {"blockquote"}
        assert not any(name.startswith("on") for _, given in found.tags for name in given)
        images = [given for tag, given in found.tags if tag == "img"]
        assert all((i["src"] or "").startswith("data:image/jpeg;base64,") for i in images)


def test_signs_that_no_page_may_hold_are_replaced(run: RunRecord, tmp_path: Path) -> None:
    evil = replace(run, profile=replace(run.profile, name="a\x00b\udc80c"))
    write_page(tmp_path / "report.html", evil)
    assert "a\ufffdb\ufffdc" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_run_of_numbers_shows_them_against_each_other(of_numbers: RunRecord) -> None:
    actual = np.linspace(0, 10, 2500)
    held = HeldOut(rows=2500, actual=actual, predicted=actual * 1.1)
    found = Sound(page(of_numbers, held))
    assert "Predicted against actual values" in found.text
    assert "Residuals: predicted less actual (some of the rows)" in found.text
    dots = [own for tag, own in found.tags if tag == "circle" and own["class"] == "dot"]
    assert 1600 <= len(dots) <= 2000
    assert "Confusion" not in found.text
    assert "Calibration" not in found.text


def test_without_answers_at_hand_the_page_says_so(run: RunRecord) -> None:
    found = Sound(page(run))
    assert "Single answers are not kept with a model" in found.text
    assert "There are none: no trial was trained by epochs" in found.text
    empty = Sound(page(replace(run, test=None, baseline=None, trials=(), survey=(), notes=(), winner="")))
    assert "not measured: there are no held-out rows" in empty.text


def test_many_classes_have_their_confusions_in_place_of_a_matrix(run: RunRecord) -> None:
    count = CLASSES + 1
    truth = np.arange(count)
    held = HeldOut(
        rows=count,
        classes=tuple(f"class {i}" for i in truth),
        confusion=judged.confusion(truth, np.roll(truth, 1), count),
    )
    found = Sound(page(run, held))
    assert f"{count} classes are too many for a matrix" in found.text
    assert "class 0 class 24 1" in found.text


def test_curves_that_are_not_finite_are_left_out(run: RunRecord) -> None:
    nan = tuple(CurvePoint(epoch=e, train_loss=float("nan"), objective=0.5) for e in (1, 2))
    found = Sound(page(replace(run, trials=tuple(replace(t, curve=nan) for t in run.trials))))
    assert "accuracy on validation by epoch" in found.text
    assert "training loss" not in found.text


def test_a_page_that_cannot_be_written_says_so_and_leaves_nothing(run: RunRecord, tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    for path in (tmp_path / "report.html", tmp_path / "nowhere" / "report.html"):
        with pytest.raises(ModelError, match="the report cannot be written to .*choose another path"):
            write_page(path, run)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_run_writes_its_page_and_its_report_says_where(toy_run: Path, toynet: str, tmp_path: Path) -> None:
    from autotransfer.model import load

    found = Sound((toy_run / "report.html").read_text(encoding="utf-8"))
    model = load(toy_run, [toynet])
    assert "Confusion matrix" in found.text
    assert f"truth {model.classes[0]} answer" in found.text
    assert any(tag == "img" for tag, _ in found.tags)
    assert f"report   {toy_run / 'report.html'}\n" in model.report()
    assert model.report(tmp_path / "again.html") == model.report()
    assert "Single answers are not kept with a model" in Sound((tmp_path / "again.html").read_text()).text
    model.save(tmp_path / "model")
    assert "report   " not in model.report()


def test_the_held_out_rows_are_predicted_once_for_score_and_page(
    stripes: Any, toynet: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from autotransfer import engine, finish
    from autotransfer.config import Settings

    asked: list[int] = []
    predict = finish.predict

    def counted(network: Any, rows: Any) -> Any:
        asked.append(len(rows))
        return predict(network, rows)

    monkeypatch.setattr(finish, "predict", counted)
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")
    given = {"plugins": [toynet], "backbones": "toynet/small", "executor": "serial", "strategies": "core/probe"}
    model = engine.fit(Settings(data=stripes, trials=1, space={"epochs": 1}, **given))
    model.report(tmp_path / "report.html")  # of a run without a folder
    assert asked == [model.run.profile.test]
    assert "Confusion matrix" in Sound((tmp_path / "report.html").read_text()).text
