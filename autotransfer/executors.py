"""Where the jobs of a fit run: in this process, on a Ray of this machine, or on a cluster."""

from __future__ import annotations

import contextlib
import os
import sys

from autotransfer.config import Settings
from autotransfer.errors import ConfigError
from autotransfer.resources import CUSTOM, LABELS, Share
from autotransfer.search.policy import HEADS_ONLY


def joined(settings: Settings) -> contextlib.AbstractContextManager[None]:
    """Hold the connection to a Ray cluster as long as a run takes; Ray on this machine is started when it is needed.

    Raises:
        ConfigError: the cluster cannot be joined, or the run would not use it.
    """
    if executor_of(settings) == "serial":
        idle = {f"resources.{n}": v for n, v in (settings.resources or {}).items() if n in (CUSTOM, LABELS)}
        idle |= {} if settings.address is None else {"address": settings.address}
        if idle:
            why = f"a budget under {HEADS_ONLY:g} s" if settings.executor != "serial" else "executor 'serial'"
            named = " and ".join(f"{n} is {v!r}" for n, v in idle.items())
            raise ConfigError(f"{named}, but {why} runs in this process; leave out one of the two")
        return contextlib.nullcontext()
    if settings.address is None and "ray" not in sys.modules:
        return contextlib.nullcontext()
    from autotransfer.search import cluster

    return cluster.joined(settings.address)


def through_client(settings: Settings) -> bool:
    """Return whether the run goes through Ray Client: its engine runs on the cluster's head, not in this process."""
    if executor_of(settings) == "serial" or "ray" not in sys.modules:
        return False
    from autotransfer.search import cluster

    return cluster.through_client()


def executor_of(settings: Settings) -> str:
    """Return ``ray`` or ``serial``."""
    seconds = settings.limit.seconds
    return "serial" if seconds is not None and seconds < HEADS_ONLY else settings.executor


def workers_of(settings: Settings) -> int:
    """Return how many trials may run at the same time: as many as fit on the nodes that are known, or as asked."""
    if executor_of(settings) == "serial":
        return 1
    if settings.max_workers is not None:
        return settings.max_workers
    if "ray" in sys.modules:
        from autotransfer.search import cluster

        found = cluster.slots(Share.of(settings.resources))
        if found is not None:
            return found
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(cores / max(1.0, settings.share()["cpus"])))
