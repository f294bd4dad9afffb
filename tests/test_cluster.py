"""Fits on a running Ray cluster of two nodes on this machine; the driver is a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from autotransfer import engine
from autotransfer.config import Settings

ROOT = Path(__file__).parents[1]
PATHS = [str(ROOT), str(ROOT / "plugins")]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
WAIT = 60.0


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def environment(*before: str, **more: str) -> dict[str, str]:
    mine = {"PYTHONPATH": os.pathsep.join([*before, *PATHS]), "AUTOTRANSFER_PLUGINS": "core=autotransfer_strategies"}
    clean = {n: v for n, v in os.environ.items() if n not in ("RAY_ADDRESS", "AUTOTRANSFER_PLUGINS")}
    return {**clean, **mine, "RAY_AUTH_MODE": "disabled", **more}


def ray_ip() -> str:
    import ray

    return str(ray.util.get_node_ip_address())


@dataclass
class Cluster:
    address: str
    folder: str

    @contextlib.contextmanager
    def node(self, *flags: str, env: dict[str, str] | None = None, shell: str = "") -> Iterator[None]:
        """Have one node more; ``shell`` runs before it, in a mount namespace of its own."""
        command = [*RAY, "start", "--block", "--disable-usage-stats", *flags]
        if "--head" not in flags:
            command += ["--address", self.address]
        if shell:
            command = ["unshare", "-m", "sh", "-c", f'{shell} && exec "$@"', "sh", *command]
        log = Path(self.folder, f"node-{time.time_ns()}.log")
        with log.open("w") as said:
            started = subprocess.Popen(
                command, env=env or environment(), stdout=said, stderr=said, start_new_session=True, cwd=self.folder
            )
        try:
            began = time.monotonic()
            while "Ray runtime started" not in log.read_text():
                assert started.poll() is None, log.read_text()
                assert time.monotonic() - began < WAIT, log.read_text()
                time.sleep(0.2)
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(started.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    started.wait(3)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head and a second node, each with one CPU, on ports and in a folder of their own."""
    folder = tempfile.mkdtemp(prefix="atr-", dir="/tmp")  # sockets want a short path
    port = free_port()
    made = Cluster(f"{ray_ip()}:{port}", folder)
    head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}/ray", "--num-cpus=1"]
    small = "--object-store-memory=100000000"
    try:
        with made.node(*head, small), made.node("--num-cpus=1", small):
            yield made
    finally:
        _end_all_of(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _end_all_of(folder: str) -> None:
    """End what a node left behind: only processes that name the cluster's own folder."""
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if folder in place.joinpath("cmdline").read_text() and int(place.name) != os.getpid():
                os.kill(int(place.name), signal.SIGKILL)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, stripes: tuple[np.ndarray, np.ndarray]) -> Path:
    """The stripes as a folder of class folders."""
    root = tmp_path_factory.mktemp("pictures") / "stripes"
    for number, (image, label) in enumerate(zip(*stripes, strict=True)):
        (root / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / label / f"{number:03}.png")
    return root


def cli(*arguments: str, env: dict[str, str] | None = None, seconds: float = 90) -> tuple[int, dict[str, Any], str]:
    """Return exit code, JSON body and error text of the command line in a process of its own."""
    command = [sys.executable, "-m", "autotransfer", *arguments, "--json"]
    done = subprocess.run(
        command, env=env or environment(), capture_output=True, text=True, timeout=seconds, check=False
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def fit_flags(data: Path | str, toynet: str, out: Path, trials: int = 3) -> list[str]:
    chosen = ["--plugin", toynet, "--backbones", "toynet/small", "--trials", str(trials), "--seed", "1"]
    return ["fit", str(data), *chosen, "--out", str(out)]


def trials_of(folder: Path) -> list[tuple[Any, ...]]:
    """Return what the trials of a run folder were, without who ran them and how long."""
    lines = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    records = [line["record"] for line in lines if line["kind"] == "trial"]
    return sorted((r["id"], json.dumps(r["recipe"], sort_keys=True), r["status"], r["epochs"]) for r in records)


@pytest.mark.ray
@pytest.mark.slow
def test_a_fit_on_the_cluster_is_the_same_as_a_local_one(
    cluster: Cluster, pictures: Path, toynet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = fit_flags(pictures, toynet, tmp_path / "far")
    code, far, said = cli(*flags, "--address", cluster.address)
    assert code == 0, said
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")
    near = engine.fit(
        Settings(
            data=pictures,
            plugins=[toynet],
            backbones="toynet/small",
            trials=3,
            seed=1,
            executor="serial",
            out=tmp_path / "near",
        )
    )
    assert trials_of(tmp_path / "far") == trials_of(tmp_path / "near")
    assert far["recipe"]["strategy"] == near.recipe.strategy
    assert far["recipe"]["values"] == json.loads(json.dumps(dict(near.recipe.values)))
    assert near.run.test is not None
    assert far["test"] == pytest.approx(near.run.test.value, abs=1e-4)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["closed", "other"])
def test_a_wrong_address_is_one_error_soon(kind: str, pictures: Path, toynet: str, tmp_path: Path) -> None:
    with socket.socket() as listening:
        port = free_port()
        if kind == "other":  # something listens there, and never answers
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            port = listening.getsockname()[1]
        began = time.monotonic()
        code, body, said = cli(*fit_flags(pictures, toynet, tmp_path / "run"), "--address", f"127.0.0.1:{port}")
    assert code == 2, said
    assert body == {}
    assert time.monotonic() - began < 45
    assert said.count("error:") == 1
    assert f"the Ray cluster at address '127.0.0.1:{port}' cannot be joined" in said
    assert "wanted 'auto', or host:port" in said
    assert not (tmp_path / "run").exists()


def test_an_address_and_the_serial_executor_exclude_each_other(pictures: Path, toynet: str, tmp_path: Path) -> None:
    flags = [*fit_flags(pictures, toynet, tmp_path / "run"), "--address", "head:6379"]
    for more, said in ((["--executor", "serial"], "executor 'serial'"), (["--budget", "10s"], "a budget under 30 s")):
        own = [f for f in flags if "trials" not in f and f != "3"] if "--budget" in more else flags
        code, _, text = cli(*own, *more)
        assert code == 2
        assert said in text
