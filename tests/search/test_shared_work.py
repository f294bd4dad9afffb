"""Work that is shared: heads of one family, surveys of earlier runs, memory between whole fits."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotransfer import engine
from autotransfer.config import Settings
from autotransfer.model import TransferModel, load
from autotransfer.search import recall, trial
from autotransfer.search.candidates import FAMILY
from autotransfer.search.memory import Memory
from autotransfer.search.surrogate import Observation
from autotransfer.store import Store


def _fit(data: Any, toynet: str, **more: Any) -> TransferModel:
    given = {"backbones": ["toynet/small"], "plugins": [toynet], "executor": "serial", "trials": 4, **more}
    return engine.fit(Settings(data=data, **given))


@pytest.fixture
def weighed(toynet: str, tmp_path: Path) -> str:
    """The tiny backbone with a file of weights, so that its survey can be found again."""
    import torch

    text = Path(toynet).read_text()
    assert "factory=" in text
    weights = tmp_path / "weights.pt"
    torch.save({}, weights)
    plugin = tmp_path / "toynet.py"
    source = f'weights=WeightSource(where="file", name={str(weights)!r}), factory='
    plugin.write_text(
        text.replace("factory=", source).replace("import BackboneSpec", "import WeightSource, BackboneSpec")
    )
    return str(plugin)


def test_heads_of_a_family_are_one_trial_whose_model_predicts_as_it_was_scored(
    stripes: Any, toynet: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AUTOTRANSFER_DISABLE", "baselines")
    model = _fit(stripes, toynet, strategies=["core/probe"], trials=1, out=tmp_path / "run")
    (trial,) = [t for t in model.run.trials if t.id.startswith("t")]
    assert any(f"best of {FAMILY} heads" in n for n in trial.notes)
    assert trial.recipe.values["lr"] > 0
    assert model.recipe == trial.recipe
    again = load(tmp_path / "run", plugins=[toynet])
    np.testing.assert_array_equal(again.predict_proba(stripes[0][:9]), model.predict_proba(stripes[0][:9]))
    assert trial.objective == pytest.approx(trial.scores["multiclass"]["accuracy"])


def test_heads_of_a_family_stop_at_the_deadline_and_are_as_good_as_they_were(
    stripes: Any, toynet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTRANSFER_DISABLE", "baselines")
    monkeypatch.setattr("autotransfer.search.policy.Search.end", lambda self, id: 0.0)  # it is over before it begins
    model = _fit(stripes, toynet, strategies=["core/probe"], trials=1)
    (trial,) = [t for t in model.run.trials if t.id.startswith("t")]
    assert (trial.status, trial.reason) == ("stopped", "the budget ended")
    assert any(f"best of {FAMILY} heads" in n for n in trial.notes)
    assert 0.0 < trial.epochs <= 1.0
    assert trial.objective == pytest.approx(trial.scores["multiclass"]["accuracy"])


def test_a_second_run_reads_no_row_again_and_finds_the_same(
    stripes: Any, weighed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AUTOTRANSFER_HOME", str(tmp_path / "home"))
    first = _fit(stripes, weighed)
    kept: list[str] = []
    monkeypatch.setattr(recall, "keep_survey", lambda *a: kept.append("again"))
    monkeypatch.setattr("autotransfer.search.trial.open_backbone", lambda *a: pytest.fail("it was surveyed again"))
    monkeypatch.setenv("AUTOTRANSFER_DISABLE", "baselines")
    second = _fit(stripes, weighed)
    own = [r for r in first.run.survey if r.backbone == "toynet/small"]
    assert [replace(r, seconds=0.0, cpu_seconds=0.0) for r in (*second.run.survey, *own)] == 2 * [
        replace(own[0], seconds=0.0, cpu_seconds=0.0)
    ]


def test_a_damaged_survey_is_made_again(
    stripes: Any, weighed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AUTOTRANSFER_HOME", str(tmp_path / "home"))
    first = _fit(stripes, weighed)
    for file in (tmp_path / "home" / "store").glob("*/arrays.bin"):
        body = bytearray(file.read_bytes())
        body[len(body) // 2] ^= 1
        file.write_bytes(body)
    second = _fit(stripes, weighed)
    assert [t.objective for t in second.run.trials] == [t.objective for t in first.run.trials]


def test_without_disk_nothing_is_kept_and_the_result_is_the_same(
    stripes: Any, weighed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AUTOTRANSFER_HOME", str(tmp_path / "home"))
    bare = _fit(stripes, weighed, resources={"disk_gb": 0})
    assert not (tmp_path / "home" / "store").exists()
    kept = _fit(stripes, weighed)
    assert Store(tmp_path / "home" / "store", 1 << 30).size() > 0
    assert [t.recipe for t in bare.run.trials] == [t.recipe for t in kept.run.trials]
    for a, b in zip(bare.run.trials, kept.run.trials, strict=True):
        for one, other in zip(a.curve, b.curve, strict=True):
            assert one.train_loss == pytest.approx(other.train_loss, rel=0.02)


def test_runs_with_trials_neither_remember_nor_recall_unless_told_to(
    stripes: Any, toynet: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AUTOTRANSFER_HOME", str(tmp_path / "home"))
    first = _fit(stripes, toynet)
    assert Memory().recall(first.run.profile) == []
    _fit(stripes, toynet, memory=True)
    assert Memory().recall(first.run.profile)
    again = _fit(stripes, toynet)
    assert [t.recipe for t in again.run.trials] == [t.recipe for t in first.run.trials]


@pytest.mark.parametrize("here", [True, False])
def test_what_earlier_runs_on_these_data_saw_fail_is_not_run_again(
    stripes: Any, toynet: str, monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    first = _fit(stripes, toynet, memory=False).run.trials
    moved = [r for r in first if "lr_ratio" in r.recipe.values]
    past = [Observation(r.recipe, -0.5 if r in moved else 0.3, 0.03, here=here) for r in first if r.id[0] == "t"]
    monkeypatch.setattr(Memory, "recall", lambda self, profile: past)
    run = _fit(stripes, toynet, memory=True).run
    again = [r for r in run.trials if r.recipe in [m.recipe for m in moved]]
    assert bool(again) is not here
    assert any("was not run: earlier runs on these data" in n for n in run.notes) is here


def test_the_best_of_an_earlier_run_on_these_data_is_tried_again(
    stripes: Any, toynet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    space: dict[str, Any] = {"lr_ratio": [0.03, 0.3, 0.5]}
    first = _fit(stripes, toynet, memory=False, trials=8, space=space).run.trials
    odd = next(r for r in first if r.recipe.values.get("lr_ratio", 0.3) != 0.3)
    monkeypatch.setattr(Memory, "recall", lambda self, profile: [Observation(odd.recipe, 0.9, 0.03, here=True)])
    again = _fit(stripes, toynet, memory=True, trials=8, space=space).run
    (same,) = [r for r in again.trials if r.recipe == odd.recipe]
    assert any("the best of earlier runs" in n for n in same.notes)
    other = _fit(stripes, toynet, memory=True, trials=8, space={**space, "lr_ratio": [0.7]}).run
    assert not any("the best of earlier runs" in n for r in other.trials for n in r.notes)


def test_edited_code_is_surveyed_again_though_its_version_stays(
    stripes: Any, weighed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AUTOTRANSFER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")
    package, opened, plain = tmp_path / "toynet", list[str](), trial.open_backbone
    package.mkdir()
    (package / "__init__.py").write_text(Path(weighed).read_text())
    (package / "layers.py").write_text("SLOPE = 0.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    Path(weighed).unlink()
    monkeypatch.setitem(sys.modules, "toynet", sys)  # so that it is taken out in the end
    del sys.modules["toynet"]
    module = importlib.import_module("toynet")
    monkeypatch.setattr(trial, "open_backbone", lambda spec, *more: opened.append(spec.id) or plain(spec, *more))

    def surveys() -> int:
        opened.clear()
        given = {"backbones": ["toynet/small"], "executor": "serial", "trials": 1, "space": {"epochs": 1}}
        engine.fit(Settings(data=stripes, plugins=[module], **given))
        return len(opened)

    assert [surveys(), surveys()] == [1, 0]
    code = recall.code_of("toynet:build")
    (package / "layers.py").write_text("SLOPE = 0.2\n")
    assert recall.code_of("toynet:build") == code  # what is in memory is as it was
    module = importlib.reload(module)
    assert recall.code_of("toynet:build") != code
    assert surveys() == 1


def test_code_without_source_has_no_hash() -> None:
    assert [recall.code_of(f) for f in ("no_such_module:build", "no.such.module:build", "math:build")] == ["", "", ""]


def test_where_trials_are_counted_an_earlier_survey_tells_no_more_than_is_asked(
    weighed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AUTOTRANSFER_HOME", str(tmp_path / "home"))
    rng = np.random.default_rng(0)
    labels = np.arange(1800) % 3
    rows = (rng.integers(0, 90, (1800, 16, 16, 3)) + 60 * labels[:, None, None, None]).astype(np.uint8), labels
    given: dict[str, Any] = {"backbones": ["toynet/small"], "executor": "serial", "trials": 1, "space": {"epochs": 1}}

    def surveys(out: str, **more: Any) -> list[tuple[int, str]]:
        engine.fit(Settings(data=rows, plugins=[weighed], out=tmp_path / out, **given, **more))
        lines = [json.loads(line) for line in (tmp_path / out / "trials.jsonl").read_text().splitlines()]
        bodies = [one["record"] for one in lines if one["kind"] == "survey"]
        return [(b["rows"], b["status"]) for b in bodies if b["backbone"] == "toynet/small"]

    first = surveys("first")
    assert len(first) > 1
    assert surveys("second") == first
    opened, plain = list[str](), trial.open_backbone
    monkeypatch.setattr(trial, "open_backbone", lambda spec, *more: opened.append(spec.id) or plain(spec, *more))
    surveys("third", resources={"cpus": 2})
    assert "toynet/small" in opened  # what was measured with one thread does not hold for two
