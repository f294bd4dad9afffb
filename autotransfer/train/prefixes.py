"""Frozen prefixes: trainings of a suffix run from stored activations, where that costs less than running the prefix."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from autotransfer.errors import PluginContractError, StoreFullError
from autotransfer.store import Store
from autotransfer.train.activations import FORM, mixed_views, read_activations, write_activations
from autotransfer.train.cuts import Cut, check_cuts, run_from
from autotransfer.train.evaluate import EVALUATION_BATCH, device_of, nothing, probe_of
from autotransfer.train.network import TransferNetwork, call, mask_of, to_device
from autotransfer.train.ragged import in_order, windows
from autotransfer.train.stages import Stages

if TYPE_CHECKING:
    from autotransfer.protocols import Rows

FORMAT = 1
"""Of the entries; raised whenever the same key would stand for other activations."""
ATTEMPTS = 2
"""Cuts that are tried, from the last one down."""
READ = 40.0
"""Multiply-accumulates that take as long as reading one stored byte (a core does some 40 GMAC/s in bfloat16, and
copies, widens and lays out about 1 GB/s)."""
BYTES = 2
"""Of one stored value."""


@dataclass
class Prefix:
    """The activations of all rows at one cut, and how to go on from there."""

    stages: Stages
    cut: Cut
    entries: Mapping[str, Sequence[Mapping[str, np.ndarray[Any, Any]]]]
    """Arrays of the store, by split, one a view."""
    rows: Mapping[str, Rows]

    def holds(self, name: str) -> bool:
        """Return whether a tensor of the backbone lies before the cut."""
        return self.stages.owners.get(name, 0) < self.cut.after

    @contextmanager
    def suffix(
        self, backbone: nn.Module, split: str, indices: Sequence[int], numbers: np.ndarray[Any, Any] | None = None
    ) -> Iterator[Callable[[], Any]]:
        """Give a function that runs the rest of the backbone on these rows: its output, and the inputs' mask or None.

        Args:
            backbone: whose rest it is.
            split: ``train`` or ``validation``.
            indices: of rows.
            numbers: view of each row of the split; None: all as they are.
        """
        device, views = device_of(backbone), self.entries[split]
        if numbers is None:
            activation = read_activations(views[0], indices)
        else:
            arrays = mixed_views(views, indices, numbers[np.asarray(indices, dtype=np.int64)])
            activation = read_activations(arrays, range(len(indices)))
        activation = to_device(activation, device)
        inputs = to_device(self._inputs(split, indices, numbers), device)
        mask = mask_of(inputs)
        width = None if mask is None else mask.shape[1]
        with run_from(backbone, self.stages, self.cut, activation, len(indices), width=width) as rest:
            yield lambda: (call(rest, inputs), mask)

    def _inputs(self, split: str, indices: Sequence[int], numbers: np.ndarray[Any, Any] | None) -> Any:
        if self.cut.inputs:  # a mask, positions
            rows = self.rows[split]
            return (rows if numbers is None else rows.view(numbers)).batch(indices)
        shape = self.stages.inputs
        return torch.zeros(1, *shape).expand(len(indices), *shape)

    @torch.no_grad()
    def predict(self, network: TransferNetwork, split: str, tick: Callable[[], None] = nothing) -> Tensor:
        """Return the network's outputs ``float32`` [N, outputs] on a split, in its order, on the CPU."""
        network.eval()
        parts = []
        rows = self.rows[split]
        for window in windows(rows, 0, len(rows), EVALUATION_BATCH):
            found = []
            for numbers in window:
                tick()
                with self.suffix(network.backbone, split, numbers) as run:
                    found.append(network.head(*run()).float().cpu())
            parts.append(in_order(window, found))
        return torch.cat(parts) if parts else torch.zeros(0, 0)


class Kept:
    """The stored activations that a training goes on from: never those of other weights than lie before their cut."""

    def __init__(self) -> None:
        self._found: tuple[Hashable, Prefix | None] | None = None
        self._aside: tuple[tuple[Hashable, Prefix | None], dict[str, Tensor]] | None = None
        """What was found, and the tensors before its cut that it belongs to, while others are in their place."""

    def at(self, key: Hashable, find: Callable[[], Prefix | None]) -> Prefix | None:
        """Return what was found for a stretch of the training; asked for the first time, it is looked for."""
        if self._found is None or self._found[0] != key:
            self._found = (key, find())
        return self._found[1]

    def outdate(self, key: Hashable, changed: Iterable[str]) -> None:
        """Let a stretch run without stored activations where one of these tensors of the backbone is before the cut."""
        found = self._found[1] if self._found is not None else None
        if found is None or any(found.holds(n) for n in changed):
            self._found = (key, None)

    @contextmanager
    def checked(self, state: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Iterator[None]:
        """Set what was found aside where tensors before its cut change within, and take it up once they are back.

        Args:
            state: the network's own tensors, by name.
            given: what some of them become.
        """
        found = self._found[1] if self._found is not None else None
        changes = found is not None and _differ(_prefixed(found, given), state)
        if self._found is not None and found is not None and changes:
            before = {n: t.detach().clone() for n, t in _prefixed(found, state).items()}
            self._aside, self._found = (self._found, before), (self._found[0], None)
        yield
        if not changes and self._aside is not None and not _differ(self._aside[1], state):
            self._found, self._aside = self._aside[0], None


def _prefixed(found: Prefix, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a network that lie before a cut."""
    own = "backbone."
    return {n: t for n, t in state.items() if n.startswith(own) and found.holds(n.removeprefix(own))}


def _differ(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bool:
    return any(not torch.equal(t.to(state[n]), state[n]) for n, t in tensors.items())


class Elsewhere(Protocol):
    """Stores of other nodes."""

    def wrote(self, store: Store, key: str) -> None:
        """Let others know of an entry of this node's store."""

    def bring(self, store: Store, key: str, seconds: float, tick: Callable[[], None]) -> bool:
        """Bring an entry into this node's store, where that takes less than ``seconds``; return whether it is here."""


@dataclass
class Prefixes:
    """Finds, or writes, the activations that trainings of one network may start from.

    A key hashes the prefix's own tensors, so that an adapted or partly trained prefix is never taken for the
    pretrained one.
    """

    store: Store
    about: tuple[Any, ...]
    """What else activations depend on: code, transform, rows, arithmetic. Goes into the key."""
    rows: Mapping[str, Rows]
    """``train`` and ``validation``."""
    half: bool = True
    """Floats may be kept as ``float16``."""
    tick: Callable[[], None] = nothing
    elsewhere: Elsewhere | None = None
    """Where other nodes' activations may be had."""
    row_seconds: float = 0.0
    """Seconds in which one row runs through the whole network."""
    notes: list[str] = field(default_factory=list)

    def find(self, backbone: nn.Module, stages: Stages, frozen: int, epochs: float, views: int = 1) -> Prefix | None:
        """Return the stored activations at the last usable cut within the frozen stages; None: run from the input.

        Args:
            backbone: as it is now; the first ``frozen`` stages do not change while the result is used.
            stages: its stages.
            frozen: how many of the first stages are not trained.
            epochs: passes that will start there.
            views: of each training row that are kept; the validation rows have but one.
        """
        last = min(frozen, len(stages) - 1)
        modes = [(module, module.training) for module in backbone.modules()]
        try:
            tried = (self._at(backbone, stages, p, epochs, views) for p in range(last, max(0, last - ATTEMPTS), -1))
            return next((found for found in tried if found is not None), None)
        finally:  # it is looked for in the middle of a training, whose stages drop out
            for module, mode in modes:
                module.training = mode

    def _at(self, backbone: nn.Module, stages: Stages, place: int, epochs: float, views: int) -> Prefix | None:
        wanted = [(split, number) for split in self.rows for number in range(views if split == "train" else 1)]
        about = (stages.paths[place - 1], _digest(backbone, stages, place))
        keys = {(split, number): self._key(about, split, number) for split, number in wanted}
        entries = {one: self.store.get(key) for one, key in keys.items()}
        missing = [one for one, found in entries.items() if found is None]
        # The validation rows are few and have one view: they are written in the pass of the first one.
        passes = max(1, sum(split == "train" for split, _ in missing)) if missing else 0
        if not _pays(stages, place, epochs, passes):
            return None
        (cut,) = check_cuts(backbone, stages, probe_of(self.rows["train"], backbone), places=(place,))
        if not cut.ok:
            self.notes.append(
                f"trained without stored activations: the cut after {stages.paths[place - 1]} {cut.reason}"
            )
            return None
        try:
            for split, number in missing:
                rows, key = self.rows[split], keys[split, number]
                if not self._brought(key, stages, place, len(rows)):
                    rows = rows.view(number) if number else rows
                    write_activations(self.store, key, backbone, stages, cut, rows, half=self.half, tick=self.tick)
                    if self.elsewhere is not None:
                        self.elsewhere.wrote(self.store, key)
                entries[split, number] = self.store.get(key)
        except (StoreFullError, PluginContractError) as error:
            self.notes.append(f"trained without stored activations: {error}")
            return None
        held: dict[str, list[Mapping[str, np.ndarray[Any, Any]]]] = {split: [] for split in self.rows}
        for (split, _), found in entries.items():
            if found is None or not np.array_equal(found[FORM], (*held[split], found)[0][FORM]):
                return None  # evicted since, or one view is nested otherwise than another
            held[split].append(found)
        return Prefix(stages, cut, held, self.rows)

    def _brought(self, key: str, stages: Stages, place: int, rows: int) -> bool:
        """Return whether another node's activations are here now, which cost less to bring than to make anew."""
        if self.elsewhere is None:
            return False
        anew = self.row_seconds * rows * stages.macs[place - 1] / stages.macs[-1]
        if brought := self.elsewhere.bring(self.store, key, anew, self.tick):
            self.notes.append(f"activations after {stages.paths[place - 1]} came from another node")
        return brought

    def _key(self, about: tuple[str, str], split: str, number: int) -> str:
        own = (FORMAT, torch.__version__, *about, split, self.half)
        return Store.key("activations", *own, *self.about, *(("view", number) if number else ()))


def affordable_views(stages: Stages, frozen: int, epochs: float, most: int) -> int:
    """Return how many views of each row are worth keeping: 1 unless reading them costs less than making them anew.

    A view is worth its place as long as all of them are written, and read in each epoch, for less than it takes to
    run the frozen stages in each epoch on rows augmented anew. What a store holds already has no part in it.

    Args:
        stages: of the network.
        frozen: how many of the first stages are not trained.
        epochs: passes that read them.
        most: views that there are.
    """
    place = min(frozen, len(stages) - 1)
    counts = range(most, 1, -1)
    return next((n for n in counts if place > 0 and _pays(stages, place, epochs, passes=n)), 1)


def _digest(backbone: nn.Module, stages: Stages, place: int) -> str:
    """Return a hash of the tensors before a cut."""
    found = hashlib.sha256()
    state = backbone.state_dict()
    for name in sorted(state):
        if stages.owners.get(name, 0) < place:
            found.update(f"{name} {state[name].dtype} {tuple(state[name].shape)}".encode())
            found.update(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _size(stages: Stages, place: int) -> int | None:
    """Return the values that one row's activation has at a cut; None where it holds no tensor."""
    sizes = [t.numel() // max(1, t.shape[0]) for t in _tensors(stages.activations[place - 1])]
    return sum(sizes) if sizes else None


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.dim() else []
    return [t for part in value for t in _tensors(part)] if isinstance(value, (tuple, list)) else []


def _pays(stages: Stages, place: int, epochs: float, passes: int) -> bool:
    """Return whether reading in each epoch, after so many passes that write, costs less than making them anew."""
    size = _size(stages, place)
    if size is None or not stages.macs:
        return False
    prefix, read = stages.macs[place - 1], READ * BYTES * size
    return epochs * prefix > epochs * read + passes * (prefix + read)
