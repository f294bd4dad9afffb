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
from autotransfer.schema import SurveyRecord
from autotransfer.search.jobs import Context, SurveyJob
from autotransfer.search.survey import load_features
from autotransfer.search.trial import Worker
from autotransfer.train import autocast, precision
from autotransfer.train.precision import Precision


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


def test_trainings_run_in_what_was_measured_for_them_and_heads_in_what_the_survey_used(
    stripes: Any, toynet: str, asked: dict[str, str]
) -> None:
    asked |= {"training": "bfloat16"}
    settings = Settings(data=stripes, plugins=[toynet], backbones=["toynet/*"], executor="serial", trials=3)
    run = engine.fit(settings).run
    found = {(bool(r.recipe.strategy in ("core/full", "core/partial")), r.recipe.dtype) for r in run.trials}
    assert found == {(True, "bfloat16"), (False, "float32")}
    assert {c.recipe.dtype for c in engine.plan(settings).candidates} == {"measured"}
