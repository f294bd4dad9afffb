"""Entries of another node's store: they come whole and in time, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotransfer.schema import Recipe
from autotransfer.search import locality
from autotransfer.search.desk import offer_of
from autotransfer.search.jobs import RungJob
from autotransfer.search.locality import WaitingDesk
from autotransfer.store import Store

ARRAYS = {
    "a": np.arange(5000, dtype=np.float32).reshape(50, 100),
    "b": np.zeros((0, 3), np.float16),
    "c": np.array([7], np.int64),
}


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Another node's store with one entry, sent in pieces of 1,000 bytes."""
    monkeypatch.setattr(locality, "PIECE", 1000)
    store = Store(tmp_path / "there", 10**6)
    with store.put("key", {n: (a.shape, a.dtype) for n, a in ARRAYS.items()}) as arrays:
        for name, array in ARRAYS.items():
            arrays[name][...] = array
    return store


def test_an_entry_comes_whole(there: Store, tmp_path: Path) -> None:
    here = Store(tmp_path / "here", 10**6)
    sent = list(locality.pieces(str(there.folder), "key"))
    assert len(sent) == 1 + 20 + 1 + 1
    locality.received(here, "key", iter(sent), seconds=60)
    found = here.get("key")
    assert found is not None
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


def _cut(sent: list[Any]) -> list[Any]:
    return sent[:-5]


def _damaged(sent: list[Any]) -> list[Any]:
    piece = sent[3].copy()
    piece[0] ^= 1
    return [*sent[:3], piece, *sent[4:]]


@pytest.mark.parametrize("broken", [_cut, _damaged, lambda _: []])
def test_what_does_not_come_whole_is_not_kept(broken: Any, there: Store, tmp_path: Path) -> None:
    here = Store(tmp_path / "here", 10**6)
    sent = broken(list(locality.pieces(str(there.folder), "key")))
    with pytest.raises(locality._SlowError):
        locality.received(here, "key", iter(sent), seconds=60)
    assert here.get("key") is None
    assert here.size() == 0


def test_what_takes_longer_than_to_make_it_anew_is_given_up_early(there: Store, tmp_path: Path) -> None:
    here, asked = Store(tmp_path / "here", 10**6), 0

    def slowly() -> Iterator[Any]:
        nonlocal asked
        for one in locality.pieces(str(there.folder), "key"):
            asked += 1
            yield one

    with pytest.raises(locality._SlowError):
        locality.received(here, "key", slowly(), seconds=0.0)
    assert asked == 2
    assert here.get("key") is None


def test_a_store_that_has_lost_its_entry_sends_nothing(there: Store) -> None:
    assert list(locality.pieces(str(there.folder), "other")) == []


def test_workers_wait_at_the_desk_until_there_is_a_job_or_nothing_to_wait_for() -> None:
    offers = [offer_of(RungJob(id=i, recipe=Recipe(backbone="a/b", strategy="c/d")), i) for i in ("one", "two")]

    async def day() -> list[str | None]:
        desk = WaitingDesk()
        desk.offer(offers[:1], ["x", "y", "z"])
        told: list[str | None] = [await desk.wait(t, "node", t, 5.0) for t in ("x", "of a lost desk")]
        told.append(await desk.wait("y", "node", "y", 0.01))  # nothing came in time
        waits = [asyncio.create_task(desk.wait(t, "node", t, 5.0)) for t in ("y", "z")]
        await asyncio.sleep(0)
        desk.offer(offers, ["x", "z"])  # the worker with y died: its ticket must not take the job
        told += [await w for w in waits]
        last = asyncio.create_task(desk.wait("w", "node", "w", 5.0))
        desk.offer(offers, ["x", "z", "w"])
        await asyncio.sleep(0)
        desk.offer([], [])
        return [*told, await last]

    assert asyncio.run(day()) == ["one", None, None, None, "two", None]
