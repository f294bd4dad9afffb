"""The same search in this process and through Ray, with one worker and two; hung and faulty plugins."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from autotransfer import engine
from autotransfer.config import Settings
from autotransfer.errors import SearchError
from autotransfer.model import TransferModel
from autotransfer.resources import Share
from autotransfer.search import ray_tune
from autotransfer.search.jobs import Context, Generation, SurveyJob
from autotransfer.search.ledger import Ledger

NAPS = """
import os, time
from autotransfer.plugin import BackboneSpec, ImageInput, hookimpl

def short(weights):
    open(os.path.join("{notes}", str(os.getpid()) + "-" + str(time.time_ns())), "w").close()
    raise RuntimeError("slept")

def long(weights):
    time.sleep(4.0)
    short(weights)

@hookimpl
def autotransfer_backbones():
    own = ImageInput(size=16, crop=1.0)
    kinds = [(f, n) for f in (short, long) for n in range(6)]
    return [BackboneSpec(id="naps/" + f.__name__ + str(n), input=own, factory=f) for f, n in kinds]
"""
"""A plugin of backbones that take their time, and leave a note of the process that opened them."""


def _fit(data: Any, plugins: list[str], **more: Any) -> TransferModel:
    return engine.fit(Settings(data=data, plugins=plugins, seed=1, **{"trials": 6, **more}))


def _told(model: TransferModel) -> list[tuple[Any, ...]]:
    return [(r.id, r.recipe, r.status, r.rung, r.epochs) for r in model.run.trials]


def _objectives(model: TransferModel) -> list[float]:
    return [r.objective if r.objective is not None else -1.0 for r in model.run.trials]


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_serial_and_ray_with_one_two_and_four_workers_agree(stripes: Any, toynet: str) -> None:
    backbones = ["toynet/*"]
    serial = _fit(stripes, [toynet], backbones=backbones, executor="serial")
    for workers in (1, 2, 4):
        ray = _fit(stripes, [toynet], backbones=backbones, executor="ray", max_workers=workers)
        assert _told(ray) == _told(serial)
        assert ray.run.winner == serial.run.winner
        assert _objectives(ray) == pytest.approx(_objectives(serial), abs=1e-4)
        assert ray.run.test is not None
        assert serial.run.test is not None
        assert ray.run.test.scores == serial.run.test.scores
        assert {r.worker[:3] for r in ray.run.trials} == {"pid"}
        assert len({r.worker for r in ray.run.trials}) <= workers  # none was ended while another one was at work
    assert len([r for r in serial.run.trials if r.id.startswith("t")]) == 6


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_faulty_backbones_are_named_with_the_reason_and_a_hung_one_is_killed(stripes: Any, toynet: str) -> None:
    faulty = toynet.replace("toynet.py", "faulty.py")
    model = _fit(
        stripes,
        [toynet, faulty],
        backbones=["toynet/small", "faulty/*"],
        trials=2,
        max_workers=2,
        resources={"step_seconds": 8},
    )
    assert model.recipe.backbone.startswith(("toynet/", "baselines/"))
    reasons = {r.backbone: r.reason for r in model.run.survey if r.status == "failed"}
    assert "not finite" in reasons["faulty/nan"]
    assert "hung" in reasons["faulty/sleeper"]
    assert "faulty.py" in reasons["faulty/sleeper"]
    assert "width 5; the network gives 3" in reasons["faulty/width"]
    assert "which is no map" in reasons["faulty/map"]
    assert "licence server" in reasons["faulty/raises"]
    assert "wanted a torch.nn.Module" in reasons["faulty/seven"]
    assert "nowhere" in reasons["faulty/lost"]
    board = model.leaderboard()
    assert set(board.loc[board.status == "failed", "backbone"]) >= set(reasons)


def test_a_space_that_is_exhausted_ends_the_search(stripes: Any, toynet: str) -> None:
    model = _fit(
        stripes,
        [toynet],
        backbones=["toynet/small"],
        executor="serial",
        trials=3,
        strategies=["core/full"],
        space={"lr": [1e-3], "lr_ratio": [0.1, 1.0], "layer_decay": [1.0], "head_start": [True]},
    )
    records = list(model.run.trials)
    # The space holds two recipes, so that a third trial is not found, and none is made up.
    assert len([r for r in records if r.id.startswith("t")]) == 2
    assert all(r.objective is not None for r in records)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_workers_live_as_long_as_the_search(stripes: Any, tmp_path: Path) -> None:
    plugin, notes = tmp_path / "naps.py", tmp_path / "notes"
    notes.mkdir()
    plugin.write_text(NAPS.format(notes=str(notes)))
    settings = Settings(data=stripes, plugins=[str(plugin)], backbones="naps/*", trials=1).check()
    ready = engine.make_ready(settings, engine.silent)
    specs = {s.id: s for s in ready.pool.specs}
    context = Context(ready.prepared, ready.registry.manifest(), specs, weights={}, work=str(tmp_path / "work"))
    Path(context.work).mkdir()

    def jobs() -> Generation:
        names = [f"naps/{kind}{n + more}" for n in (0, 2, 4) for kind in ("long", "short") for more in (0, 1)]
        for start in range(0, len(names), 2):  # whoever ends first has nothing to do until the other one has ended
            yield [SurveyJob(backbone=name, rows=9) for name in names[start : start + 2]]

    ledger = Ledger(None, Path(context.work))
    ray_tune.run(jobs(), context, ledger, engine.silent, 2, Share.of(None))
    assert all("slept" in r.reason for r in ledger.records.values())
    pids = [note.name.split("-")[0] for note in notes.iterdir()]
    assert (len(pids), len(set(pids))) == (12, 2)
    until = time.monotonic() + 30
    while (left := _desks()) and time.monotonic() < until:
        time.sleep(0.2)
    assert not left  # the Ray is the caller's, and goes on


def _desks() -> list[str]:
    """Return the desks of the local Ray that live: other tests may run beside these."""
    import ray

    return [str(p) for p in Path("/proc").glob("[0-9]*") if _is_desk(p, ray.get_runtime_context().gcs_address)]


def _is_desk(process: Path, address: str) -> bool:
    try:
        named = (process / "cmdline").read_bytes().startswith(b"ray::WaitingDesk")
        raylet = (process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]
        return named and address.encode() in Path("/proc", raylet, "cmdline").read_bytes()
    except OSError:
        return False


def test_a_ray_that_is_too_old_is_one_error(monkeypatch: pytest.MonkeyPatch, stripes: Any, toynet: str) -> None:
    from ray import tune

    monkeypatch.delattr(tune, "RunConfig")
    with pytest.raises(SearchError, match=r"Ray .* is too old; wanted 2\.43 or later"):
        engine.fit(Settings(data=stripes, plugins=[toynet], backbones="toynet/small", trials=1))
