"""Whole fits, in this process, on a tiny backbone: what is promised of every run."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotransfer import engine
from autotransfer.config import Settings
from autotransfer.errors import ConfigError, NoTrialSucceededError, NoWorkerError, UnknownNameError
from autotransfer.model import TransferModel, load
from autotransfer.schema import TrialRecord

TWENTY_LINES = """
import torch
from torch import nn

from autotransfer.plugin import BackboneSpec, ImageInput, hookimpl


def build(weights):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Conv2d(3, 12, 5, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten())


@hookimpl
def autotransfer_backbones():
    return [BackboneSpec(id="mine/conv", factory=build, input=ImageInput(size=16, crop=1.0))]
"""

UNTRAINABLE = """
import torch
from torch import nn

from autotransfer.plugin import BackboneSpec, ImageInput, hookimpl


class Once(nn.Module):
    def forward(self, x):
        if x.requires_grad:
            x.register_hook(self.refuse)
        return x

    def refuse(self, gradient):
        raise RuntimeError("no gradient passes here")


def build(weights):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Conv2d(3, 12, 5, 3), Once(), nn.AdaptiveMaxPool2d(1), nn.Flatten())


@hookimpl
def autotransfer_backbones():
    return [BackboneSpec(id="mine/once", factory=build, input=ImageInput(size=16, crop=1.0))]
"""


def _fit(data: Any, toynet: str, notify: Any = engine.silent, **more: Any) -> TransferModel:
    given = {
        "backbones": ["toynet/small"],
        "plugins": [toynet],
        "executor": "serial",
        "trials": 3,
        "space": {"epochs": 3},
        **more,
    }
    return engine.fit(Settings(data=data, **given), notify)


@pytest.fixture(scope="module")
def finished(stripes: Any, toynet: str, tmp_path_factory: pytest.TempPathFactory) -> TransferModel:
    out = tmp_path_factory.mktemp("runs") / "stripes"
    return _fit(stripes, toynet, out=out)


def test_a_run_leaves_what_design_promises(finished: TransferModel) -> None:
    assert finished.path is not None
    run = finished.path.parent
    assert {p.name for p in run.iterdir()} >= {
        "run.yaml",
        "profile.json",
        "plan.json",
        "plugins.json",
        "trials.jsonl",
        "model",
    }
    assert not (run / ".work").exists()
    assert not list(run.rglob("*.pkl"))
    assert finished.run.test is not None
    assert finished.run.baseline is not None
    assert finished.run.test.rows == finished.run.profile.test


def test_the_default_recipe_is_always_tried_and_never_beaten_by_the_pick(finished: TransferModel) -> None:
    trials = {r.recipe.strategy: r for r in finished.run.trials}
    assert trials["core/full"].recipe.values["layer_decay"] == 0.75
    best = max(r.objective for r in finished.run.trials if r.objective is not None)
    winner = next(r for r in finished.run.trials if r.id == finished.run.winner)
    assert winner.objective == best


def test_the_same_call_again_returns_the_finished_model(finished: TransferModel, stripes: Any, toynet: str) -> None:
    assert finished.path is not None
    told: list[str] = []
    again = _fit(stripes, toynet, lambda event, **_: told.append(event), out=finished.path.parent)
    assert "trial" not in told
    assert not (finished.path.parent / ".work").exists()
    assert again.run == finished.run
    np.testing.assert_array_equal(again.predict_proba(stripes[0][:5]), finished.predict_proba(stripes[0][:5]))


def test_another_run_in_the_same_folder_is_refused(finished: TransferModel, stripes: Any, toynet: str) -> None:
    assert finished.path is not None
    with pytest.raises(ConfigError, match="holds another run"):
        _fit(stripes, toynet, out=finished.path.parent, seed=9)


def test_a_folder_of_something_else_is_refused(stripes: Any, toynet: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="no run folder"):
        _fit(stripes, toynet, out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_same_seed_gives_the_same_result_and_another_one_another(stripes: Any, toynet: str) -> None:
    one, two, other = (_fit(stripes, toynet, seed=s, trials=2) for s in (3, 3, 4))
    assert [r.recipe for r in one.run.trials] == [r.recipe for r in two.run.trials]
    assert [r.objective for r in one.run.trials] == [r.objective for r in two.run.trials]
    assert one.run.profile.fingerprint != other.run.profile.fingerprint


def test_an_interrupt_keeps_the_best_so_far_and_the_run_goes_on(stripes: Any, toynet: str, tmp_path: Path) -> None:
    seen: list[TrialRecord] = []

    def interrupt(event: str, **facts: Any) -> None:
        if event == "trial":
            seen.append(facts["record"])
            if len(seen) == 4:
                raise KeyboardInterrupt

    out = tmp_path / "run"
    model = _fit(stripes, toynet, interrupt, out=out)
    assert model.run.status == "interrupted"
    assert (out / "model" / "weights.safetensors").exists()
    assert "stopped early: it was interrupted" in (out / "report.html").read_text(encoding="utf-8")
    assert (out / ".work").exists()
    told: list[str] = []
    whole = _fit(stripes, toynet, lambda event, **f: told.append(event), out=out)
    assert whole.run.status == "complete"
    assert told.count("running") < len((out / "trials.jsonl").read_text().splitlines())
    reference = _fit(stripes, toynet)
    assert [r.objective for r in whole.run.trials] == [r.objective for r in reference.run.trials]


@pytest.mark.parametrize("after", [1, 4])
def test_where_no_worker_comes_free_any_more_the_best_so_far_is_kept(stripes: Any, toynet: str, after: int) -> None:
    heard: list[str] = []

    def gone(event: str, **facts: Any) -> None:
        heard.append(event)
        if event == "trial" and heard.count("trial") == after:
            raise NoWorkerError("the budget ended after 20 s for a worker to start")
        if event == "running" and after == 1:
            raise NoWorkerError("the budget ended after 20 s for a worker to start")

    if after == 1:
        with pytest.raises(NoWorkerError):
            _fit(stripes, toynet, gone)
        return
    model = _fit(stripes, toynet, gone)
    assert model.run.status == "budget"
    assert any("the best so far was kept: the budget ended after 20 s" in n for n in model.run.notes)


def test_an_interrupted_survey_gives_a_head_on_what_was_surveyed(stripes: Any, toynet: str, tmp_path: Path) -> None:
    def interrupt(event: str, **facts: Any) -> None:
        if event == "survey" and facts["record"].score is not None:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    model = _fit(stripes, toynet, interrupt, out=out)
    assert model.run.status == "interrupted"
    (only,) = model.run.trials
    assert (only.status, only.id[0]) == ("done", "r")
    assert any("stopped during the survey" in n for n in only.notes)
    assert len(model.predict(stripes[0])) == len(stripes[0])
    assert _fit(stripes, toynet, out=out).run.status == "complete"


def test_an_interrupt_before_anything_was_surveyed_is_told_as_it_came(stripes: Any, toynet: str) -> None:
    def interrupt(event: str, **facts: Any) -> None:
        if event == "running":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _fit(stripes, toynet, interrupt)


@pytest.mark.parametrize("closed", [(), ("core/ridge", "core/knn")])
def test_heads_of_a_small_space_are_each_tried_once(stripes: Any, toynet: str, closed: tuple[str, ...]) -> None:
    rates = [1e-4, 3e-4, 1e-3, 3e-3]
    model = _fit(stripes, toynet, trials=12, strategies=["core/probe", *closed], space={"lr": rates, "epochs": 1})
    heads = [r for r in model.run.trials if r.recipe.strategy == "core/probe"]
    assert {r.recipe.values["lr"] for r in heads} <= set(rates)
    assert len({r.recipe.key for r in heads}) == len(heads) > 1


def test_a_larger_budget_goes_on(stripes: Any, toynet: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert len(_fit(stripes, toynet, out=out, trials=2).run.trials) == 4
    assert len(_fit(stripes, toynet, out=out, trials=3).run.trials) == 5


def test_resume_takes_the_arguments_from_the_folder(stripes: Any, toynet: str, tmp_path: Path) -> None:
    from PIL import Image

    for i, (image, label) in enumerate(zip(*stripes, strict=True)):
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "data" / label / f"{i}.png")
    out = tmp_path / "run"
    first = _fit(str(tmp_path / "data"), toynet, out=out, trials=2)
    assert engine.resume(out, trials=3).run.profile == first.run.profile
    with pytest.raises(ConfigError, match="no run folder"):
        engine.resume(tmp_path / "data")


def test_refit_trains_on_validation_rows_too(stripes: Any, toynet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTRANSFER_DISABLE", "baselines")
    plain = _fit(stripes, toynet, trials=1, strategies=["core/full"])
    again = _fit(stripes, toynet, trials=1, strategies=["core/full"], refit=True)
    assert plain.recipe.strategy == again.recipe.strategy == "core/full"
    assert not np.array_equal(plain.predict_proba(stripes[0][:3]), again.predict_proba(stripes[0][:3]))


def test_a_refit_says_what_it_leaves_out(stripes: Any, toynet: str) -> None:
    model = _fit(stripes, toynet, refit=True)
    assert any("trained again on training and validation rows together" in n for n in model.run.notes)
    assert "what needs validation rows" in model.report()
    assert not any("trained again" in n for n in _fit(stripes, toynet).run.notes)


def test_a_file_of_twenty_lines_is_a_plugin(stripes: Any, toynet: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TWENTY_LINES)
    model = _fit(stripes, toynet, plugins=[str(tmp_path / "mine.py")], backbones=["mine/*"])
    board = model.leaderboard()
    assert "mine/conv" in set(board.backbone)
    assert any("no weights are declared" in n for s in model.run.survey for n in s.notes if s.backbone == "mine/conv")


def test_broken_plugins_are_named_and_the_fit_goes_on(stripes: Any, toynet: str, tmp_path: Path) -> None:
    hook = "from autotransfer.plugin import hookimpl\n\n@hookimpl\n"
    broken = {
        "dies": "raise ImportError('libfoo is missing')\n",
        "raising": f"{hook}def autotransfer_backbones():\n    1 / 0\n",
        "misspelt": f"{hook}def autotransfer_backbone():\n    return []\n",
    }
    files = []
    for name, text in broken.items():
        (tmp_path / f"{name}.py").write_text(text)
        files.append(str(tmp_path / f"{name}.py"))
    model = _fit(stripes, toynet, plugins=[toynet, *files], trials=1)
    told = {r.name: r.reason for r in model.run.plan.refusals}
    assert "libfoo is missing" in told["dies"]
    assert "ZeroDivisionError" in told["raising"]
    assert "autotransfer_backbones" in told["misspelt"]
    assert set(broken) <= set(model.leaderboard().backbone)


def test_a_search_without_a_usable_backbone_says_why(stripes: Any, toynet: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean toynet/small"):
        _fit(stripes, toynet, backbones=["toynet/smal"])
    faulty = toynet.replace("toynet.py", "faulty.py")
    only = {"plugins": [faulty], "backbones": ["faulty/nan"], "strategies": ["core/probe"], "trials": 1}
    model = _fit(stripes, toynet, **only)
    assert model.recipe.backbone.startswith("baselines/")
    assert "not finite" in model.report()


def test_offline_without_weights_is_an_error_that_names_each(
    stripes: Any, toynet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTRANSFER_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="offline") as caught:
        _fit(stripes, toynet, backbones=["packs/*"], offline=True)
    assert "packs/efficientnet-lite0" in str(caught.value)
    assert "weights fetch" in str(caught.value)


def test_a_class_that_no_validation_row_has_has_no_say_in_the_auc(stripes: Any, toynet: str) -> None:
    images, labels = stripes
    rare = np.where(np.arange(len(labels)) < 2, "rare", labels)
    model = _fit((images, rare), toynet, metric="roc_auc", trials=5)
    assert any("no say in the validation score: rare" in i.text for i in model.run.profile.issues)
    assert all(r.status != "failed" and 0 <= r.objective <= 1 for r in model.run.trials)


def test_a_trial_without_a_finite_objective_has_failed(
    stripes: Any, toynet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    preparing = importlib.import_module("autotransfer.data.prepare")  # of which the package keeps a function
    images, labels = stripes
    held = (images[labels == "row"][:9], labels[labels == "row"][:9])
    monkeypatch.setattr(preparing, "decidable", lambda task, targets: None)  # as if it had not been seen before
    with pytest.raises(NoTrialSucceededError, match="what decides has no value") as caught:
        _fit((images, labels), toynet, validation=held, metric="roc_auc", trials=5)
    assert str(caught.value).count("objective is -inf") >= 5


def test_every_trial_failing_is_an_error_with_the_reasons(
    stripes: Any, toynet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTRANSFER_DISABLE", "baselines")
    faulty = toynet.replace("toynet.py", "faulty.py")
    with pytest.raises(NoTrialSucceededError, match="licence server"):
        _fit(stripes, toynet, plugins=[faulty], backbones=["faulty/raises"])


def test_where_each_of_the_trials_failed_there_is_a_head_a_baseline_or_an_error(
    stripes: Any, toynet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(UNTRAINABLE)
    only: dict[str, Any] = {"plugins": [str(tmp_path / "mine.py")], "backbones": ["mine/once"], "trials": 1}
    baseline = _fit(stripes, toynet, strategies=["core/full"], **only)
    assert baseline.recipe.backbone.startswith("baselines/")
    monkeypatch.setenv("AUTOTRANSFER_DISABLE", "baselines")
    model = _fit(stripes, toynet, strategies=["core/full", "core/probe"], **only)
    failed, head = (r for r in model.run.trials if r.id.startswith("t"))
    assert (failed.status, failed.recipe.strategy) == ("failed", "core/full")
    assert "no gradient passes here" in failed.reason
    assert (model.run.winner, model.run.status, head.recipe.strategy) == (head.id, "complete", "core/probe")
    assert any("beyond the number of trials" in n for n in head.notes)
    assert not any("rows" in n for n in head.notes)  # it saw all of them
    with pytest.raises(NoTrialSucceededError, match="no gradient passes here"):
        _fit(stripes, toynet, strategies=["core/full"], **only)


@pytest.mark.parametrize("kind", ["regression", "multilabel", "binary"])
def test_other_tasks_end_with_a_score(stripes: Any, toynet: str, kind: str) -> None:
    images, labels = stripes
    y: Any = {
        "regression": images.mean((1, 2, 3)).astype(float) + 0.5,
        "multilabel": np.stack([labels == "row", labels != "none"], 1).astype(int),
        "binary": labels == "none",
    }[kind]
    model = _fit((images, y), toynet, trials=2, task=kind)
    assert model.run.profile.task == kind
    assert model.run.test is not None
    assert np.isfinite(model.run.test.value)
    assert len(model.predict(images[:4])) == 4


def test_a_few_seconds_give_a_model_too(stripes: Any, toynet: str) -> None:
    model = _fit(stripes, toynet, trials=None, budget=6)
    assert {r.recipe.strategy for r in model.run.trials} <= {
        "core/probe",
        "core/ridge",
        "core/depths",
        "core/knn",
        "baselines/logistic",
    }
    assert any("only heads" in r.reason for r in model.run.plan.refusals)


def test_a_plan_trains_nothing(stripes: Any, toynet: str, tmp_path: Path) -> None:
    plan = engine.plan(Settings(data=stripes, plugins=[toynet], backbones=["toynet/*"], out=tmp_path / "run"))
    assert set(plan.backbones) >= {"toynet/small", "toynet/wide"}
    assert plan.candidates[2].reason == "default recipe"
    assert not (tmp_path / "run").exists()


def test_a_name_in_the_space_that_nothing_knows_is_refused_before_training(stripes: Any, toynet: str) -> None:
    with pytest.raises(ConfigError, match="did you mean 'lr_ratio'|did you mean lr_ratio"):
        _fit(stripes, toynet, space={"lr_ration": [0.1]})


def test_the_ledger_holds_one_line_a_job(finished: TransferModel) -> None:
    assert finished.path is not None
    lines = [json.loads(x) for x in (finished.path.parent / "trials.jsonl").read_text().splitlines()]
    assert {x["kind"] for x in lines} == {"survey", "trial"}
    assert len({x["job"] for x in lines}) == len(lines)


def test_a_model_loads_with_its_plugin_file(finished: TransferModel, stripes: Any, toynet: str) -> None:
    assert finished.path is not None
    again = load(finished.path, plugins=[toynet])
    np.testing.assert_array_equal(again.predict_proba(stripes[0][:7]), finished.predict_proba(stripes[0][:7]))
