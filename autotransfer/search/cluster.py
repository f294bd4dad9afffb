"""A running Ray cluster: joined or started for the time of a fit, and its nodes."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autotransfer.data.moved import carried, files, packed
from autotransfer.errors import ClusterMismatchError, ConfigError, SearchError, faults
from autotransfer.resources import Share
from autotransfer.search.address import AUTO, WANTED, client_of, parts
from autotransfer.search.client import ANSWERS, connect
from autotransfer.search.jobs import Context
from autotransfer.search.nodes import lacks, needs, unmark
from autotransfer.search.placement import Node, enough, nodes

if TYPE_CHECKING:
    from autotransfer.data import Prepared

LISTENS = 5.0
"""Seconds in which something must accept a connection."""
OBJECTS, ROOM = "object_store_memory", 0.5
"""Ray's name of its object store as a resource, and the share of this node's that files of the data may take."""
PIECE = 16 * 2**20
"""Bytes of one piece of them."""
TOLD = 150.0
"""Seconds in which a node must have said what it lacks; it starts a process and imports the plugins for it."""
STUMBLED = 5.0
"""Seconds after which a node that could not be asked is taken for dead, or asked once more."""
_TRY = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
except BaseException as error:
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
    first = lines[0].partition(" Last connection error:")[0]  # a traceback follows, and its last line tells
    print(first if len(lines) == 1 else f"{first} {lines[-1]}")
else:
    print("joined")
    ray.shutdown()
"""


@contextlib.contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Be connected to a cluster; a connection that is there already is the caller's: it is used, and left.

    Args:
        address: ``auto``, host:port or ray://host:port; None: what the caller has connected to, or nothing yet.

    Raises:
        ConfigError: there is no such cluster, or this machine is no node of it and the address is not of Ray Client.
    """
    if ray.is_initialized():
        _is_the_callers(address)
        yield
    elif address is None:
        yield
    else:
        away = client_of(address)
        _listens(address, away)
        if away is None:
            _reachable(address)
        try:
            connect(away) if away is not None else _init(address)
        except Exception as error:  # Ray raises many kinds when it cannot join
            raise _unjoined(address, f"{type(error).__name__}: {' '.join(str(error).split())[:400]}") from error
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def started(workers: int, share: Share) -> Iterator[None]:
    """Use the Ray that is there, or start one on this machine and stop it afterwards.

    Args:
        workers: that are to run side by side.
        share: what one takes.

    Raises:
        SearchError: Ray is too old or cannot be started, or no node has what one worker needs.
    """
    if not hasattr(tune, "RunConfig"):  # what Tune's API had elsewhere before
        raise SearchError(
            f"Ray {ray.__version__} is too old; wanted 2.43 or later: pip install 'ray[tune]>=2.43', here and on all "
            "nodes; executor='serial' works without it"
        )
    own = not ray.is_initialized()
    if own:
        try:
            ray.init(
                address="local",  # whatever other Ray runs on this machine, or is named by RAY_ADDRESS
                num_cpus=max(1, int(workers * share.amounts.get("CPU", 1))),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:  # Ray raises many kinds when it cannot start
            raise SearchError(f"Ray cannot be started: {error}; executor='serial' works without it") from error
    try:
        enough(share)
        yield
    finally:
        if own:
            ray.shutdown()


def through_client() -> bool:
    """Return whether this process is connected to a cluster by Ray Client, as no node of it."""
    from ray.util.client import ray as client

    return bool(client.is_connected())


def _is_the_callers(address: str | None) -> None:
    """Refuse a connection of another kind, or to another cluster."""
    if address is None or (address == AUTO and client_of(address) is None):
        return
    away = through_client()
    there = "another machine" if away else ray.get_runtime_context().gcs_address
    if away or client_of(address) or _resolved(address) != _resolved(there):
        raise ConfigError(
            f"address is {address!r}, and this process is connected to the Ray at {there} already; "
            "call ray.shutdown() first, or leave address out to use that one"
        )


def _resolved(address: str) -> tuple[str, int]:
    host, port = parts(address)
    try:
        found = socket.gethostbyname(host)
    except OSError:
        found = host
    own = found.startswith("127.") or found == ray.util.get_node_ip_address()
    return ("here" if own else found), port


def _init(address: str) -> None:
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)


def _listens(address: str, away: str | None) -> None:
    """See that something accepts connections at an address."""
    if away is not None and importlib.util.find_spec("grpc") is None:
        raise ConfigError(f"the address {address!r} needs Ray Client; pip install 'autotransfer[client]'")
    if address != AUTO or away is not None:
        host, port = parts(away or address)
        try:
            socket.create_connection((host, port), timeout=LISTENS).close()
        except OSError as error:
            raise _unjoined(address, f"nothing answers there ({error.strerror or error})") from error


def _reachable(address: str) -> None:
    """Try an address in a process of its own: at a wrong one Ray waits for minutes, and cannot be told not to."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRY, address], capture_output=True, text=True, timeout=ANSWERS, check=False
        )
    except subprocess.TimeoutExpired as error:
        reason = f"Ray did not let this machine join within {ANSWERS:.0f} s: no Ray head may be there"
        raise _unjoined(address, reason) from error
    said = done.stdout.strip().splitlines()
    if not said or said[-1] != "joined":
        raise _unjoined(address, said[-1][:300] if said else f"Ray ended with exit code {done.returncode}")


def _unjoined(address: str, reason: str) -> ConfigError:
    where = (
        "where the head's environment has Ray Client too (pip install 'autotransfer[client]' before ray start)"
        if client_of(address)
        else "on a machine that is itself a node of it (ray start --address=HOST:PORT makes it one)"
    )
    return ConfigError(
        f"the Ray cluster at address {address!r} cannot be joined: {reason}; {WANTED}, {where}, with the same versions "
        "of Ray and Python, and with RAY_AUTH_MODE=token where the head asks for a token; "
        "or leave address out, and the run starts Ray on this machine"
    )


def slots(share: Share) -> int | None:
    """Return how many workers fit on all nodes of the cluster that this process is connected to; None: on none such.

    Args:
        share: what one worker takes.
    """
    if not ray.is_initialized() or through_client():
        return None
    found = nodes()
    return max(1, sum(n.holds(share) for n in found))


def travelling(context: Context, share: Share, offline: bool) -> dict[str, Any]:
    """Return what workers of other nodes get beside the context, after each node was asked whether it has the rest.

    Where nodes do not see the files of the data, the context is one that carries these in Ray's object store.

    Args:
        context: what workers share.
        share: what one worker takes; nodes that cannot hold one are not asked.
        offline: nodes may not fetch weights.

    Raises:
        ClusterMismatchError: what each node lacks, all of it at once.
    """
    asked = needs(context, offline)
    try:
        found, blind = _asked(asked, [n for n in nodes() if n.holds(share)])
    finally:
        unmark(asked)
    paths = list(files(context.prepared)) if blind else []
    size, room = sum(p.stat().st_size for p in paths if p.is_file()), ROOM * nodes()[0].resources.get(OBJECTS, 0)
    if blind and (not paths or size > room):
        most = (
            f"{size / 1e9:.2f} GB of files are not sent: {room / 1e9:.2f} GB may be, half of this node's object store"
        )
        found += [*blind, f"{most} (ray start --object-store-memory=...)"] if paths else blind
    if found:
        raise ClusterMismatchError(faults("the cluster cannot run this search", found))
    more = {"home": ray.get_runtime_context().get_node_id(), "sources": asked.sources, "offline": offline}
    return {**more, "context": replace(context, prepared=_in_store(context.prepared, paths))} if blind else more


class _Objects:
    """Pieces of files in Ray's object store, by number; a node fetches one when it first needs it."""

    def __init__(self, refs: list[Any]) -> None:
        self.refs = refs

    def __call__(self, number: int) -> Any:
        return ray.get(self.refs[number])


def _in_store(prepared: Prepared, paths: list[Path]) -> Prepared:
    refs: list[Any] = []
    places: dict[Path, tuple[int, int, int]] = {}
    for body, inside in packed(paths, PIECE):
        places |= {path: (len(refs), *span) for path, span in inside.items()}
        refs.append(ray.put(body))
    return carried(prepared, places, _Objects(refs))


def _asked(asked: Any, able: list[Node]) -> tuple[list[str], list[str]]:
    """Return what nodes say that they lack, and what files.

    One that died meanwhile is left out, another that failed is asked again.
    """
    found, blind, lost = _answers(asked, able)
    if lost:
        time.sleep(STUMBLED)
        alive = {n.id for n in nodes()}
        again, unseen, still = _answers(asked, [n for n in lost if n.id in alive])
        alive = {n.id for n in nodes()}
        found += [*again, *(text for node, text in still.items() if node.id in alive)]
        blind += unseen
    return found, blind


def _answers(asked: Any, able: list[Node]) -> tuple[list[str], list[str], dict[Node, str]]:
    """Return what nodes lack, and what files, all asked at the same time; and why some said nothing."""
    if not able:
        return [], [], {}
    shared, ask = ray.put(asked), ray.remote(num_cpus=0, max_retries=0)(lacks)
    running = {
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n.id, soft=False)).remote(
            shared, n.name, n.id
        ): n
        for n in able
    }
    done, _ = ray.wait(list(running), num_returns=len(running), timeout=TOLD)
    found: list[str] = []
    blind: list[str] = []
    lost: dict[Node, str] = {}
    for answer, node in running.items():
        if answer not in done:
            found.append(f"node {node.name} did not answer within {TOLD:.0f} s; see that it is well, or take it away")
            continue
        try:
            said: Any = ray.get(answer)
            found += said[0]
            blind += said[1]
        except Exception as error:  # whatever went wrong over there, first of all an import
            last = [line for line in str(error).splitlines() if line.strip()][-1:]
            lost[node] = (
                f"node {node.name} could not be asked: {' '.join(last)[:300]}; "
                "install autotransfer and its plugins there, in the environment that its Ray runs in"
            )
    return found, blind, lost
