"""A worker's passes: rows through the store, arithmetic as it was chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from autotransfer import engine
from autotransfer.config import Settings
from autotransfer.data.prepare import prepare
from autotransfer.registry import Registry
from autotransfer.schema import Recipe, SurveyRecord, TrialRecord
from autotransfer.search.jobs import Context, RungJob, SurveyJob
from autotransfer.search.survey import head_features, load_features
from autotransfer.search.trial import Worker
from autotransfer.train import autocast, precision
from autotransfer.train.depths import concatenated
from autotransfer.train.evaluate import EVALUATION_BATCH
from autotransfer.train.precision import Precision

PROBE = Recipe(backbone="toynet/small", strategy="core/probe", values={"lr": 0.01, "epochs": 3})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is chosen by kind; float32 until a test says otherwise."""
    told = {"frozen": "float32", "training": "float32"}

    def choose(backbone: Any, batch: Any, threads: int, kind: str, **more: Any) -> Precision:
        assert len(batch) == precision.ROWS
        told.setdefault(f"asked {kind}", "yes")
        return Precision(dtype=told[kind])

    monkeypatch.setattr(precision, "choose", choose)
    monkeypatch.setattr(autocast, "has_bfloat16", lambda device: True)
    return told


def survey(stripes: Any, toynet: str, work: Path, store: str = "", **job: Any) -> tuple[SurveyRecord, Any]:
    registry = Registry.discover([toynet])
    work.mkdir()
    specs = {s.id: s for s in registry.match(["toynet/small"], "image")}
    context = Context(
        prepared=prepare(stripes, seed=0),
        manifest=registry.manifest(),
        specs=specs,
        weights={},
        work=str(work),
        store=store,
        store_bytes=10**8,
    )
    record = Worker(context, registry).run(SurveyJob(backbone="toynet/small", rows=10_000, **job))
    assert isinstance(record, SurveyRecord)
    assert record.status == "done", record.reason
    return record, load_features(work / record.features)


def test_the_store_changes_no_feature(stripes: Any, toynet: str, tmp_path: Path, asked: dict[str, str]) -> None:
    plain, without = survey(stripes, toynet, tmp_path / "a")
    kept, through = survey(stripes, toynet, tmp_path / "b", store=str(tmp_path / "store"))
    assert list((tmp_path / "store").glob("*/arrays.bin"))
    assert without.keys() == through.keys()
    assert all(torch.equal(without[n], through[n]) for n in without)
    assert kept.score == plain.score


def test_depths_are_joined_a_few_rows_at_a_time(
    stripes: Any, toynet: str, tmp_path: Path, asked: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record, parts = survey(stripes, toynet, tmp_path / "work")
    joined: list[int] = []

    def noted(pools: Any) -> torch.Tensor:
        joined.append(len(pools[0]))
        return concatenated(pools)

    monkeypatch.setattr("autotransfer.search.survey.concatenated", noted)
    monkeypatch.setattr("autotransfer.search.survey.LAST_ROWS", 7)
    found = head_features(tmp_path / "work" / record.features, depths=True)
    assert found is not None
    for split, tensor in zip(("train", "validation"), found, strict=True):
        pools = [parts[f"{split}/{depth}"] for depth in range(len(record.cuts))]
        assert torch.equal(tensor, concatenated(pools))
    assert max(joined) == 7


def test_the_survey_runs_and_records_what_was_chosen(
    stripes: Any, toynet: str, tmp_path: Path, asked: dict[str, str]
) -> None:
    full, exactly = survey(stripes, toynet, tmp_path / "a")
    asked |= {"frozen": "bfloat16"}
    half, about = survey(stripes, toynet, tmp_path / "b")
    assert (full.dtype, half.dtype) == ("float32", "bfloat16")
    assert "asked training" not in asked  # that is asked where a training begins
    last = max(n for n in exactly if n.startswith("train/"))
    assert not torch.equal(exactly[last], about[last])
    assert torch.allclose(exactly[last].float(), about[last].float(), rtol=0.05, atol=0.05)


def test_a_survey_cut_short_is_taken_up_where_it_was_and_heads_are_judged_on_all_rows(
    stripes: Any, toynet: str, tmp_path: Path, asked: dict[str, str]
) -> None:
    images, labels = stripes
    prepared = prepare((images[:90], labels[:90]), validation=(images[90:], labels[90:]), seed=0)
    registry, rows = Registry.discover([toynet]), prepared.profile.train
    specs = {s.id: s for s in registry.match(["toynet/small"], "image")}

    def run(work: str, **more: Any) -> tuple[SurveyRecord, TrialRecord, int]:
        read: list[int] = []
        context = Context(prepared, registry.manifest(), specs, {}, str(tmp_path / work))
        (tmp_path / work).mkdir(exist_ok=True)
        worker = Worker(context, registry, tick=lambda: read.append(1))
        record = worker.run(SurveyJob(backbone="toynet/small", rows=rows, **more))
        passes = len(read)
        trial = worker.run(RungJob(id=f"t{passes:03d}", recipe=PROBE, survey=getattr(record, "features", "")))
        assert isinstance(record, SurveyRecord)
        assert isinstance(trial, TrialRecord)
        assert trial.status == "done", trial.reason
        return record, trial, passes

    whole, wanted, all_passes = run("whole")
    cut, _, _ = run("parts", deadline=0.0)
    assert (cut.status, cut.rows) == ("partial", EVALUATION_BATCH)
    unscored, _, _ = run("parts", last=False)
    assert (unscored.status, unscored.rows) == ("partial", rows)
    stopped, before, _ = run("parts", deadline=0.0)
    assert (stopped.status, stopped.rows) == ("partial", rows)
    assert stopped.notes[-1] == f"its time was over after {EVALUATION_BATCH} of 60 validation rows"
    assert head_features(tmp_path / "parts" / stopped.features) is None
    done, after, passes = run("parts")
    assert done.status == whole.status == "done"
    assert passes < all_passes  # the training rows are not read again
    assert not any("its time was over" in n for n in done.notes)
    found, features = (load_features(tmp_path / n / r.features) for n, r in (("parts", done), ("whole", whole)))
    assert found.keys() == features.keys()
    assert all(torch.equal(found[n], features[n]) for n in found)
    assert wanted.scores == after.scores
    # What is missing is read by the training itself; the survey's features are rounded.
    assert before.scores["multiclass"] == pytest.approx(after.scores["multiclass"], rel=1e-3)


def test_trainings_run_in_what_was_measured_for_them_and_heads_in_what_the_survey_used(
    stripes: Any, toynet: str, asked: dict[str, str]
) -> None:
    asked |= {"training": "bfloat16"}
    settings = Settings(data=stripes, plugins=[toynet], backbones=["toynet/*"], executor="serial", trials=3)
    run = engine.fit(settings).run
    found = {(bool(r.recipe.strategy in ("core/full", "core/partial")), r.recipe.dtype) for r in run.trials}
    assert found == {(True, "bfloat16"), (False, "float32")}
    assert {c.recipe.dtype for c in engine.plan(settings).candidates} == {"measured"}
