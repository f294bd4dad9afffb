"""Several targets through the public face: fit, predict, score, save, load, report, the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import autotransfer
from autotransfer import engine
from autotransfer.cli import main
from autotransfer.codec import to_json
from autotransfer.config import Settings, read_yaml
from autotransfer.errors import ConfigError, DataError
from autotransfer.model import TransferModel
from autotransfer.schema import RunRecord

ONLY_CORE = "core=autotransfer_strategies"


@pytest.fixture(scope="module")
def table(stripes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with the direction of their stripe, missing in a seventh, and their brightness, missing in a fifth."""
    root, rng = tmp_path_factory.mktemp("several"), np.random.default_rng(0)
    rows = []
    for i, (image, label) in enumerate(zip(*stripes, strict=True)):
        bright = int(rng.integers(0, 80))
        Image.fromarray((image // 2 + bright).astype(np.uint8)).save(root / f"{i}.png")
        known = (label if i % 7 else None, bright + 0.5 if i % 5 else None)
        rows.append({"image": f"{i}.png", "stripe": known[0], "bright": known[1]})
    pd.DataFrame(rows).to_csv(root / "table.csv", index=False)
    return root / "table.csv"


def fitted(table: Path, toynet: str, out: Path | None = None, **more: Any) -> TransferModel:
    given: dict[str, Any] = {
        "target": ["stripe", "bright"],
        "trials": 4,
        "space": {"epochs": 4},
        "strategies": "core/*",
    }
    given |= {"executor": "serial", "plugins": [toynet], "backbones": "toynet/small", **more}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOTRANSFER_PLUGINS", ONLY_CORE)
        return engine.fit(Settings(data=str(table), out=out, **given))


@pytest.fixture(scope="module")
def finished(table: Path, toynet: str, tmp_path_factory: pytest.TempPathFactory) -> TransferModel:
    strategies = ["core/full", "core/partial"]  # a winner that shares something
    return fitted(table, toynet, tmp_path_factory.mktemp("run") / "out", strategies=strategies)


def pictures(table: Path, *numbers: int) -> list[str]:
    return [str(table.parent / f"{i}.png") for i in numbers]


def test_predictions_are_a_frame_with_a_column_for_each_target(finished: TransferModel, table: Path) -> None:
    found = finished.predict(pictures(table, 1, 2, 3))
    assert isinstance(found, pd.DataFrame)
    assert list(found.columns) == ["stripe", "bright"]
    assert found["bright"].dtype == np.float64
    assert set(found["stripe"]) <= {"row", "column", "none"}
    one = finished.predict(pictures(table, 2)[0])
    assert one["stripe"] == found["stripe"][1]
    assert one["bright"] == pytest.approx(found["bright"][1], rel=1e-4)
    chances = finished.predict_proba(pictures(table, 1, 2, 3))
    assert {n: c.shape for n, c in chances.items()} == {"stripe": (3, 3)}
    assert finished.classes == {"stripe": ("column", "none", "row"), "bright": ()}
    assert finished.predict_proba(pictures(table, 2)[0])["stripe"] == pytest.approx(chances["stripe"][1], rel=1e-4)
    assert len(finished.predict([])) == 0


def test_scores_are_told_for_each_target(finished: TransferModel, table: Path) -> None:
    run = finished.run
    assert run.profile.task == "multi-task"
    assert run.test is not None
    assert run.test.metric == "skill"
    assert set(run.test.each) == set(run.test.scores) == {"stripe", "bright"}
    assert run.test.each["bright"].low <= run.test.each["bright"].value <= run.test.each["bright"].high
    assert run.test.each["stripe"].rows < run.test.rows == run.profile.test
    for trial in run.trials:
        if not trial.id.startswith("s"):
            assert set(trial.scores) == {"stripe", "bright"}
            assert trial.scores["bright"]["rmse"] > 0
    data = pd.read_csv(table).dropna(how="all", subset=["stripe", "bright"])
    data["image"] = [str(table.parent / name) for name in data["image"]]
    found = finished.score(data)
    assert set(found) == {"stripe", "bright"}
    known = data.dropna(subset="stripe")
    right = finished.predict(known["image"].tolist())["stripe"].to_numpy() == known["stripe"].to_numpy()
    assert found["stripe"]["accuracy"] == pytest.approx(right.mean())
    renamed = data.rename(columns={"stripe": "a", "bright": "b"})
    assert finished.score(renamed, target=["a", "b"]) == found
    with pytest.raises(DataError, match="the model answers stripe, bright: name as many"):
        finished.score(data, target="stripe")
    with pytest.raises(DataError, match="5 of 150 rows have no label"):
        finished.score(table)


def test_a_saved_model_answers_the_same(finished: TransferModel, table: Path, toynet: str, tmp_path: Path) -> None:
    finished.save(tmp_path / "model")
    body = json.loads((tmp_path / "model" / "labels.json").read_text())
    assert [t["target"] for t in body["targets"]] == ["stripe", "bright"]
    again = autotransfer.load(tmp_path / "model", plugins=[toynet])
    assert again.predict(pictures(table, 1, 2)).equals(finished.predict(pictures(table, 1, 2)))
    assert to_json(again.run) == to_json(finished.run)
    assert (
        "stripe: one of the classes column, none, row; bright: a number" in (tmp_path / "model/README.md").read_text()
    )


def test_the_winner_is_compared_with_a_model_for_each_target(finished: TransferModel) -> None:
    run: RunRecord = finished.run
    single = [t for t in run.trials if t.id.startswith("s")]
    winner = next(t for t in run.trials if t.id == run.winner)
    assert [t.recipe.values["only_target"] for t in single] == ["stripe", "bright"]
    for trial, own in zip(single, run.sharing, strict=True):
        told = dict(trial.recipe.values)
        assert told.pop("only_target") == own.target
        assert told == {n: v for n, v in winner.recipe.values.items() if n not in ("task_weights", "combine")}
        assert trial.recipe.training == winner.recipe.training
        assert trial.epochs == winner.epochs
        assert set(trial.scores) == {own.target}
        assert own.alone == trial.scores[own.target][own.metric]
        assert own.together == winner.scores[own.target][own.metric]
        assert own.frozen is not None
        assert own.gain is not None
    assert winner.objective == pytest.approx(
        sum(t.objective or 0.0 for t in single) / 2 + sum(s.gain or 0.0 for s in run.sharing) / 2
    )
    assert not run.winner.startswith("s")
    text = finished.report()
    assert "sharing  stripe: accuracy" in text
    assert "One model for all targets" in text
    board = finished.leaderboard()
    assert {"stripe accuracy", "bright rmse"} <= set(board.columns)
    assert board["trial"].tolist()[-2:] == [t.id for t in sorted(single, key=lambda t: -(t.objective or 0.0))]
    assert board["reason"].str.contains("alone, to compare").sum() == 2


def test_the_same_seed_gives_the_same_search(finished: TransferModel, table: Path, toynet: str) -> None:
    again = fitted(table, toynet, strategies=["core/full", "core/partial"])
    assert [t.objective for t in again.run.trials] == [t.objective for t in finished.run.trials]
    assert again.run.sharing == finished.run.sharing


def test_weights_of_the_losses_are_searched_where_the_backbone_moves(table: Path, toynet: str) -> None:
    space = {"epochs": 3, "combine": "pcgrad"}
    found = fitted(table, toynet, trials=7, space=space).run.trials
    still = ("core/probe", "core/ridge", "core/depths")
    moving = [t for t in found if t.recipe.strategy not in still and "only_target" not in t.recipe.values]
    assert {t.recipe.values["combine"] for t in moving} == {"pcgrad"}
    assert {t.recipe.values["task_weights"] for t in moving} <= {"equal", "uncertainty"}
    assert moving[0].recipe.values["task_weights"] == "equal"
    heads = [t for t in found if t not in moving]
    assert heads
    assert not any({"combine", "task_weights"} & t.recipe.values.keys() for t in heads)


def test_a_strategy_for_one_target_says_so_and_the_page_has_a_part_for_each(
    table: Path, toynet: str, tmp_path: Path
) -> None:
    model = fitted(table, toynet, tmp_path / "run", strategies=["core/knn", "core/full"], trials=2)
    told = "core/knn on toynet/small: skipped: it remembers rows with their labels, for one target; here are 2"
    assert told in model.report()
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert told in text
    kind, number = text.split("stripe, on the held-out rows")[1].split("bright, on the held-out rows")
    assert "Confusion matrix" in kind
    assert "stripe: Highest loss" in kind
    assert kind.count("<img src") == 24
    assert "Predicted against actual" in number
    assert "bright rmse</th>" in text
    assert "<dt>sharing</dt>" in text


@pytest.mark.parametrize("name", ["lpft", "gradual", "surgical", "norms", "l2sp", "bss", "averaged"])
def test_every_way_to_fine_tune_serves_several_targets(table: Path, toynet: str, name: str) -> None:
    space = {"epochs": 1, "task_weights": "uncertainty", "combine": "pcgrad"}
    model = fitted(table, toynet, strategies=[f"core/{name}"], trials=1, space=space)
    trial = next(t for t in model.run.trials if t.id == model.run.winner)
    assert set(trial.scores) == {"stripe", "bright"}
    assert any(n.startswith("weights of the losses, as learned: stripe ") for n in trial.notes)


def test_rows_are_mixed_for_several_targets_where_that_is_asked_for(table: Path, toynet: str) -> None:
    model = fitted(table, toynet, strategies=["core/full"], trials=1, space={"epochs": 2, "augment": "mixup"})
    assert {t.recipe.values["augment"] for t in model.run.trials} == {"mixup"}
    assert all(t.objective is not None for t in model.run.trials)
    assert "augmented rows (mixup)" in model.report()


def test_heads_in_closed_form_share_nothing_and_say_so(table: Path, toynet: str) -> None:
    model = fitted(table, toynet, strategies=["core/ridge"], trials=2)
    assert not [t for t in model.run.trials if t.id.startswith("s")]
    assert all(s.alone is None and s.frozen is not None for s in model.run.sharing)
    assert "each target's head is solved by itself, so alone each would be the same" in model.report()


def test_baselines_answer_several_targets(table: Path, toynet: str) -> None:
    settings = Settings(
        data=str(table),
        target=["stripe", "bright"],
        trials=1,
        strategies=["core/probe", "baselines/*"],
        backbones=["toynet/small", "baselines/*"],
        space={"epochs": 2},
        executor="serial",
        plugins=[toynet],
    )
    run = engine.fit(settings).run
    constant = next(t for t in run.trials if t.recipe.backbone == "baselines/majority")
    assert constant.objective == pytest.approx(0.0, abs=0.25)  # the constant predictor is where skill begins
    assert run.baseline is not None
    assert set(run.baseline.each) == {"stripe", "bright"}


LETTERS = """
import torch
from torch import nn
from autotransfer.plugin import BackboneSpec, TextInput, hookimpl


class Letters(nn.Module):
    def forward(self, texts):
        return torch.tensor([[t.count(chr(97 + i)) for i in range(26)] for t in texts], dtype=torch.float32)


def build(weights):
    return Letters()


@hookimpl
def autotransfer_backbones():
    return [BackboneSpec(id="letters/counts", modality="text", factory=build, input=TextInput())]
"""


def test_texts_and_their_fitted_baseline(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = {"good": ["fine", "great", "lovely"], "bad": ["poor", "awful", "dull"]}
    rows = []
    for i in range(90):
        kind = ["good", "bad"][i % 2]
        stars = (4 if kind == "good" else 1) + rng.normal() / 4
        text = " ".join([*rng.choice(words[kind], 3), *rng.choice(["film", "plot", "cast", "scene"], 4), str(i)])
        rows.append({"text": text, "kind": kind if i % 5 else None, "stars": stars if i % 4 else None})
    (tmp_path / "letters.py").write_text(LETTERS)
    settings = Settings(
        data=pd.DataFrame(rows),
        target=["kind", "stars"],
        trials=1,
        backbones=["letters/counts", "baselines/*"],
        strategies=["core/probe", "baselines/*"],
        space={"epochs": 1},
        executor="serial",
        plugins=[str(tmp_path / "letters.py")],
    )
    model = engine.fit(settings)
    tfidf = next(t for t in model.run.trials if "tf" in t.recipe.backbone)
    assert tfidf.objective is not None
    assert tfidf.objective > 0.4
    assert list(model.predict(["a lovely fine film", "an awful plot"]).columns) == ["kind", "stars"]


@pytest.fixture(scope="module")
def call() -> Any:
    """Run the command line in this process; give the exit code, the output and the errors."""

    def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as leave:
            code = leave.code
        told = capsys.readouterr()
        return int(code or 0), told.out, told.err

    return run


@pytest.mark.parametrize("flags", [["--target", "stripe", "--target", "bright"], ["--target", "stripe,bright"]])
def test_the_command_line_profiles_several_targets(
    call: Any, capsys: Any, table: Path, flags: list[str], toynet: str
) -> None:
    code, out, _ = call(capsys, "profile", table, *flags, "--task", "{bright: regression}", "--json")
    body = json.loads(out)
    assert code == 0
    assert [t["name"] for t in body["each"]] == body["targets"] == ["stripe", "bright"]
    code, out, _ = call(capsys, "profile", table, *flags, "--metric", "f1,mae")
    assert "2 targets (stripe: 3 classes, 1.0 : 1, f1; bright: a number, mae)" in " ".join(out.split()).replace(
        "1.1", "1.0"
    )


def test_the_command_line_fits_predicts_and_evaluates(
    call: Any, capsys: Any, table: Path, toynet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", ONLY_CORE)
    out = tmp_path / "run"
    fit = ["fit", table, "--target", "stripe,bright", "--trials", 1, "--executor", "serial", "--plugin", toynet]
    code, text, err = call(
        capsys, *fit, "--backbones", "toynet/small", "--space", "{epochs: 2}", "--out", out, "--json"
    )
    assert code == 0, err
    body = json.loads(text)
    assert (body["task"], body["metric"]) == ("multi-task", "skill")
    assert set(body["scores"]) == {"stripe", "bright"}
    assert [s["target"] for s in body["sharing"]] == ["stripe", "bright"]
    assert read_yaml(out / "run.yaml")["target"] == "stripe,bright"
    code, text, _ = call(capsys, "predict", out, *pictures(table, 1, 2), table.parent / "none.png", "--plugin", toynet)
    lines = [line.split("\t") for line in text.splitlines()]
    assert lines[0] == ["row", "stripe", "bright"]
    assert [len(line) for line in lines] == [3, 3, 3, 4]
    assert lines[1][1] in ("row", "column", "none")
    float(lines[1][2])
    assert lines[3][1:3] == ["-", "-"]
    code, text, _ = call(capsys, "predict", out, *pictures(table, 1), "--plugin", toynet, "--json")
    (row,) = json.loads(text)["predictions"]
    assert set(row["prediction"]) == {"stripe", "bright"}
    assert set(row["probability"]) == {"stripe"}
    code, text, _ = call(capsys, "evaluate", out, table, "--plugin", toynet)
    assert code == 0
    assert text.startswith("skill ")
    assert "bright  rmse" in text
    assert "left out: 0.png: it has no label" in text
    code, text, _ = call(capsys, "evaluate", out, table, "--target", "stripe,bright", "--plugin", toynet, "--json")
    body = json.loads(text)
    assert set(body["scores"]) == set(body["intervals"]) == {"stripe", "bright"}
    code, text, _ = call(capsys, "report", out)
    assert "sharing  " in text


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"target": ["a", "b", "a"]}, "target names 'a' 2 times; wanted it once"),
        ({"target": []}, r"target is \[\]; wanted the name of a column, or a list of names"),
        ({"target": ["a", 3]}, "wanted the name of a column, or a list of names"),
        ({"target": ["a", "b"], "task": {"a": "mult"}}, "no task is called 'mult'"),
        ({"target": ["a", "b"], "task": "multi-task"}, "it is what several targets make"),
        ({"target": ["a", "b"], "task": [3, "binary"]}, "task is .*; wanted a text, a list or a mapping by target"),
        ({"target": ["a", "b"], "metric": {"a": "accurcy"}}, "did you mean accuracy"),
    ],
)
def test_wrong_arguments(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Settings.of({"data": "x", **given})


def test_values_of_several_targets_are_refused_for_one(table: Path, toynet: str) -> None:
    with pytest.raises(ConfigError, match="names that nothing knows: 'task_weights'"):
        fitted(table, toynet, target="stripe", space={"task_weights": "uncertainty"})
    with pytest.raises(ConfigError, match="combine is .*; wanted some of: sum, pcgrad"):
        fitted(table, toynet, space={"combine": ["sum", "mean"]})


def test_a_list_of_one_target_is_that_target(table: Path, toynet: str) -> None:
    one, other = (fitted(table, toynet, target=t, trials=1, space={"epochs": 1}) for t in ("stripe", ["stripe"]))
    assert one.run.profile == other.run.profile
    assert one.run.trials[0].objective == other.run.trials[0].objective
    assert one.run.sharing == ()
    assert isinstance(one.predict(pictures(table, 1)), np.ndarray)
