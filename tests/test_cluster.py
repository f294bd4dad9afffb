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
from autotransfer.config import Settings, identity
from autotransfer.errors import ConfigError
from autotransfer.estimators import TransferClassifier
from autotransfer.gap import rows_hash
from autotransfer.runs import RunFolder

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


def test_an_estimator_passes_its_address_on(stripes: Any) -> None:
    with pytest.raises(ConfigError, match=r"wanted 'auto', or host:port .* or .* ray://host:port"):
        TransferClassifier(address="ray://head", trials=1).fit(*stripes)


def test_a_folder_that_another_run_holds_is_refused(pictures: Path, toynet: str, tmp_path: Path) -> None:
    out, flags = tmp_path / "run", [*fit_flags(pictures, toynet, tmp_path / "run"), "--executor", "serial"]
    held = Settings(data=pictures, plugins=[toynet], backbones=["toynet/small"], trials=3, seed=1, out=out)
    prepared = engine.make_ready(held, engine.silent).prepared.profile
    with RunFolder(out).opened(held, identity(held, rows_hash(prepared.fingerprint, prepared.unlabeled))):
        code, _, said = cli(*flags)
    assert code == 2
    assert f"{out} is in use by another run; wait for it or choose another --out" in said


def test_an_address_and_the_serial_executor_exclude_each_other(pictures: Path, toynet: str, tmp_path: Path) -> None:
    flags = [*fit_flags(pictures, toynet, tmp_path / "run"), "--address", "head:6379"]
    for more, said in ((["--executor", "serial"], "executor 'serial'"), (["--budget", "10s"], "a budget under 30 s")):
        own = [f for f in flags if "trials" not in f and f != "3"] if "--budget" in more else flags
        code, _, text = cli(*own, *more)
        assert code == 2
        assert said in text


def _distribution(folder: Path, version: str, weights: Path) -> str:
    """Write an installed distribution with a plugin; return the folder to put on the path."""
    folder.mkdir()
    info = folder / f"houseware-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: houseware\nVersion: {version}\n")
    (info / "top_level.txt").write_text("houseware\n")
    (info / "RECORD").write_text("houseware.py,,\n")
    source = Path(ROOT, "tests", "toys", "toynet.py").read_text().replace("toynet/", "houseware/")
    source = source.replace("BackboneSpec, ", "BackboneSpec, WeightSource, ")
    source = source.replace(
        "factory=build, input", f"weights=WeightSource(where='file', name={str(weights)!r}), factory=build, input"
    )
    (folder / "houseware.py").write_text(source)
    return str(folder)


def hidden(*folders: Path) -> str:
    """Return what a node of its own mount namespace runs so that it does not see what these folders hold."""
    return " && ".join(f"mount -t tmpfs none {folder}" for folder in folders)


needs_namespaces = pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="a node that sees another file system needs a mount namespace (root, and unshare)",
)


@pytest.mark.ray
@pytest.mark.slow
@needs_namespaces
def test_a_plugin_file_and_rows_in_memory_travel_to_a_node_that_sees_neither(
    cluster: Cluster, stripes: Any, toynet: str, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    shutil.copy(toynet, mine / "toynet.py")
    np.savez(mine / "rows.npz", images=stripes[0], labels=stripes[1])
    (mine / "driver.py").write_text(
        "import numpy as np, autotransfer, json, ray\n"
        f"ray.init(address={cluster.address!r}, log_to_driver=False)\n"
        f"rows = np.load({str(mine / 'rows.npz')!r})\n"
        f"model = autotransfer.fit((rows['images'], rows['labels']), plugins=[{str(mine / 'toynet.py')!r}],\n"
        f"    backbones='toynet/small', trials=2, out={str(tmp_path / 'run')!r},\n"
        "    resources={'cpus': 2})\n"
        "assert ray.is_initialized()\n"  # it was the caller's before
        "print(json.dumps([[r.status, r.reason, r.worker] for r in model.run.trials]))\n"
    )
    # Only this node has two CPUs, so that every trial runs on it; the driver's TMPDIR lies in what it does not see.
    with cluster.node("--num-cpus=2", "--object-store-memory=100000000", shell=hidden(mine)):
        before = set(Path(tempfile.gettempdir()).glob("autotransfer-plugins-*"))
        done = subprocess.run(
            [sys.executable, str(mine / "driver.py")],
            env=environment(TMPDIR=str(mine)),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert set(Path(tempfile.gettempdir()).glob("autotransfer-plugins-*")) == before
    trials = json.loads(done.stdout)
    assert len(trials) >= 2
    assert "failed" not in {status for status, _, _ in trials}, trials
    assert all(" on " in worker for _, _, worker in trials)


@pytest.mark.ray
@pytest.mark.slow
@needs_namespaces
def test_what_a_node_lacks_is_one_error(cluster: Cluster, pictures: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "small.safetensors").write_bytes(b"weights")
    old = _distribution(tmp_path / "old", "1.0", mine / "small.safetensors")
    new = _distribution(tmp_path / "new", "2.0", mine / "small.safetensors")
    flags = ["fit", str(pictures), "--backbones", "houseware/small", "--trials", "2", "--address", cluster.address]
    flags += ["--out", str(mine / "run"), "--resources", "{cpus: 2}"]
    plugins = {"AUTOTRANSFER_PLUGINS": "core=autotransfer_strategies,houseware=houseware"}
    with cluster.node(
        "--num-cpus=2",
        "--object-store-memory=100000000",
        env=environment(new),
        shell=hidden(mine, pictures),
    ):
        code, _, said = cli(*flags, env=environment(old, **plugins))
    assert code == 1, said
    assert said.count("error:") == 1
    for text in (
        "has other plugins than the driver: houseware: here 2.0, on the driver 1.0",
        f"does not see the run's folder {mine / 'run'}",
        "has no weights of houseware/small",
    ):
        assert text in said, said
    assert socket.gethostname() in said
    assert "trial " not in said
    assert not list((mine / "run" / ".work").glob("mark-*"))


@pytest.mark.ray
@pytest.mark.slow
def test_more_than_any_node_has_is_said_at_once(cluster: Cluster, pictures: Path, toynet: str, tmp_path: Path) -> None:
    flags = [*fit_flags(pictures, toynet, tmp_path / "run"), "--address", "auto"]
    began = time.monotonic()
    code, _, said = cli(*flags, "--resources", "{cpus: 1, gpus: 3}", env=environment(RAY_ADDRESS=cluster.address))
    assert code == 1
    assert time.monotonic() - began < 30
    assert "no node of Ray can hold a worker, which takes 1 CPU, 3 GPU" in said
    assert said.count("has 1 CPU, 0 GPU") == 2


@pytest.mark.ray
@pytest.mark.slow
def test_trials_run_on_nodes_of_the_wanted_labels_and_custom_resources(
    cluster: Cluster, pictures: Path, toynet: str, tmp_path: Path
) -> None:
    homes = {zone: tmp_path / zone for zone in "ab"}
    with contextlib.ExitStack() as both:
        for zone, home in homes.items():
            flags = ["--num-cpus=1", "--resources", '{"big": 1}', "--labels", f"zone={zone}"]
            both.enter_context(cluster.node(*flags, env=environment(AUTOTRANSFER_HOME=str(home))))
        env = environment(RAY_ADDRESS=cluster.address, AUTOTRANSFER_HOME=str(tmp_path / "driver"))
        flags = ["--address", "auto", "--resources"]
        mine = fit_flags(pictures, toynet, tmp_path / "run")
        code, _, said = cli(*mine, *flags, "{labels: {zone: [b, c]}, custom: {big: 1}}", env=env)
        assert code == 0, said
        assert (homes["b"] / "store").exists()  # where a worker puts what it decodes and computes
        assert not (homes["a"] / "store").exists()
        none = fit_flags(pictures, toynet, tmp_path / "none")
        code, _, said = cli(*none, *flags, "{labels: {zone: c}}", env=env)
        assert code == 1
        assert "takes 1 CPU on a node with zone=c" in said
        assert "has 1 CPU, zone=b" in said
        assert said.count("has 1 CPU, no label zone") == 2


@pytest.mark.ray
@pytest.mark.slow
def test_that_all_resources_are_taken_is_said_while_the_fit_waits(
    cluster: Cluster, pictures: Path, toynet: str, tmp_path: Path
) -> None:
    hold = (
        "import ray, sys, time\n"
        "ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')\n"
        "class Idle:\n"
        "    def ready(self): return True\n"
        "held = [ray.remote(num_cpus=1)(Idle).remote() for _ in range(2)]\n"
        "ray.get([h.ready.remote() for h in held]); print('held', flush=True); sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, cluster.address],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdin is not None
    try:
        assert other.stdout.readline() == "held\n"
        flags = fit_flags(pictures, toynet, tmp_path / "run", trials=1)
        command = [sys.executable, "-m", "autotransfer", *flags, "--address", cluster.address]
        fit = subprocess.Popen(
            command,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert fit.stderr is not None
        try:
            told = next(line for line in fit.stderr if "waiting" in line)
            assert "it takes 1 CPU, and free on all nodes together are 0 of 2 CPU" in told
            other.stdin.close()
            assert fit.wait(60) == 0
        finally:
            fit.kill()
            fit.wait()
            fit.stderr.close()
    finally:
        other.kill()
        other.wait()
        other.stdout.close()


@pytest.mark.ray
@pytest.mark.slow
def test_activations_come_from_the_node_that_has_them(cluster: Cluster, tmp_path: Path) -> None:
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import json, os, signal, sys, time\n"
        "from pathlib import Path\n"
        "import numpy as np, ray\n"
        "from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On\n"
        "from autotransfer.search.locality import FarDesk, Neighbours\n"
        "from autotransfer.store import Store\n"
        "def write(desk, folder):\n"
        "    store = Store(Path(folder), 10**9)\n"
        "    with store.put('key', {'a': ((5_000_000,), np.float32)}) as arrays:\n"
        "        arrays['a'][:] = np.arange(5_000_000)\n"
        "    Neighbours(desk).wrote(store, 'key')\n"
        "def bring(desk, folder, seconds):\n"
        "    store, near = Store(Path(folder), 10**9), Neighbours(desk)\n"
        "    ticks = []\n"
        "    brought = [near.bring(store, k, seconds, lambda: ticks.append(1)) for k in ('key', 'other')]\n"
        "    assert not brought[0] or len(ticks) == 5, ticks\n"
        "    found = store.get('key')\n"
        "    return brought, None if found is None else float(found['a'].astype(float).sum())\n"
        "def silent(folder, key):\n"
        "    yield {'a': ((4,), '<f4')}\n"
        "    time.sleep(600)\n"
        "def bring_nothing(desk, folder):\n"
        "    from autotransfer.search import locality\n"
        "    locality.SILENT, locality.pieces = 2.0, silent\n"
        "    store, began = Store(Path(folder), 10**9), time.monotonic()\n"
        "    brought = Neighbours(desk).bring(store, 'key', 600.0, lambda: None)\n"
        "    return brought, store.get('key') is None, time.monotonic() - began < 60\n"
        f"ray.init(address={cluster.address!r}, log_to_driver=False)\n"
        "north, south = [n['NodeID'] for n in ray.nodes() if n['Alive']][:2]\n"
        "desk, told = FarDesk(), []\n"
        "on = lambda f, node: ray.remote(num_cpus=0)(f).options(scheduling_strategy=On(node, soft=False)).remote\n"
        f"folders = [str(Path({str(tmp_path)!r}) / name) for name in ('north', 'south', 'lost', 'silent')]\n"
        "ray.get(on(write, north)(desk, folders[0]))\n"
        "told.append(ray.get(on(bring, south)(desk, folders[1], 0.0)))\n"
        "told.append(ray.get(on(bring, south)(desk, folders[1], 60.0)))\n"
        "told.append(ray.get(on(bring, north)(desk, folders[2], 60.0)))\n"
        "told.append(ray.get(on(bring_nothing, south)(desk, folders[3])))\n"
        "pid = ray.get(desk.actor.__ray_call__.remote(lambda _: os.getpid()))\n"
        "os.kill(pid, signal.SIGKILL)\n"  # it goes on empty, and is told again
        "told.append(desk.offer([], []))\n"
        "told.append(desk.taken('ticket'))\n"
        "print(json.dumps(told))\n"
    )
    done = subprocess.run(
        [sys.executable, str(driver)], env=environment(), capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    total = float(np.arange(5_000_000).sum())
    slow, brought, own, silent, offered, taken = json.loads(
        done.stdout.splitlines()[-1]
    )  # Ray says there that one died
    assert slow == [[False, False], None]
    assert brought == [[True, False], total]
    assert own == [[False, False], None]
    assert silent == [False, True, True]
    assert (offered, taken) == ({}, None)
