"""The address of a running Ray cluster: what it may look like. Ray is not loaded for it."""

from __future__ import annotations

import os
from typing import Any

AUTO = "auto"
WANTED = "wanted 'auto', or host:port of the cluster's head, as ray start --head says it (port 6379 by default)"
CLIENT = (
    "Ray Client (ray://) is not supported: the search runs in this process, beside Ray's own data; run it on a machine "
    "of the cluster, itself or by ray job submit, with address 'auto' or host:port"
)


def address_faults(address: Any) -> list[str]:
    """Return what is wrong with an address as a text."""
    if address is None:
        return []
    got = f"address is {address!r:.80}"
    if not isinstance(address, str):
        return [f"{got}; {WANTED}"]
    if address.startswith("ray://"):
        return [f"{got}; {CLIENT}"]
    if address == AUTO:
        named = os.environ.get("RAY_ADDRESS", "")
        return [f"{got}, and RAY_ADDRESS is {named!r:.80}; {CLIENT}"] if named.startswith("ray://") else []
    host, port = parts(address)
    if not host or not 0 < port < 65536:
        alone = "; leave it out, and the run starts Ray on this machine" if address == "local" else ""
        return [f"{got}; {WANTED}{alone}"]
    return []


def parts(address: str) -> tuple[str, int]:
    """Return host and port; port 0 where there is none."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port) if port.isascii() and port.isdigit() else 0
