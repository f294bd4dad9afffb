"""Searches that survive: a driver, a worker or a node killed, a folder gone; and what a killed driver leaves."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from autotransfer import engine
from autotransfer.config import Settings
from autotransfer.errors import StorageError
from autotransfer.model import TransferModel
from autotransfer.runs import RunFolder
from autotransfer.scratch import scratch
from autotransfer.search import storage
from autotransfer.search.ledger import read_ledger

ROOT = Path(__file__).parents[1]
MARK = "AUTOTRANSFER_TESTS_DURABLE"
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
CHOSEN: dict[str, Any] = {"strategies": "core/full", "trials": 3, "seed": 1, "space": {"epochs": [7]}}
STEPS = 66
"""Training steps of one process after which an armed network kills it: a first rung has 60 of them."""


@pytest.fixture
def deadly(tmp_path: Path) -> Path:
    """The plugin in a folder where files tell it when to kill."""
    return Path(shutil.copy(ROOT / "tests" / "toys" / "deadly.py", tmp_path))


@pytest.fixture(autouse=True)
def _strategies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")


def _fit(data: Any, plugin: Path, *, backbones: str = "deadly/net", **more: Any) -> TransferModel:
    return engine.fit(Settings(data=data, plugins=[str(plugin)], backbones=backbones, **{**CHOSEN, **more}))


def _same(one: TransferModel, other: TransferModel) -> None:
    told = [[(r.id, r.recipe, r.status, r.epochs) for r in m.run.trials] for m in (one, other)]
    assert told[0] == told[1]
    assert one.run.winner == other.run.winner
    assert one.run.test is not None
    assert other.run.test is not None
    assert one.run.test.scores == other.run.test.scores


def _files(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


WHOLE = {".lock", "model", "plan.json", "plugins.json", "profile.json", "report.html", "run.yaml", "trials.jsonl"}


# Workers.


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_killed_worker_loses_one_rung_and_changes_nothing(stripes: Any, deadly: Path, tmp_path: Path) -> None:
    plain = _fit(stripes, deadly, executor="serial")
    (tmp_path / "armed").write_text(str(STEPS))
    out = tmp_path / "run"
    model = _fit(stripes, deadly, max_workers=1, out=out)
    assert not (tmp_path / "armed").exists()  # somebody was killed
    _same(model, plain)
    assert all(r.status != "failed" for r in read_ledger(out / "trials.jsonl"))
    assert len({r.worker for r in model.run.trials}) > 1  # another process went on
    assert _files(out) == WHOLE


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_job_that_kills_its_workers_fails_after_three(stripes: Any, deadly: Path, tmp_path: Path) -> None:
    model = _fit(stripes, deadly, backbones="deadly/*")
    lost = [r for r in model.run.trials if r.status == "failed"]
    assert lost
    assert {r.recipe.backbone for r in lost} == {"deadly/poison"}
    assert all("its worker process died 3 times" in r.reason for r in lost)
    assert (tmp_path / "victims").read_text().count("\n") == 3 * len(lost)
    assert model.recipe.backbone == "deadly/net"


# Drivers.


def _environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join((str(ROOT), str(ROOT / "plugins")))
    clean = {n: v for n, v in os.environ.items() if n != "RAY_ADDRESS"}
    return {**clean, "PYTHONPATH": paths, "RAY_AUTH_MODE": "disabled", **more}


def _pictures(root: Path, stripes: Any) -> Path:
    for number, (image, label) in enumerate(zip(*stripes, strict=True)):
        (root / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / label / f"{number:03}.png")
    return root


def _command(data: Path, plugin: Path, out: Path, *more: str) -> list[str]:
    flags = ["--plugin", str(plugin), "--backbones", "deadly/net", "--strategies", CHOSEN["strategies"]]
    flags += ["--trials", "3", "--seed", "1", "--space", "{epochs: [7]}", "--out", str(out), "--json"]
    return [sys.executable, "-m", "autotransfer", "fit", str(data), *flags, *more]


def _marked(mark: str) -> list[int]:
    """Return ids of processes that run and have this mark in their environment."""
    found = []
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            there = f"{MARK}={mark}".encode() in (place / "environ").read_bytes().split(b"\0")
            if there and (place / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(int(place.name))
    return found


@contextlib.contextmanager
def _ended(mark: str) -> Iterator[None]:
    """End at last what has this mark."""
    try:
        yield
    finally:
        for pid in _marked(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _until(what: Callable[[], Any], seconds: float = 90.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_driver_goes_on_where_it_was(stripes: Any, deadly: Path, tmp_path: Path) -> None:
    data, out = _pictures(tmp_path / "data", stripes), tmp_path / "run"
    plain = _fit(str(data), deadly, executor="serial")
    mark, ledger = tmp_path.name + str(time.time_ns()), out / "trials.jsonl"
    with _ended(mark), tempfile.TemporaryDirectory(prefix="atd-", dir="/tmp", ignore_cleanup_errors=True) as short:
        tmp = Path(short)  # Ray's sockets lie there, and want a short path
        env = _environment(TMPDIR=short, **{MARK: mark})
        first = subprocess.Popen(
            _command(data, deadly, out, "--max-workers", "1"),
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _until(lambda: (ledger.exists() and ledger.read_text().count('"trial"') >= 2) or first.poll() is not None)
        first.kill()
        first.wait()
        before = ledger.read_text().splitlines()
        assert not (out / "model").exists()
        assert list(tmp.glob("autotransfer-tune-*"))
        (out / ".work" / "mark-of-a-dead-driver").touch()
        resume = [sys.executable, "-m", "autotransfer", "resume", str(out), "--json"]
        done = subprocess.run(resume, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        _until(lambda: not _marked(mark))  # Ray's own agents need a while to see that their raylet is dead
        assert not list(tmp.glob("autotransfer-*"))
    told = json.loads(done.stdout)
    history = json.loads((out / "model" / "history.json").read_text())
    assert history["winner"] == plain.run.winner
    assert told["recipe"]["values"] == dict(plain.recipe.values)
    after = ledger.read_text().splitlines()
    assert after[: len(before)] == before
    jobs = [json.loads(line)["job"] for line in after]
    assert len(set(jobs)) == len(jobs)  # nothing that had ended was run again
    assert _files(out) == WHOLE


def test_a_driver_killed_before_it_wrote_anything_leaves_a_folder_that_can_be_used(tmp_path: Path) -> None:
    (tmp_path / ".work").mkdir()
    (tmp_path / ".lock").touch()
    (tmp_path / ".run.yaml.part").touch()
    with RunFolder(tmp_path).opened(Settings(data="pets"), "name") as finished:
        assert finished is None
    assert (tmp_path / "run.yaml").exists()


def test_leftovers_of_a_killed_driver_are_removed(tmp_path: Path) -> None:
    left = (".work/mark-1", ".work/watchdog-1.txt", ".work/.checkpoint-t001.ab", ".model.1.old", ".plan.json.part")
    folder = RunFolder(tmp_path)
    with folder.opened(Settings(data="pets"), "name"):
        pass
    for name in (".work/checkpoint-t001-1", ".work/.checkpoint-t001-1.ab"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").touch()
    for name in left:
        (tmp_path / name).touch()
    with folder.opened(Settings(data="pets"), "name"):
        assert _files(tmp_path / ".work") == {"checkpoint-t001-1"}
        assert _files(tmp_path) == {".work", ".lock", "run.yaml"}


def test_temporary_folders_of_dead_processes_go_and_those_of_live_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, live, alien = (tmp_path / f"mine-{n}" for n in ("dead", "live", "alien"))
    for folder in (dead, live, alien):
        folder.mkdir()
    (dead / ".held").touch()
    with (live / ".held").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with scratch("mine-") as own:
            assert _files(tmp_path) == {live.name, alien.name, own.name}
    assert _files(tmp_path) == {live.name, alien.name}


# Storage.


def test_a_search_whose_folder_goes_ends_with_one_error_and_goes_on_later(
    stripes: Any, deadly: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "EVERY", 0.02)
    monkeypatch.setattr(storage, "PATIENCE", 0.1)
    plain = _fit(stripes, deadly, executor="serial")
    out, away, seen = tmp_path / "run", tmp_path / "away", list[str]()

    def hide(event: str, **facts: Any) -> None:
        if event == "trial" and not seen:
            seen.append(facts["record"].id)
            out.rename(away)

    settings = Settings(
        data=stripes, plugins=[str(deadly)], backbones="deadly/net", executor="serial", out=out, **CHOSEN
    )
    with pytest.raises(StorageError, match="cannot be used: No such file or directory"):
        engine.fit(settings, hide)
    assert not out.exists()
    away.rename(out)
    known = (out / "trials.jsonl").read_text().splitlines()
    _same(engine.fit(settings), plain)
    assert (out / "trials.jsonl").read_text().splitlines()[: len(known)] == known


def test_a_disk_that_is_full_at_the_very_end_is_waited_for(
    stripes: Any, deadly: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autotransfer import finish

    waited = list[Path]()
    monkeypatch.setattr(storage, "_wait", lambda folder, *_: waited.append(folder) or "")

    def failing(real: Any) -> Any:
        def once(*given: Any, **more: Any) -> Any:
            if real not in failed:
                failed.append(real)
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*given, **more)

        return once

    failed = list[Any]()
    monkeypatch.setattr(TransferModel, "save", failing(TransferModel.save))
    monkeypatch.setattr(finish, "winning_network", failing(finish.winning_network))
    monkeypatch.setattr(RunFolder, "close", failing(RunFolder.close))
    plain, out = _fit(stripes, deadly, executor="serial"), tmp_path / "run"
    assert len(failed) == len(waited) == 1  # nothing else is written without a folder
    model = _fit(stripes, deadly, executor="serial", out=out)
    assert waited[1:] == [out] * 2
    _same(model, plain)
    assert (out / "report.html").exists()
    assert not (out / ".work").exists()


def test_a_lost_checkpoint_of_the_winner_is_made_again(stripes: Any, deadly: Path, tmp_path: Path) -> None:
    plain, out = _fit(stripes, deadly, executor="serial"), tmp_path / "run"

    def stop(event: str, **facts: Any) -> None:
        if event == "finish":
            raise KeyboardInterrupt

    settings = Settings(
        data=stripes, plugins=[str(deadly)], backbones="deadly/net", executor="serial", out=out, **CHOSEN
    )
    with pytest.raises(KeyboardInterrupt):
        engine.fit(settings, stop)
    lost = list((out / ".work").glob("checkpoint-*"))
    assert lost
    for folder in lost:
        shutil.rmtree(folder)
    _same(engine.fit(settings), plain)


# Nodes.


@pytest.fixture
def nodes() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start nodes of a cluster in a folder of their own; the first is its head."""
    folder, mark = tempfile.mkdtemp(prefix="atd-", dir="/tmp"), f"node{time.time_ns()}"
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]

    def start(*flags: str) -> subprocess.Popen[bytes]:
        common = ["--block", "--disable-usage-stats", "--object-store-memory=100000000"]
        log = Path(folder, f"{time.time_ns()}.log")
        with log.open("wb") as said:
            made = subprocess.Popen(
                [*RAY, "start", *common, *flags],
                env=_environment(**{MARK: mark}),
                stdout=said,
                stderr=said,
                cwd=folder,
                start_new_session=True,
            )
        _until(lambda: "Ray runtime started" in log.read_text())
        return made

    import ray

    address = f"{ray.util.get_node_ip_address()}:{port}"
    head = ("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}/ray", "--num-cpus=0")
    with _ended(mark):
        started = [start(*head)]

        def more() -> str:
            started.append(start("--address", address, "--num-cpus=1"))
            return address

        yield cast("Any", more)
    for process in started:
        process.kill()
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_node_loses_one_rung_and_changes_nothing(
    nodes: Callable[[], str], stripes: Any, deadly: Path, tmp_path: Path
) -> None:
    data, out = _pictures(tmp_path / "data", stripes), tmp_path / "run"
    plain = _fit(str(data), deadly, executor="serial")
    nodes()
    address = nodes()
    (tmp_path / "armed").write_text(str(STEPS))
    (tmp_path / "node").touch()
    done = subprocess.run(
        _command(data, deadly, out, "--max-workers", "1", "--address", address),
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "armed").exists()
    assert "another worker for t" in done.stderr, done.stderr
    assert json.loads((out / "model" / "history.json").read_text())["winner"] == plain.run.winner
    assert all(r.status != "failed" for r in read_ledger(out / "trials.jsonl"))
    assert _files(out) == WHOLE
