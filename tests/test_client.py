"""Fits through Ray Client, from a process that is no node of the cluster, on a head that sees none of its files."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import autotransfer
from autotransfer import engine
from autotransfer.config import Settings
from autotransfer.errors import ConfigError


def _kit() -> Any:
    """Return the cluster's tests as a module: their nodes, and their command line."""
    spec = importlib.util.spec_from_file_location("cluster_kit", Path(__file__).with_name("test_cluster.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


kit = _kit()
needs_namespaces = kit.needs_namespaces
WAIT = 180.0


@dataclass
class Head:
    address: str
    folder: str
    mine: Path
    """What the head does not see: the client's pictures, its plugin and its runs."""

    @property
    def pictures(self) -> Path:
        return self.mine / "stripes"

    @property
    def toynet(self) -> str:
        return str(self.mine / "toynet.py")

    def flags(self, out: str, trials: int) -> list[str]:
        return [*kit.fit_flags(self.pictures, self.toynet, self.mine / out, trials), "--address", self.address]

    def left(self) -> list[Path]:
        """Return the folders of hosts, and what an engine leaves beside its run while it searches."""
        temporary = Path(self.folder, "tmp")
        return [p for p in temporary.glob("autotransfer-*") if p.name.split("-")[1] in ("client", "tune")]

    def hosts(self) -> list[int]:
        """Return the processes of this head that run an engine for a client."""
        found = []
        for place in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                title = place.joinpath("cmdline").read_bytes()
                own = self.folder.encode() in place.joinpath("environ").read_bytes()
                if own and title.startswith(b"ray::Host"):
                    found.append(int(place.name))
        return found


def until(true: Callable[[], bool]) -> bool:
    """Return whether something became true in time."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > WAIT:
            return False
        time.sleep(0.2)
    return True


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, stripes: Any, toynet: str) -> Iterator[Head]:
    mine = tmp_path_factory.mktemp("mine")
    for number, (image, label) in enumerate(zip(*stripes, strict=True)):
        (mine / "stripes" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(mine / "stripes" / label / f"{number:03}.png")
    shutil.copy(toynet, mine / "toynet.py")
    folder = tempfile.mkdtemp(prefix="atc-", dir="/tmp")  # sockets want a short path
    port, client = kit.free_port(), kit.free_port()
    made = kit.Cluster(f"{kit.ray_ip()}:{port}", folder)
    flags = ["--head", f"--port={port}", f"--ray-client-server-port={client}", "--include-dashboard=false"]
    flags += [f"--temp-dir={folder}/ray", "--num-cpus=1", "--object-store-memory=100000000"]
    try:
        Path(folder, "tmp").mkdir()
        own = kit.environment(AUTOTRANSFER_TEST=folder, TMPDIR=f"{folder}/tmp")
        own["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # else a twelfth of a head's processes for clients die: Ray's issue 63202
        with made.node(*flags, env=own, shell=kit.hidden(mine)):
            _until_it_serves(f"ray://127.0.0.1:{client}")
            yield Head(f"ray://127.0.0.1:{client}", folder, mine)
    finally:
        kit._end_all_of(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _until_it_serves(address: str) -> None:
    """Connect once: the head's first process for a client may take longer than a fit waits, where all is busy."""
    command = [sys.executable, "-c", "import sys, ray; ray.init(sys.argv[1]); ray.shutdown()", address]
    said = ""
    for _ in range(3):
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                command, env=kit.environment(), capture_output=True, text=True, timeout=WAIT, check=False
            )
            if done.returncode == 0:
                return
            said = done.stderr
    raise AssertionError(said or "the head serves no client")


@contextlib.contextmanager
def fit(head: Head, out: str, trials: int) -> Iterator[subprocess.Popen[str]]:
    """Have a fit run in a process of its own; its progress is read from its error stream."""
    plain = ["env", "--default-signal=INT"]  # whoever runs the tests in the background has Ctrl-C ignored
    command = [*plain, sys.executable, "-m", "autotransfer", *head.flags(out, trials), "--json"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=kit.environment(), **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def _until_a_trial_is_told(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if " trial " in line:
            return
    raise AssertionError("".join(said))


@pytest.mark.ray
@pytest.mark.slow
@needs_namespaces
def test_a_fit_through_the_client_is_the_same_as_a_local_one(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    code, far, said = kit.cli(*head.flags("far", 3), seconds=WAIT)
    assert code == 0, said
    assert head.left() == []
    assert "150 files (0.1 MB) to be sent" in said
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")
    own: dict[str, Any] = {"data": head.pictures, "plugins": [head.toynet], "backbones": "toynet/small"}
    near = engine.fit(Settings(**own, trials=3, seed=1, executor="serial", out=head.mine / "near"))
    assert kit.trials_of(head.mine / "far") == kit.trials_of(head.mine / "near")
    assert far["recipe"]["values"] == json.loads(json.dumps(dict(near.recipe.values)))
    assert near.run.test is not None
    assert far["test"] == pytest.approx(near.run.test.value, abs=1e-4)
    there, here = ({p.name for p in (head.mine / run).iterdir()} for run in ("far", "near"))
    assert there == here
    model = autotransfer.load(head.mine / "far", plugins=[head.toynet])
    assert model.run.profile.name == str(head.pictures)
    assert "autotransfer-client-" not in (head.mine / "far" / "report.html").read_text()
    assert list(model.predict(head.pictures)) == list(near.predict(head.pictures))


@pytest.mark.ray
@pytest.mark.slow
@needs_namespaces
def test_it_is_watched_interrupted_and_goes_on(head: Head) -> None:
    out = head.mine / "watched"
    with fit(head, "watched", 400) as process:
        _until_a_trial_is_told(process)
        code, body, said = kit.cli("leaderboard", str(out))
        assert code == 0, said
        assert [row for row in body["rows"] if row["score"] is not None]
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        answer, said = process.communicate(timeout=WAIT)
    assert process.returncode == 130, said
    assert json.loads(answer)["status"] == "interrupted"
    assert (out / "model" / "recipe.json").exists()
    found = (out / "trials.jsonl").read_text().splitlines()
    code, body, said = kit.cli(*head.flags("watched", 3), seconds=WAIT)
    assert code == 0, said
    assert body["status"] == "complete"
    assert (out / "trials.jsonl").read_text().splitlines()[: len(found)] == found
    kinds = [json.loads(line)["kind"] for line in (out / "trials.jsonl").read_text().splitlines()]
    assert kinds.count("survey") == 1  # what was found went there again, with its files
    assert not (out / ".work").exists()


@pytest.mark.ray
@pytest.mark.slow
@needs_namespaces
def test_nothing_is_left_of_a_client_that_was_killed(head: Head) -> None:
    with fit(head, "killed", 400) as process:
        _until_a_trial_is_told(process)
        assert head.hosts()
        assert len(head.left()) == 1
        process.kill()
    assert until(lambda: not head.hosts())
    assert head.left() == []
    assert kit.trials_of(head.mine / "killed")


@pytest.mark.ray
@pytest.mark.slow
@needs_namespaces
def test_rows_in_memory_and_a_model_in_memory(head: Head, stripes: Any) -> None:
    np.savez(head.mine / "rows.npz", images=stripes[0], labels=stripes[1])
    script = (
        "import numpy as np, autotransfer, json, ray\n"
        f"rows = np.load({str(head.mine / 'rows.npz')!r})\n"
        f"ray.init({head.address!r}, log_to_driver=False)\n"  # the caller's own connection is used, and left
        f"model = autotransfer.fit((rows['images'], rows['labels']), plugins=[{head.toynet!r}],\n"
        "    backbones='toynet/small', trials=1)\n"
        "assert ray.is_initialized()\n"
        "print(json.dumps([model.path, [r.status for r in model.run.trials], len(model.predict(rows['images']))]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=kit.environment(), capture_output=True, text=True, timeout=WAIT, check=False
    )
    assert done.returncode == 0, done.stderr
    path, trials, answers = json.loads(done.stdout)
    assert path is None
    assert "failed" not in trials
    assert answers == 150


@pytest.mark.ray
@pytest.mark.slow
@needs_namespaces
def test_a_plugin_that_the_head_lacks_is_one_error(head: Head) -> None:
    weights = head.mine / "small.safetensors"
    weights.write_bytes(b"weights")
    here = kit._distribution(head.mine / "new", "2.0", weights)
    plugins = {"AUTOTRANSFER_PLUGINS": "core=autotransfer_strategies,houseware=houseware"}
    flags = ["fit", str(head.pictures), "--backbones", "houseware/small", "--trials", "1", "--address", head.address]
    out = head.mine / "lacking"
    code, body, said = kit.cli(*flags, "--out", str(out), env=kit.environment(here, **plugins))
    assert (code, body) == (1, {}), said
    assert said.count("error:") == 1
    assert "houseware: here not installed, on the driver 2.0" in said


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["closed", "other"])
def test_a_wrong_client_address_is_one_error_soon(kind: str, stripes: Any, toynet: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with socket.socket() as listening:
        port = kit.free_port()
        if kind == "other":  # something listens there, and never answers
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            port = listening.getsockname()[1]
        flags = kit.fit_flags(tmp_path, toynet, tmp_path / "run")
        code, body, said = kit.cli(*flags, "--address", f"ray://127.0.0.1:{port}")
    assert (code, body) == (2, {}), said
    assert said.count("error:") == 1
    assert f"the Ray cluster at address 'ray://127.0.0.1:{port}' cannot be joined" in said
    assert "of the head's Ray Client server" in said
    assert not (tmp_path / "run").exists()


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from autotransfer.search import cluster

    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)  # another test's connection may still be there
    with (
        pytest.raises(ConfigError, match=r"needs Ray Client; pip install 'autotransfer\[client\]'"),
        cluster.joined("ray://127.0.0.1:1"),
    ):
        pass


def test_a_client_address_and_the_serial_executor_exclude_each_other(stripes: Any, toynet: str) -> None:
    with pytest.raises(ConfigError, match="executor 'serial' runs in this process"):
        engine.fit(Settings(data=stripes, plugins=[toynet], address="ray://127.0.0.1:1", executor="serial"))


@pytest.mark.parametrize("given", [{"labels": {"zone": "a"}}, {"custom": {"big": 1}}])
def test_what_only_a_cluster_has_and_the_serial_executor_exclude_each_other(
    stripes: Any, toynet: str, given: Any
) -> None:
    with pytest.raises(ConfigError, match=r"resources\.(labels|custom) is .*, but executor 'serial' runs in this"):
        engine.fit(Settings(data=stripes, plugins=[toynet], resources=given, executor="serial"))


@pytest.mark.parametrize("lost", [1, 3])
def test_a_process_that_the_head_lost_is_asked_for_again(monkeypatch: pytest.MonkeyPatch, lost: int) -> None:
    from autotransfer.search import client

    asked = []

    def init(**given: Any) -> None:
        asked.append(given["address"])
        if len(asked) <= lost:
            raise ConnectionAbortedError("Initialization failure from server")

    monkeypatch.setattr(client.ray, "init", init)
    with pytest.raises(ConnectionAbortedError) if lost == 3 else contextlib.nullcontext():
        client.connect("ray://127.0.0.1:1")
    assert asked == ["ray://127.0.0.1:1"] * min(lost + 1, 3)
