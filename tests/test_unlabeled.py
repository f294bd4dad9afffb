"""``unlabeled=`` at every mouth: what is measured, tried, said and saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import autotransfer
from autotransfer import TransferClassifier
from autotransfer.cli import main
from autotransfer.errors import ConfigError, DataError

ADAPTING = ["core/coral", "core/adabn", "core/mcc", "core/dann", "core/cdan", "core/deep-coral"]


def squares(count: int, seed: int, *, inverted: bool = False) -> tuple[np.ndarray, list[str]]:
    """Return pictures with a light square on the left or on the right; or dark ones on a light ground."""
    rng = np.random.default_rng(seed)
    labels = [("left", "right")[i % 2] for i in range(count)]
    found = rng.integers(0, 60, (count, 16, 16, 3))
    for image, label in zip(found, labels, strict=True):
        row, column = rng.integers(1, 9), rng.integers(0, 3) + (8 if label == "right" else 0)
        image[row : row + 5, column : column + 5] = 220
    return (255 - found if inverted else found).astype(np.uint8), labels


HERE = squares(120, 0)
THERE = squares(80, 1, inverted=True)
ALIKE = squares(80, 2)


@pytest.fixture(autouse=True)
def _own_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")


@pytest.fixture
def fast(toynet: str) -> dict[str, Any]:
    return {
        "backbones": ["toynet/small"],
        "plugins": [toynet],
        "executor": "serial",
        "space": {"epochs": 2},
        "seed": 0,
    }


def test_rows_that_differ_are_adapted_to_and_the_report_says_by_what_was_chosen(fast: Any, tmp_path: Path) -> None:
    model = autotransfer.fit(HERE, unlabeled=THERE[0], trials=5, out=tmp_path / "run", **fast)
    run = model.run
    assert run.profile.unlabeled is not None
    gap = run.profile.unlabeled.gap
    assert gap is not None
    assert gap.differs
    assert gap.low > 0.5
    tried = {t.recipe.strategy for t in run.trials}
    assert {"core/full", "core/coral", "core/adabn", "core/mcc"} <= tried
    told = model.report()
    assert "gap      the unlabeled rows differ" in told
    assert "criterion: the validation rows do not look like the unlabeled ones" in told
    assert "No label confirms it" in told
    page = (tmp_path / "run" / "report.html").read_text()
    assert "the unlabeled rows differ" in page
    assert "No label confirms it" in page
    assert json.loads((tmp_path / "run" / "profile.json").read_text())["unlabeled"]["gap"]["accuracy"] == gap.accuracy
    board = model.leaderboard()
    assert board["information"].dropna().between(0, 1).all()
    assert run.plan.notes[-1].endswith("core/coral, core/dann, core/deep-coral, core/mcc") or "core/mcc" in str(
        run.plan
    )


def test_rows_that_are_alike_are_not(fast: Any) -> None:
    model = autotransfer.fit(HERE, unlabeled=ALIKE[0], trials=3, **fast)
    assert not {t.recipe.strategy for t in model.run.trials} & set(ADAPTING)
    assert "the unlabeled rows look the same" in model.report()
    skipped = model.leaderboard().query("status == 'skipped'")
    reasons = dict(zip(skipped["strategy"], skipped["reason"], strict=True))
    assert "there is nothing to adapt to" in reasons["core/mcc"]


def test_without_them_the_run_is_what_it_was(fast: Any) -> None:
    model = autotransfer.fit(HERE, trials=2, **fast)
    assert model.run.criterion == ""
    assert model.run.profile.unlabeled is None
    assert "gap " not in model.report()
    assert "information" not in model.leaderboard()
    assert not {t.recipe.strategy for t in model.run.trials} & set(ADAPTING)


@pytest.mark.parametrize("strategy", ADAPTING)
def test_a_saved_model_is_a_plain_one(fast: Any, tmp_path: Path, strategy: str) -> None:
    model = autotransfer.fit(
        HERE, unlabeled=THERE[0], test=THERE, trials=1, strategies=[strategy], out=tmp_path / "run", **fast
    )
    assert model.recipe.strategy == strategy
    loaded = autotransfer.load(tmp_path / "run" / "model", plugins=fast["plugins"])
    np.testing.assert_allclose(loaded.predict_proba(THERE[0]), model.predict_proba(THERE[0]), atol=1e-6)
    ours = {n for n, _ in loaded.module.named_modules()}
    plain = autotransfer.fit(HERE, trials=1, strategies=["core/full"], **fast)
    assert ours == {n for n, _ in plain.module.named_modules()}
    files = {f.name for f in (tmp_path / "run" / "model").iterdir()}
    assert not [f for f in files if f.endswith((".pkl", ".pt"))]


def test_the_same_seed_gives_the_same_model(fast: Any) -> None:
    arguments = {"unlabeled": THERE[0], "trials": 2, "strategies": ["core/dann", "core/coral"], **fast}
    first, second = (autotransfer.fit(HERE, **arguments) for _ in range(2))
    assert [(t.recipe.key, t.objective, t.scores) for t in first.run.trials] == [
        (t.recipe.key, t.objective, t.scores) for t in second.run.trials
    ]
    for a, b in zip(first.module.state_dict().values(), second.module.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_validation_rows_from_there_choose_as_they_are(fast: Any) -> None:
    labelled = squares(40, 5, inverted=True)
    model = autotransfer.fit(HERE, validation=labelled, unlabeled=THERE[0], trials=3, **fast)
    assert "of them look like the unlabeled rows, so that they can tell" in model.run.criterion
    best = max(t.objective for t in model.run.trials if t.objective is not None)
    won = next(t for t in model.run.trials if t.id == model.run.winner)
    assert won.objective is not None
    assert won.objective >= best - (best * (1 - best) / 40) ** 0.5  # one standard error on 40 rows


def test_where_some_rows_look_like_those_there_weights_choose(fast: Any) -> None:
    mixed = [np.concatenate(pair) for pair in zip(squares(500, 0), squares(300, 3, inverted=True), strict=True)]
    model = autotransfer.fit((mixed[0], list(mixed[1])), unlabeled=THERE[0], trials=2, **fast)
    gap = model.run.profile.unlabeled.gap  # type: ignore[union-attr]
    assert gap.differs
    assert gap.weighable
    assert "importance-weighted validation" in model.run.criterion
    assert "information" not in model.leaderboard()
    plain = [t.scores["binary"]["accuracy"] for t in model.run.trials]
    assert [t.objective for t in model.run.trials] != plain


def test_a_run_goes_on_where_it_was_left(fast: Any, tmp_path: Path) -> None:
    given = {"unlabeled": THERE[0], "out": tmp_path / "run", **fast}
    first = autotransfer.fit(HERE, trials=3, **given)
    more = autotransfer.fit(HERE, trials=5, **given)
    known = {t.recipe.key for t in more.run.trials}
    assert {t.recipe.key for t in first.run.trials} <= known
    assert len(known) > len(first.run.trials)
    fresh = autotransfer.fit(HERE, trials=5, unlabeled=THERE[0], **fast)
    assert [(t.recipe.key, t.objective) for t in more.run.trials] == [
        (t.recipe.key, t.objective) for t in fresh.run.trials
    ]
    with pytest.raises(ConfigError):
        autotransfer.fit(HERE, trials=5, **{**given, "unlabeled": ALIKE[0]})


def test_refit_adapts_too(fast: Any) -> None:
    model = autotransfer.fit(HERE, unlabeled=THERE[0], trials=1, strategies=["core/adabn"], refit=True, **fast)
    assert model.predict(THERE[0]).shape == (80,)


def test_a_ray_worker_sees_the_same_rows(fast: Any, local_ray: Any) -> None:
    told = []
    for executor in ("serial", "ray"):
        arguments = {**fast, "executor": executor, "max_workers": 1}
        model = autotransfer.fit(HERE, unlabeled=THERE[0], trials=3, strategies=ADAPTING[:3], **arguments)
        told.append([(t.recipe.strategy, t.objective, t.scores) for t in model.run.trials])
    assert told[0] == told[1]


def test_the_estimator_takes_them(fast: Any) -> None:
    found = TransferClassifier(trials=1, strategies=["core/coral"], **fast).fit(*HERE, unlabeled=THERE[0])
    assert found.model_.recipe.strategy == "core/coral"
    assert found.predict(THERE[0]).shape == (80,)


def test_a_plan_says_what_could_be_tried(fast: Any) -> None:
    plan = autotransfer.plan(HERE, unlabeled=THERE[0], **fast)
    assert any("the 80 unlabeled rows differ" in n and "core/mcc" in n for n in plan.notes)
    alone = autotransfer.plan(HERE, **fast)
    told = {r.name: r.reason for r in alone.refusals}
    assert {r for n, r in told.items() if n.startswith("core/mcc")} == {"no unlabeled rows were given to adapt to"}
    assert autotransfer.profile(HERE, unlabeled=THERE[0], plugins=fast["plugins"]).unlabeled.rows == 80


def test_strategies_that_have_nothing_to_adapt_to_are_an_error(fast: Any) -> None:
    with pytest.raises(ConfigError, match="core/coral, core/mcc, which adapt to unlabeled rows: give these as unlab"):
        autotransfer.fit(HERE, strategies=["core/mcc", "core/coral"], trials=1, **fast)


@pytest.mark.parametrize(
    ("unlabeled", "said"),
    [
        (["a text", "another text"], "unlabeled: .*images"),
        ([], "unlabeled: "),
        ("no/such/folder", "unlabeled: .*no/such/folder"),
    ],
)
def test_wrong_rows_are_said(fast: Any, unlabeled: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        autotransfer.fit(HERE, unlabeled=unlabeled, trials=1, **fast)


def call(arguments: list[str]) -> int:
    """Return the exit code of the command line."""
    with pytest.raises(SystemExit) as left:
        raise SystemExit(main(arguments))
    return int(left.value.code or 0)


def test_the_command_line(toynet: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, (images, labels) in {"here": HERE, "there": THERE}.items():
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = tmp_path / name / ("" if name == "there" else label) / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    common = ["--executor", "serial", "--backbones", "toynet/small", "--plugin", toynet, "--space", "{epochs: 2}"]
    run = tmp_path / "run"
    there = ["--unlabeled", str(tmp_path / "there"), "--trials", "2", "--out", str(run), "--json"]
    assert call(["fit", str(tmp_path / "here"), *common, *there]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["unlabeled"]["gap"]["accuracy"] > 0.6
    assert said["criterion"]
    assert call(["leaderboard", str(run), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["unlabeled"]["rows"] == 80
    assert "information" in said["rows"][0]
    assert call(["fit", str(tmp_path / "here"), *common, "--unlabeled", str(tmp_path / "none"), "--trials", "1"]) == 2
    assert "unlabeled: " in capsys.readouterr().err
