"""The nodes of a cluster, which of them can hold a worker, and the wait for a free one."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.util.placement_group import placement_group

from autotransfer.errors import NoWorkerError, SearchError
from autotransfer.resources import Share

PATIENCE, AGAIN = 15.0, 30.0
"""Seconds without a running trial after which a user is told why nothing happens, and is told so again."""


@dataclass(frozen=True, eq=False)
class Node:
    """A machine of the cluster, or what stands for one."""

    id: str
    name: str
    """What a user knows it by."""
    resources: Mapping[str, float]
    labels: Mapping[str, str]

    def holds(self, share: Share) -> int:
        """Return how many workers fit, where nothing else runs."""
        return share.fits(self.resources, self.labels)


def nodes() -> list[Node]:
    """Return the nodes that are alive, that of this process first."""
    here = ray.get_runtime_context().get_node_id()
    found = [
        Node(
            n["NodeID"],
            f"{n['NodeManagerHostname']} ({n['NodeManagerAddress']}, {n['NodeID'][:8]})",
            n["Resources"],
            n.get("Labels") or {},
        )
        for n in ray.nodes()
        if n["Alive"]
    ]
    return sorted(found, key=lambda n: (n.id != here, n.name))


def enough(share: Share) -> None:
    """See that one worker fits on some node.

    Args:
        share: what one worker takes.

    Raises:
        SearchError: none has it, however long one waits; or this Ray knows no labels.
    """
    if share.labels and "bundle_label_selector" not in inspect.signature(placement_group).parameters:
        raise SearchError(f"resources.labels needs Ray 2.49 or later, and this is {ray.__version__}; leave labels out")
    found = nodes()
    if any(n.holds(share) for n in found):
        return
    have = "; ".join(f"{n.name} has {share.of_node(n.resources, n.labels)}" for n in found)
    raise SearchError(f"no node of Ray can hold a worker, which takes {share}: {have}; ask for less by resources=")


def placed(share: Share) -> tune.PlacementGroupFactory:
    """Return what Ray Tune reserves for one worker."""
    more: dict[str, Any] = {"bundle_label_selector": [share.selector()]} if share.labels else {}
    return tune.PlacementGroupFactory([dict(share.amounts)], **more)


class Waiting(tune.Callback):
    """Tells a user that trials wait for resources which others hold; gives up at the end of the budget.

    Args:
        notify: whom to tell.
        share: what one worker takes.
        deadline: ``time.time()`` seconds after which there is nothing to wait for.
    """

    def __init__(self, notify: Callable[..., None], share: Share, deadline: float) -> None:
        self.notify = notify
        self.share = share
        self.deadline = deadline
        self.began: float | None = None
        self.next = 0.0

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Look whether some trial waits and none runs."""
        states = {t.status for t in trials}
        if "PENDING" not in states or "RUNNING" in states:
            self.began = None
            return
        now = time.monotonic()
        if self.began is None:
            self.began, self.next = now, now + PATIENCE
        if now < self.next:
            return
        self.next = now + AGAIN
        text = f"{now - self.began:.0f} s for a worker to start: {self._told()}"
        if time.time() > self.deadline:
            raise NoWorkerError(f"the budget ended after {text}; ask for less by resources=, or come when Ray is free")
        self.notify("waiting", text=text)

    def _told(self) -> str:
        free, all_of = ray.available_resources(), ray.cluster_resources()
        shares = (f"{free.get(n, 0):g} of {all_of.get(n, 0):g} {n}" for n in self.share.amounts)
        return f"it takes {self.share}, and free on all nodes together are {', '.join(shares)}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Return an empty callback: what Tune writes of its tuner is never read again."""
        return tune.Callback, ()
