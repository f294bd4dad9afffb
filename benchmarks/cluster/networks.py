"""Network namespaces on this machine, each with an address of its own, as the machines of a cluster have."""

from __future__ import annotations

import contextlib
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path


class Network:
    """A bridge, and namespaces on it; needs root and ``ip``.

    Args:
        count: of namespaces.
    """

    def __init__(self, count: int) -> None:
        tag = uuid.uuid4().hex[:6]
        self.bridge = f"atb{tag}"
        self.names = [f"atb{tag}-{n}" for n in range(count)]
        self.net = f"10.213.{os.getpid() % 250}"

    @property
    def address(self) -> str:
        """The address of what is in no namespace."""
        return f"{self.net}.1"

    def address_in(self, number: int) -> str:
        """Return the address of a namespace."""
        return f"{self.net}.{number + 2}"

    def inside(self, number: int, folder: str = "") -> list[str]:
        """Return what a command begins with that runs in a namespace.

        Args:
            number: of the namespace.
            folder: where it is a machine of its own, one that is empty there at first: other machines see neither its
                session of Ray nor its processes, by which a driver looks for the raylet beside it.
        """
        there = ["ip", "netns", "exec", self.names[number]]
        if not folder:
            return there
        alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return [*there, *alone, "sh", "-c", f'mount -t tmpfs none {folder} && exec "$@"', "sh"]

    @staticmethod
    def beside(pid: int) -> list[str]:
        """Return what a command begins with that runs on the same machine as one that was started there."""
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
        return ["nsenter", "--target", child, "--mount", "--net", "--pid"]

    def up(self) -> None:
        """Make all of it.

        Raises:
            RuntimeError: this machine does not allow it.
        """
        _ip(f"link add name {self.bridge} type bridge")
        _ip(f"addr add {self.address}/24 dev {self.bridge}")
        _ip(f"link set {self.bridge} up")
        for number, name in enumerate(self.names):
            _ip(f"netns add {name}")
            outer, inner = f"{self.bridge}o{number}", f"{self.bridge}i{number}"
            _ip(f"link add {outer} type veth peer name {inner}")
            _ip(f"link set {inner} netns {name}")
            _ip(f"link set {outer} master {self.bridge} up")
            for command in (
                f"addr add {self.address_in(number)}/24 dev {inner}",
                f"link set {inner} up",
                "link set lo up",
            ):
                _ip(f"-n {name} {command}")

    def down(self) -> None:
        """Take it away."""
        for name in self.names:
            with contextlib.suppress(RuntimeError):
                _ip(f"netns del {name}")
        with contextlib.suppress(RuntimeError):
            _ip(f"link del {self.bridge}")


def _ip(command: str) -> None:
    done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {command}: {done.stderr.strip()}")


@contextlib.contextmanager
def network(count: int) -> Iterator[Network]:
    """Give a network for a while."""
    made = Network(count)
    try:
        made.up()
        yield made
    finally:
        made.down()
