"""A Ray cluster of several nodes on this machine, in a folder and with a mark of its own; whole nodes can die."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ray

from benchmarks.cluster.networks import Network
from benchmarks.economy.cells import ROOT
from benchmarks.economy.tree import MARK, Tree

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
STARTS = 120.0
"""Seconds in which a node must have started."""


class Workers(Tree):
    """The processes of a mark that run tasks and actors, idle ones too; Ray's daemons and agents are left out."""

    def _marked(self) -> Iterator[tuple[int, int, float, str]]:
        for found in super()._marked():
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{found[0]}/cmdline").read_bytes()
                if "default_worker" in line.decode(errors="replace") or (b"ray::" in line and b"Agent" not in line):
                    yield found


@dataclass
class Node:
    """A raylet and what it has started."""

    cluster: Cluster
    flags: tuple[str, ...]
    core: int | None
    inside: Sequence[str] = ()
    """What its command begins with, where it runs in a network namespace."""
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is there."""
        log = Path(self.cluster.folder, f"node-{self.mark[:6]}-{time.time_ns()}.log")
        pinned = ["taskset", "-c", str(self.core)] if self.core is not None else []
        command = [*self.inside, *pinned, *RAY, "start", "--block", "--disable-usage-stats", *self.flags]
        env = {**self.cluster.environment(), MARK: self.mark}
        with log.open("wb") as said:
            self.process = subprocess.Popen(
                command, env=env, stdout=said, stderr=said, start_new_session=True, cwd=self.cluster.folder
            )
        began = time.monotonic()
        while "Ray runtime started" not in log.read_text(errors="replace"):
            if self.process.poll() is not None or time.monotonic() - began > STARTS:
                raise RuntimeError(f"a node did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill every process of the node at once, as a machine that loses its power does."""
        for _ in range(3):
            for pid in Tree(self.mark).alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def workers(self) -> list[int]:
        """Return ids of the processes that run a trial's actor now."""
        found = []
        for pid in Workers(self.mark).alive():
            with contextlib.suppress(OSError):
                if b"Visit" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return sorted(found)


class Cluster:
    """A head without CPUs and nodes of one each.

    Args:
        nodes: how many.
        network: with a namespace for each node, and one more; None: all share this machine's network.
    """

    def __init__(self, nodes: int, network: Network | None = None) -> None:
        self.network = network
        self.folder = tempfile.mkdtemp(prefix="atb-", dir="/tmp")  # sockets want a short path
        Path(self.folder, "tmp").mkdir()
        self.ip = str(ray.util.get_node_ip_address()) if network is None else network.address
        port, client = _free_port(), _free_port()
        self.address, self.far = f"{self.ip}:{port}", f"ray://{self.ip}:{client}"
        small = "--object-store-memory=100000000"
        head = ("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self.folder}/ray", small)
        own = (f"--node-ip-address={self.ip}", f"--ray-client-server-port={client}") if network is not None else ()
        self.head = Node(self, (*head, *own, "--num-cpus=0"), None)
        cores = sorted(os.sched_getaffinity(0))
        flags = ("--address", self.address, "--num-cpus=1", small)
        self.nodes = [Node(self, flags, cores[n % len(cores)]) for n in range(nodes)]
        if network is not None:
            for number, node in enumerate(self.nodes):
                node.flags = (*flags, f"--node-ip-address={network.address_in(number)}")
                node.inside = network.inside(number, f"{self.folder}/ray")

    def driver(self, command: Sequence[str], *, client: bool = False) -> list[str]:
        """Return a command that runs where a driver does: on a node that is not the head, or on no node of it."""
        if self.network is None:
            return list(command)
        if client:
            return [*self.network.inside(len(self.nodes)), *command]
        assert self.nodes[0].process is not None
        return [*self.network.beside(self.nodes[0].process.pid), *command]

    def environment(self) -> dict[str, str]:
        """Return the variables of all processes of the cluster, and of a driver."""
        clean = {n: v for n, v in os.environ.items() if n not in ("RAY_ADDRESS", "AUTOTRANSFER_PLUGINS")}
        return {
            **clean,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "plugins"))),
            "AUTOTRANSFER_PLUGINS": "core=autotransfer_strategies",
            "AUTOTRANSFER_HOME": f"{self.folder}/home",
            "TMPDIR": f"{self.folder}/tmp",
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "disabled",
            "GRPC_ENABLE_FORK_SUPPORT": "0",
        }

    def __enter__(self) -> Cluster:
        """Start all nodes."""
        try:
            for node in (self.head, *self.nodes):
                node.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """End all nodes, and remove the folder."""
        for node in (*self.nodes, self.head):
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])
