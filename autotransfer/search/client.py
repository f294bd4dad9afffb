"""Ray Client (``ray://``): an actor on the cluster's head that works for this process. It imports ray.

Ray Tune cannot run here: it moves itself to the head, away from a policy that lives in this process. So the whole
engine runs there, and this process sends it files and hears of it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray

from autotransfer.errors import ClusterMismatchError, SearchError
from autotransfer.search.host import Host, News, Part
from autotransfer.search.nodes import PLACE

ANSWERS = 22.0
"""Seconds in which Ray must have let a process join."""
GRACE = "RAY_CLIENT_RECONNECT_GRACE_PERIOD"
"""Names the seconds after which Ray takes a client that is silent to be gone; a connection reads it when it begins."""
CONNECTS = 3
"""Times that a head is asked for a process, before anything is sent to it: about one in twelve dies as the head forks
it, unless the head was started with GRPC_ENABLE_FORK_SUPPORT=0 (ray-project/ray issue 63202)."""
SERVED = 60.0
"""Seconds more that a head whose Ray Client server has answered has to start a process for this one."""
HEAD = "node:__internal_head__"
"""Resource that Ray gives to the head's node alone."""
STARTS = 120.0
"""Seconds in which the actor must have started: a process, and the imports of plugins."""
PIECE = 32 * 2**20
"""Bytes that travel at once: neither side holds more of the files in memory."""


@contextlib.contextmanager
def _longer() -> Iterator[None]:
    """Let Ray end what a client that is gone left behind later than this does so itself, and more tidily."""
    given = os.environ.get(GRACE)
    os.environ.setdefault(GRACE, "120")
    try:
        yield
    finally:
        if given is None:
            os.environ.pop(GRACE, None)


def _init(address: str) -> None:
    for left in range(CONNECTS - 1, -1, -1):
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionAbortedError:
            if not left:
                raise
        else:
            return


def connect(address: str) -> None:
    """Connect by Ray Client in a thread, which cannot be ended: a connection that comes too late is given up again.

    Another process could be ended, but each connection starts one on the head too, and this would make two of them.

    Args:
        address: ray://host:port.

    Raises:
        TimeoutError: nothing answered in time.
        Exception: as Ray raises it.
    """
    from ray.util.client import ray as client

    over, late, both = threading.Event(), threading.Event(), threading.Lock()
    raised: list[Exception] = []

    def try_it() -> None:
        try:
            with _longer():
                _init(address)
        except Exception as error:
            raised.append(error)
        with both:
            over.set()
        if late.is_set() and not raised:
            ray.shutdown()

    threading.Thread(target=try_it, daemon=True).start()
    there = over.wait(ANSWERS) or getattr(client.get_context(), "client_worker", None) is not None
    over.wait(SERVED if there else 0)
    with both:
        if not over.is_set():
            late.set()
            why = "has started no process for this one" if there else "did not answer: it may be no Ray Client server"
            raise TimeoutError(f"within {ANSWERS + SERVED * there:.0f} s the head {why}")
    if raised:
        raise raised[0]


class Far:
    """A host on the head, as its client has it; what Ray raises becomes a SearchError."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def call(self, method: str, *given: Any, seconds: float | None = None) -> Any:
        """Return what a method of :class:`autotransfer.search.host.Host` gives.

        Raises:
            SearchError: the host or the connection is lost.
        """
        try:
            return ray.get(getattr(self.actor, method).remote(*given), timeout=seconds)
        except Exception as error:  # Ray raises many kinds
            raise SearchError(f"the engine on the cluster's head is lost: {_last(error)}") from error

    def send(self, parts: Sequence[Part]) -> None:
        """Write pieces of files under the host's folder; they travel through the object store."""
        self.call("take", ray.put(list(parts)))

    def run(self, engine: Callable[..., None], settings: Any, prepared: Any, *given: Any) -> Any:
        """Begin to run an engine there; rows in memory go into the object store once.

        Returns:
            What tells that it has ended.
        """
        return self.actor.run.remote(engine, settings, ray.put(prepared), *given)

    def begun(self, run: Any) -> None:
        """See that a run did not end before its engine could tell of it.

        Raises:
            SearchError: it did, as where the rows or the settings cannot be unpickled there.
        """
        try:
            done, _ = ray.wait([run], timeout=0)
            ray.get(done)
        except Exception as error:  # Ray raises many kinds
            raise SearchError(f"the engine on the cluster's head could not run: {_last(error)}") from error


class Listener:
    """Hears of a host in a thread of its own, so that Ctrl-C in the main one never meets Ray at work.

    Args:
        far: the host.
        run: what :meth:`Far.run` gave.
        ledger: bytes of the ledger that this process has.
    """

    def __init__(self, far: Far, run: Any, ledger: int) -> None:
        self.far = far
        self.run = run
        self.ledger = ledger
        self.stopped = False
        self._news: queue.Queue[News | SearchError] = queue.Queue()
        self._asked = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def stop(self) -> None:
        """End the run as Ctrl-C does.

        Raises:
            KeyboardInterrupt: that was asked before.
        """
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
        self._asked.set()

    def news(self) -> Iterator[News]:
        """Yield what is new until the run has ended.

        Raises:
            SearchError: the host or the connection is lost, or the run could not begin there.
        """
        while True:
            try:
                found = self._news.get(timeout=1.0)
            except queue.Empty:  # a wait without end would not see signals everywhere
                continue
            if isinstance(found, SearchError):
                raise found
            yield found
            if found.outcome is not None:
                return

    def _listen(self) -> None:
        try:
            while True:
                stop = self._asked.is_set()
                if stop:
                    self._asked.clear()
                found: News = self.far.call("listen", self.ledger, stop)
                self.ledger += len(found.ledger)
                self._news.put(found)
                if found.outcome is not None:
                    return
                self.far.begun(self.run)
        except SearchError as error:
            self._news.put(error)


@contextlib.contextmanager
def hosted(name: str) -> Iterator[Far]:
    """Have a host on the head; it ends with the block, and by itself where this process dies.

    Args:
        name: what the actor's name begins with.

    Raises:
        ClusterMismatchError: autotransfer cannot be run there.
    """
    shared = os.environ.get(PLACE, "")
    # Sixteen calls at once: one runs for the whole search, the others are short.
    kind: Any = ray.remote(Host)
    asked = {"num_cpus": 0, "max_concurrency": 16, "max_restarts": 0, "resources": {HEAD: 0.001}}
    actor = kind.options(name=f"{name}-{uuid.uuid4().hex[:8]}", **asked).remote(shared)
    far = Far(actor)
    try:
        try:
            far.call("place", seconds=STARTS)
        except SearchError as error:
            raise ClusterMismatchError(
                f"{error}; install autotransfer and its plugins there, in the environment that its Ray runs in, and "
                f"see that the folder named by {PLACE}, where it is given, can be written to"
            ) from error
        yield far
    finally:
        with contextlib.suppress(Exception):  # it may be gone, and so may the connection
            ray.get(actor.close.remote(), timeout=STARTS)
        with contextlib.suppress(Exception):
            ray.kill(actor)


def _last(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
