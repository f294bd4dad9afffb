"""The address of a running Ray cluster: what it may look like. Ray is not loaded for it."""

from __future__ import annotations

import os
from typing import Any

AUTO = "auto"
SCHEME = "ray://"
WANTED = (
    "wanted 'auto', or host:port of the cluster's head, as ray start --head says it (port 6379 by default), or from a "
    "machine that is no node of it ray://host:port of the head's Ray Client server (port 10001 by default)"
)


def address_faults(address: Any) -> list[str]:
    """Return what is wrong with an address as a text."""
    if address is None:
        return []
    got = f"address is {address!r:.80}"
    if not isinstance(address, str):
        return [f"{got}; {WANTED}"]
    named = client_of(address)
    if named is not None and address == AUTO:
        got += f", and RAY_ADDRESS is {named!r:.80}"
    if address == AUTO and named is None:
        return []
    host, port = parts(named or address)
    if not host or not 0 < port < 65536:
        alone = "; leave it out, and the run starts Ray on this machine" if address == "local" else ""
        return [f"{got}; {WANTED}{alone}"]
    return []


def client_of(address: str | None) -> str | None:
    """Return the address of Ray Client (``ray://``) that is meant; None: it is another kind of address."""
    found = os.environ.get("RAY_ADDRESS", "") if address == AUTO else address
    return found if found is not None and found.startswith(SCHEME) else None


def parts(address: str) -> tuple[str, int]:
    """Return host and port; port 0 where there is none."""
    host, _, port = address.removeprefix(SCHEME).rpartition(":")
    return host.strip("[]"), int(port) if port.isascii() and port.isdigit() else 0
