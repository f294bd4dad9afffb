"""Work goes where its data lie: the desk of a cluster's workers, and stores of other nodes as a worker sees them."""

from __future__ import annotations

import asyncio
import contextlib
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autotransfer.search.desk import Desk, Offer
from autotransfer.store import Store

PIECE = 8 * 2**20
"""Bytes of an entry that travel at once."""
SILENT = 30.0
"""Seconds without a piece after which a node is taken to be gone."""
MOST_WORKERS = 10_000
"""Calls that the desk's process takes at once; each worker that waits is one."""
WAITS = 60.0
"""Seconds that a worker waits for a job before it asks for a new ticket, should the desk have been lost."""
LOOKS = 5.0
"""Seconds after which a worker that waits looks again."""
AHEAD = 4
"""Pieces that may lie in the object store before they are fetched."""


class WaitingDesk(Desk):
    """A desk at which workers wait: between two jobs Tune would end them, and a new one has all to load again."""

    def __init__(self) -> None:
        super().__init__()
        self.tickets: frozenset[str] = frozenset()
        self.news = asyncio.Event()

    def offer(self, offers: Sequence[Offer], tickets: Collection[str]) -> dict[str, str]:
        """As of :class:`Desk`; who waits with a ticket that counts no more is let go."""
        found = super().offer(offers, tickets)
        self.tickets = frozenset(tickets)
        self.news.set()
        self.news = asyncio.Event()
        return found

    async def wait(self, ticket: str, node: str, worker: str, seconds: float) -> str | None:
        """As ``take``, once there is a job; None where none came in so many seconds, or the ticket does not count."""
        ends = time.monotonic() + seconds
        while ticket in self.tickets:
            if (text := self.take(ticket, node, worker)) is not None:
                return text
            left = ends - time.monotonic()
            if left <= 0:
                break
            with contextlib.suppress(TimeoutError):  # it looks again: a job may be overdue meanwhile
                await asyncio.wait_for(self.news.wait(), min(left, LOOKS))
        return None


class FarDesk:
    """A desk on the driver's node that workers of all nodes reach; to the searcher like one of its own."""

    late = True

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        made: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(WaitingDesk)
        self.actor: Any = made.options(scheduling_strategy=here, max_concurrency=MOST_WORKERS).remote()

    def close(self) -> None:
        """End its process: a Ray that is the caller's lives on, and would keep it."""
        with contextlib.suppress(RayError):
            ray.kill(self.actor)

    def offer(self, offers: Sequence[Offer], tickets: Collection[str]) -> dict[str, str]:
        """As of :class:`Desk`."""
        found: dict[str, str] = ray.get(self.actor.offer.remote(list(offers), list(tickets)))
        return found

    def taken(self, ticket: str) -> str | None:
        """As of :class:`Desk`."""
        found: str | None = ray.get(self.actor.taken.remote(ticket))
        return found

    def take(self, ticket: str, node: str = "", worker: str = "") -> str | None:
        """As of :class:`Desk`."""
        found: str | None = ray.get(self.actor.take.remote(ticket, node, worker))
        return found

    def wait(self, ticket: str, node: str, worker: str) -> str | None:
        """As of :class:`WaitingDesk`, for a minute."""
        found: str | None = ray.get(self.actor.wait.remote(ticket, node, worker, WAITS))
        return found


class Neighbours:
    """The stores of other nodes, as a worker on this one sees them."""

    def __init__(self, desk: FarDesk) -> None:
        self.desk = desk.actor
        self.node = ray.get_runtime_context().get_node_id()

    def wrote(self, store: Store, key: str) -> None:
        """Let others know of an entry of this node's store."""
        self.desk.keep.remote(key, self.node, str(store.folder))

    def bring(self, store: Store, key: str, seconds: float, tick: Callable[[], None]) -> bool:
        """Bring an entry of another node's store into this one; return whether it is here now.

        It is given up where its first pieces say that it takes longer than to make it anew.

        Args:
            store: of this node.
            key: of the entry.
            seconds: that it takes to make it anew.
            tick: called for each piece, so that a long way is not taken for a hang.

        Raises:
            StoreFullError: this node's store cannot keep it.
        """
        try:
            found = ray.get(self.desk.keeper.remote(key))
            if found is None or found[0] == self.node:
                return False
            there = NodeAffinitySchedulingStrategy(found[0], soft=False)
            send: Any = ray.remote(num_cpus=0, max_retries=0)(pieces)
            chosen = send.options(scheduling_strategy=there, _generator_backpressure_num_objects=AHEAD)
            sent = chosen.remote(found[1], key)
            received(store, key, _each(sent, tick), seconds)
        except (RayError, _SlowError):  # that node is gone, or too far away: this one can do without it
            return False
        return True


def _each(sent: Any, tick: Callable[[], None]) -> Iterator[Any]:
    """Yield the pieces that a task on another node sends.

    Raises:
        _SlowError, RayError: nothing came for a while.
    """
    while True:
        ready, _ = ray.wait([sent], timeout=SILENT)
        if not ready:
            raise _SlowError
        try:
            piece = ray.get(next(sent), timeout=SILENT)
        except StopIteration:
            return
        tick()
        yield piece


class _SlowError(Exception):
    """An entry is not there any more, came damaged, or takes too long to come; this never leaves the module."""


def pieces(folder: str, key: str) -> Iterator[Any]:
    """Yield shapes and dtypes of an entry's arrays by name, then their bytes in pieces, then the CRC-32 of all bytes.

    Args:
        folder: of the store.
        key: of the entry; where the store has none, nothing is yielded.
    """
    arrays = Store(Path(folder), 0).get(key)
    if arrays is None:
        return
    yield {name: (array.shape, array.dtype.str) for name, array in arrays.items()}
    crc = 0
    for array in arrays.values():
        flat = array.reshape(-1).view(np.uint8)
        for at in range(0, len(flat), PIECE):
            piece = np.array(flat[at : at + PIECE])
            crc = zlib.crc32(piece.data, crc)
            yield piece
    yield crc


def received(store: Store, key: str, sent: Iterator[Any], seconds: float) -> None:
    """Keep an entry that comes in pieces.

    Raises:
        _SlowError: it does not come, not whole, or not within ``seconds``. Nothing is kept.
        StoreFullError: the store cannot keep it.
    """
    shapes: Mapping[str, tuple[tuple[int, ...], str]] | None = next(sent, None)
    if shapes is None:
        raise _SlowError
    began, crc = time.perf_counter(), 0
    with store.put(key, {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in shapes.items()}) as arrays:
        flats = [array.reshape(-1).view(np.uint8) for array in arrays.values()]
        whole, done = sum(map(len, flats)), 0
        for flat in flats:
            at = 0
            while at < len(flat):
                piece = next(sent, None)
                if piece is None:
                    raise _SlowError
                flat[at : at + len(piece)] = piece
                crc = zlib.crc32(piece.data, crc)
                at, done = at + len(piece), done + len(piece)
                if (time.perf_counter() - began) * whole / done > seconds:
                    raise _SlowError
        if next(sent, None) != crc:
            raise _SlowError
