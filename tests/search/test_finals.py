"""The finalists: the leader's last rung with augmented rows, from the leader's own checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotransfer import engine
from autotransfer.config import Settings
from autotransfer.data.rows import augmentations
from autotransfer.errors import ConfigError
from autotransfer.model import TransferModel, load
from autotransfer.schema import TrialRecord
from autotransfer.search import finals, policy, surrogate
from autotransfer.search.finals import hoped
from autotransfer.search.ledger import read_ledger
from autotransfer.search.surrogate import improvement
from autotransfer.spec import ImageInput

ASKED = {"augment": ["none", "light"]}


@pytest.fixture(autouse=True)
def _no_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")


def _fit(data: Any, toynet: str, space: Any = ASKED, **more: Any) -> TransferModel:
    given = {"backbones": ["toynet/small"], "executor": "serial", "trials": 2, "strategies": ["core/full"], **more}
    space = {"epochs": 7, "lr": 5e-3, "lr_ratio": 1.0, **space}
    return engine.fit(Settings(data=data, plugins=[toynet], space=space, **given))


def _finalists(model: TransferModel) -> list[TrialRecord]:
    return [t for t in model.run.trials if t.id.startswith("f")]


def _of(model: TransferModel, id: str) -> TrialRecord:
    return next(t for t in model.run.trials if t.id == id)


@pytest.fixture(scope="module")
def finished(stripes: Any, toynet: str, tmp_path_factory: pytest.TempPathFactory) -> TransferModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")
        return _fit(stripes, toynet, out=tmp_path_factory.mktemp("finals") / "run")


def test_the_leader_has_one_rival_beside_the_trials_of_the_budget(finished: TransferModel) -> None:
    (rival,) = _finalists(finished)
    assert len([t for t in finished.run.trials if t.id.startswith("t")]) == 2
    plain = _of(finished, rival.notes[-1].split()[0])
    assert {**plain.recipe.values, "augment": "light", "augment_from": 5} == rival.recipe.values
    assert rival.epochs == plain.epochs == 7
    assert rival.status == "done"
    # Up to the fork they are one training; after it they are not.
    curves = [{c.epoch: (c.train_loss, c.objective) for c in t.curve} for t in (plain, rival)]
    assert [curves[0][e] == curves[1][e] for e in range(1, 8)] == [True] * 5 + [False] * 2


def test_it_wins_where_the_validation_rows_say_so_as_of_any_two_trials(finished: TransferModel) -> None:
    (rival,) = _finalists(finished)
    plain = _of(finished, rival.notes[-1].split()[0])
    assert rival.objective is not None
    assert plain.objective is not None
    error = (plain.objective * (1 - plain.objective) / finished.run.profile.validation) ** 0.5
    assert abs(rival.objective - plain.objective) < error, "else their losses would not matter"
    assert rival.calibrated_loss is not None
    assert plain.calibrated_loss is not None
    wanted = rival.id if rival.calibrated_loss < plain.calibrated_loss else plain.id
    assert finished.run.winner == wanted
    assert finished.recipe == _of(finished, wanted).recipe


def test_ledger_and_report_tell_it_in_words(finished: TransferModel) -> None:
    (rival,) = _finalists(finished)
    text = finished.report()
    assert "was run again with augmented rows" in text
    assert f"{rival.id} was kept" in text or "the plain one stays" in text
    assert "with rows augmented anew in each epoch (light) from epoch 5 on" in rival.notes[-1]
    board = finished.leaderboard().set_index("trial")
    assert board.loc[rival.id, "reason"] == "augmented rows (light) from epoch 5 on"
    assert finished.path is not None
    ledger = [r for r in read_ledger(finished.path.parent / "trials.jsonl") if isinstance(r, TrialRecord)]
    assert [r.recipe.values["augment"] for r in ledger if r.id == rival.id] == ["light"]


def test_the_recipe_alone_gives_the_same_training(stripes: Any, toynet: str, finished: TransferModel) -> None:
    """What went on from a checkpoint is what its recipe gives from its own start."""
    (rival,) = _finalists(finished)
    values = {n: v for n, v in rival.recipe.values.items() if n not in ("augment", "epochs", "augment_from")}
    seen: list[TrialRecord] = []
    _whole(stripes, toynet, rival, seen)
    assert values.items() <= seen[-1].recipe.values.items()
    for one, two in zip(seen[-1].curve, rival.curve, strict=True):
        assert one.epoch == two.epoch
        assert one.train_loss == pytest.approx(two.train_loss, abs=1e-5)
        assert one.objective == pytest.approx(two.objective, abs=1e-6)


def _whole(data: Any, toynet: str, rival: TrialRecord, seen: list[TrialRecord]) -> None:
    """Train a recipe rung by rung from its own start, with nothing of any other training at hand."""
    import tempfile

    from autotransfer.search.jobs import Context, RungJob, SurveyJob
    from autotransfer.search.trial import Worker

    settings = Settings(data=data, plugins=[toynet], backbones=["toynet/small"]).check()
    ready = engine.make_ready(settings, engine.silent)
    with tempfile.TemporaryDirectory() as work:
        context = Context(ready.prepared, ready.registry.manifest(), ready.space.specs, {}, work)
        worker = Worker(context, ready.registry)
        survey: Any = worker.run(SurveyJob(backbone="toynet/small", rows=ready.prepared.profile.train))
        begins = ""
        for rung, until in enumerate((5, None)):
            job = RungJob(id="x", recipe=rival.recipe, rung=rung, until=until, survey=survey.features, begins=begins)
            record = worker.run(job)
            assert isinstance(record, TrialRecord)
            assert record.status != "failed", record.reason
            begins = record.checkpoint
            seen.append(record)


def test_a_saved_winner_keeps_its_augmentation(stripes: Any, toynet: str, tmp_path: Path) -> None:
    model = _fit(stripes, toynet, {"augment": "light"}, out=tmp_path / "run")
    assert model.recipe.values["augment"] == "light"
    again = load(tmp_path / "run", [toynet])
    assert again.recipe == model.recipe
    assert np.array_equal(again.predict_proba(stripes[0][:9]), model.predict_proba(stripes[0][:9]))
    assert "augmented rows (light)" in again.report()


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_serial_and_ray_agree(stripes: Any, toynet: str, finished: TransferModel) -> None:
    there = _fit(stripes, toynet, executor="ray", max_workers=2)
    told = [[(t.id, t.recipe, t.status, t.rung) for t in m.run.trials] for m in (finished, there)]
    assert told[0] == told[1]
    assert there.run.winner == finished.run.winner
    scores = [[t.objective for t in m.run.trials] for m in (finished, there)]
    assert scores[1] == pytest.approx(scores[0], abs=1e-4)


def test_a_resumed_run_takes_the_finalist_from_the_ledger(stripes: Any, toynet: str, tmp_path: Path) -> None:
    first = _fit(stripes, toynet, out=tmp_path / "run")
    told: list[tuple[str, bool]] = []

    def notify(event: str, **facts: Any) -> None:
        if event == "trial":
            told.append((facts["record"].id, bool(facts.get("again", False))))

    space = {"epochs": 7, "lr": 5e-3, "lr_ratio": 1.0, **ASKED}
    settings = Settings(
        data=stripes, plugins=[toynet], space=space, backbones=["toynet/small"], executor="serial", trials=3,
        strategies=["core/full"], out=tmp_path / "run",
    )  # fmt: skip
    grown = engine.fit(settings, notify)
    assert len([t for t in grown.run.trials if t.id.startswith("t")]) == 3
    assert len(_finalists(grown)) == 1
    assert [t.recipe for t in grown.run.trials if t.id in ("t001", "t002")] == [
        t.recipe for t in first.run.trials if t.id in ("t001", "t002")
    ]


def test_one_short_rung_begins_augmented(stripes: Any, toynet: str) -> None:
    model = _fit(stripes, toynet, {"epochs": 2, **ASKED}, trials=1)
    (rival,) = _finalists(model)
    assert rival.recipe.values["augment_from"] == 0
    assert rival.epochs == 2


def test_views_are_a_rival_where_something_is_frozen(stripes: Any, toynet: str, monkeypatch: Any) -> None:
    from autotransfer.train import prefixes

    monkeypatch.setattr(prefixes, "READ", 0.0)  # let stored activations pay for a tiny network
    space = {"freeze_fraction": 0.5, "epochs": 10, "augment": ["none", "light", "views"]}
    sizes = toynet.replace("toynet.py", "sizes.py")
    model = _fit(stripes, sizes, space, backbones=["sizes/any"], strategies=["core/partial"], trials=1)
    light, views = _finalists(model)
    assert [t.recipe.values["augment"] for t in (light, views)] == ["light", "views"]
    assert any("each row is seen in 4 fixed views" in n for n in views.notes)
    assert light.curve != views.curve


def test_every_kind_is_a_rival_where_it_is_asked_for(stripes: Any, toynet: str) -> None:
    kinds = [k for k in augmentations(ImageInput()) if k != "views"]
    found = _finalists(_fit(stripes, toynet, {"epochs": 3, "augment": ["none", *kinds]}, trials=1))
    assert [t.recipe.values["augment"] for t in found] == kinds
    assert {t.status for t in found} == {"done"}
    assert len({t.curve[-1].train_loss for t in found}) == len(kinds)


@pytest.mark.parametrize("backbone", ["soundnet/masked", "soundnet/alone"])
def test_sounds_and_what_is_no_image_have_rivals_too(toynet: str, backbone: str) -> None:
    rng = np.random.default_rng(0)
    pitch = np.where(np.arange(60) % 2, 300.0, 1500.0)
    waves = np.sin(2 * np.pi * pitch[:, None] * np.arange(2_000) / 8_000) + rng.normal(0, 0.3, (60, 2_000))
    space = {"epochs": 3, "augment": ["none", "light", "strong", "mixup"]}
    sounds = toynet.replace("toynet.py", "soundnet.py")
    data = ((waves.astype(np.float32), 8_000), pitch.astype(int).astype(str))
    found = _finalists(_fit(data, sounds, space, backbones=[backbone], trials=1, modality="audio"))
    assert [t.recipe.values["augment"] for t in found] == ["light", "strong", "mixup"]
    assert {t.status for t in found} == {"done"}
    assert len({t.curve[-1].train_loss for t in found}) == 3


@pytest.mark.parametrize("given", [{"augment": "none"}, {}])
def test_nothing_is_spent_where_it_is_not_wanted_or_not_worth_its_price(
    stripes: Any, toynet: str, monkeypatch: pytest.MonkeyPatch, given: Any
) -> None:
    monkeypatch.setattr(finals, "GAIN", -1.0)
    model = _fit(stripes, toynet, given)
    assert _finalists(model) == []
    assert ("was not tried with augmented rows" in model.report()) is not bool(given)


def test_what_is_worth_its_price_is_tried_unasked(stripes: Any, toynet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finals, "GAIN", 10.0)
    monkeypatch.setattr(policy, "PRICE", 1.0)
    (only,) = _finalists(_fit(stripes, toynet, {}))  # a further kind is hoped to add no more than its spread
    assert only.recipe.values["augment"] == "light"


def test_a_further_kind_is_tried_where_a_last_rung_is_cheap(
    stripes: Any, toynet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "PRICE", 0.01)
    monkeypatch.setattr(policy, "ceiling", lambda metric: 2.0)  # stripes are learnt without a fault
    monkeypatch.setattr(surrogate, "SHOWN", 0.0)  # and few rows show little
    found = _finalists(_fit(stripes, toynet, {}))
    assert [t.recipe.values["augment"] for t in found] == list(augmentations(ImageInput())[:2])


def test_a_further_kind_is_worth_what_it_adds_to_the_first() -> None:
    draws = np.random.default_rng(0).normal(0.05, 0.05, (1_000_000, 2))
    one = np.maximum(draws[:, 0], 0.0).mean()
    two = np.maximum(draws.max(1), 0.0).mean()
    assert improvement(*hoped(0.7, 0)) == pytest.approx(one, abs=2e-4)
    assert improvement(*hoped(0.7, 1)) == pytest.approx(two - one, abs=5e-3)


def test_heads_alone_have_no_rival(stripes: Any, toynet: str) -> None:
    model = _fit(stripes, toynet, {"lr_ratio": 0.1}, strategies=["core/probe", "core/full"], budget=15, trials=None)
    assert model.recipe.strategy == "core/probe"  # so little time is left for nothing else
    assert _finalists(model) == []
    assert "augment" not in model.recipe.values


def test_a_rival_that_cannot_begin_leaves_the_plain_one(
    stripes: Any, toynet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autotransfer.search.board import Board

    monkeypatch.setattr(Board, "keep_before", lambda self, trial: None)
    model = _fit(stripes, toynet)
    assert _finalists(model) == []
    assert "its checkpoint could not be kept" in model.report()
    assert model.run.winner.startswith("t")


def test_an_unknown_kind_is_refused(stripes: Any, toynet: str) -> None:
    with pytest.raises(ConfigError, match="wanted some of: none, cutmix, light, mixup, strong, views"):
        _fit(stripes, toynet, {"augment": ["none", "heavy"]})
