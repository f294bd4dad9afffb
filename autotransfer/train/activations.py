"""Activations at a cut, kept in the store: written in one pass of the frozen stages, read back batch by batch.

An activation is a tensor, or tuples and lists of tensors and plain values. Its tensors are the entry's
arrays ``a0``, ``a1``...; how they were nested is the array ``form``, JSON as bytes. Floats are kept as ``float16``
where every value is below 3e4 in size (``float16`` ends at 65504 and overflows silently), else as ``float32``.
Rows of different length (texts) are kept without padding, one after the other; the array ``ends`` says where.
Images whose channels lie innermost are kept that way, so that what is read back is laid out as the suffix wants it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from autotransfer.codec import dumps
from autotransfer.errors import PluginContractError
from autotransfer.store import Store
from autotransfer.train.cuts import Cut
from autotransfer.train.evaluate import EVALUATION_BATCH, device_of, nothing
from autotransfer.train.network import call, to_device
from autotransfer.train.ragged import ends_of, lengths_of, pack, unpack, windows
from autotransfer.train.stages import Stages

if TYPE_CHECKING:
    from autotransfer.protocols import Rows

FORM, ENDS = "form", "ends"
MOST_HALF = 3e4
"""Values of this size or more are kept in ``float32``."""

_PLAIN = (type(None), bool, int, float, str)


class _OverflowError(Exception):
    """A later batch has values too large for the dtype that the first one chose; this never leaves the module."""

    def __init__(self, names: set[str]) -> None:
        super().__init__(names)
        self.names = names


class _ReachedError(Exception):
    """The stage before the cut has run: what comes after it is not wanted."""


def write_activations(
    store: Store,
    key: str,
    backbone: nn.Module,
    stages: Stages,
    cut: Cut,
    rows: Rows,
    *,
    half: bool = True,
    tick: Callable[[], None] = nothing,
) -> None:
    """Keep the activation at a cut for all rows, in their order; only the stages before the cut are run.

    The first batch decides the dtype of each array; where a later one does not fit it, the pass is done again
    with that array in ``float32``.

    Args:
        store: where to.
        key: of the entry; must stand for weights, cut, transform, view, rows and ``half``.
        backbone: put in eval mode, else unchanged.
        stages: its stages.
        cut: one between stages that was checked and is right; after the last stage, pooled features serve.
        rows: at least one.
        half: floats may be kept as ``float16``.
        tick: called before each batch.

    Raises:
        PluginContractError: an activation is not finite, is no tensor or tuple of tensors with one row for each
            input row, or differs in shape from batch to batch.
        StoreFullError: the store cannot keep it.
        ValueError: the cut failed its check or is the last, or there are no rows.
    """
    if not cut.ok:
        raise ValueError(f"the cut after stage {cut.after} failed its check ({cut.reason}); wanted one that is right")
    if cut.after >= len(stages):  # check_cuts takes it as given: a network may use its stem again after the last stage
        raise ValueError(f"the cut after stage {cut.after} is the last, which has no check; wanted one between stages")
    if not len(rows):
        raise ValueError("there are no rows to keep activations of; wanted one or more")
    full: set[str] = set()
    while True:
        try:
            with torch.no_grad():
                path, lengths = stages.paths[cut.after - 1], lengths_of(rows)
                _write(store, key, _leaves(backbone, path, rows, tick), len(rows), half, full, lengths)
            return
        except _OverflowError as late:
            full |= late.names


def read_activations(arrays: Mapping[str, np.ndarray[Any, Any]], indices: Sequence[int]) -> Any:
    """Return the activation of these rows, in this order: copies, floats as ``float32``, on the CPU.

    Args:
        arrays: what :meth:`Store.get` gave for an entry that :func:`write_activations` wrote.
        indices: of rows, from 0.

    Raises:
        IndexError: there is no such row.
    """
    chosen = np.asarray(indices, dtype=np.int64)
    held = json.loads(arrays[FORM].tobytes())
    tensors = {}
    for name, inner in held["inner"].items():
        stored, ends = arrays[name], arrays[ENDS] if name in held.get("ragged", ()) else None
        count = len(stored if ends is None else ends)
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < count:
            raise IndexError(f"rows {chosen.min()} to {chosen.max()} were asked for; there are {count}")
        picked = stored[chosen] if ends is None else unpack(stored, ends, chosen)
        tensor = torch.from_numpy(picked.astype(np.float32, copy=False) if picked.dtype.kind == "f" else picked)
        tensors[name] = tensor.permute(0, 3, 1, 2) if inner else tensor
    return _built(held["form"], tensors)


def mixed_views(
    views: Sequence[Mapping[str, np.ndarray[Any, Any]]], indices: Sequence[int], numbers: np.ndarray[Any, Any]
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the stored arrays of these rows alone, in this order, each taken from one of several views.

    Args:
        views: entries of the same rows and cut, one a view, of one form.
        indices: of rows, from 0.
        numbers: the view ``int64`` [len(indices)] of each.
    """
    if ENDS in views[0]:
        raise ValueError("rows of different length have one view; wanted rows of one shape")
    rows = np.asarray(indices, dtype=np.int64)
    places = [np.flatnonzero(numbers == number) for number in range(len(views))]
    order = np.argsort(np.concatenate(places))
    named = [n for n in views[0] if n != FORM]
    # Where values of one view did not fit float16, concatenating makes all of them float32.
    found = {n: np.concatenate([v[n][rows[p]] for v, p in zip(views, places, strict=True)])[order] for n in named}
    return {FORM: views[0][FORM], **found}


def _write(
    store: Store,
    key: str,
    batches: Iterator[_Batch],
    count: int,
    half: bool,
    full: set[str],
    lengths: np.ndarray[Any, Any] | None,
) -> None:
    first = next(batches)
    inner = {f"a{i}": _channels_innermost(leaf) for i, leaf in enumerate(first.leaves)}
    ragged = {n for n, leaf in zip(inner, first.leaves, strict=True) if _is_ragged(first, leaf, lengths)}
    dtypes = {n: _dtype(leaf, half and n not in full) for n, leaf in zip(inner, first.leaves, strict=True)}
    form = {"form": first.form, "inner": inner, **({"ragged": sorted(ragged)} if ragged else {})}
    text = np.frombuffer(dumps(form).encode(), np.uint8)
    ends = ends_of(lengths) if ragged and lengths is not None else np.zeros(0, np.int64)
    shapes = {
        n: (int(ends[-1]), *leaf.shape[2:]) if n in ragged else (count, *_laid(leaf, inner[n]).shape[1:])
        for n, leaf in zip(inner, first.leaves, strict=True)
    }
    wanted: dict[str, Any] = {FORM: (text.shape, text.dtype), **{n: (shapes[n], dtypes[n]) for n in inner}}
    wanted |= {ENDS: (ends.shape, ends.dtype)} if ragged else {}
    with store.put(key, wanted) as arrays:
        arrays[FORM][:] = text
        if ragged:
            arrays[ENDS][:] = ends
        for batch in itertools.chain([first], batches):
            _expect_same(first, batch, lengths)
            named = dict(zip(inner, batch.leaves, strict=True))
            late = {n for n, f in named.items() if dtypes[n] == np.float16 and _largest(f) >= MOST_HALF}
            if late:
                raise _OverflowError(late)
            for name, leaf in named.items():
                values = _laid(leaf, inner[name]).cpu().numpy()
                if name in ragged:
                    pack(arrays[name], ends, batch.rows, values)
                else:
                    arrays[name][batch.rows] = values


@dataclass
class _Batch:
    """The activation of some rows."""

    rows: list[int]
    form: Any
    """How it is nested, JSON-ready."""
    leaves: list[Tensor]


def _leaves(backbone: nn.Module, path: str, rows: Rows, tick: Callable[[], None]) -> Iterator[_Batch]:
    backbone.eval()
    device = device_of(backbone)
    for numbers in itertools.chain.from_iterable(windows(rows, 0, len(rows), EVALUATION_BATCH)):
        tick()
        leaves: list[Tensor] = []
        form = _taken(_output_of(backbone, path, to_device(rows.batch(numbers), device)), len(numbers), leaves)
        if not leaves:
            raise PluginContractError(f"stage {path!r} gives no tensor; wanted a tensor or a tuple of tensors")
        yield _Batch(numbers, form, leaves)


def _is_ragged(batch: _Batch, leaf: Tensor, lengths: np.ndarray[Any, Any] | None) -> bool:
    """Return whether a tensor holds one value for each place of the padded inputs."""
    return lengths is not None and leaf.dim() > 1 and leaf.shape[1] == max(1, int(lengths[batch.rows].max()))


def _output_of(backbone: nn.Module, path: str, inputs: Any) -> Any:
    """Return what a stage gives, without running what comes after it."""
    seen = []

    def stop(_module: nn.Module, _inputs: Any, result: Any) -> None:
        seen.append(result)
        raise _ReachedError

    hook = backbone.get_submodule(path).register_forward_hook(stop)
    try:
        call(backbone, inputs)
    except _ReachedError:  # raised above: all that was wanted is there
        return seen[0]
    finally:
        hook.remove()
    if seen:  # what went on may have changed it in place
        raise PluginContractError(f"the network catches an exception raised in stage {path!r}; wanted it to pass")
    raise PluginContractError(f"stage {path!r} did not run in a forward pass; wanted every declared stage to")


def _taken(value: Any, rows: int, leaves: list[Tensor]) -> Any:
    """Put the tensors of an activation on a list and return its form, JSON-ready."""
    if type(value) in (tuple, list):
        return {type(value).__name__: [_taken(v, rows, leaves) for v in value]}
    if isinstance(value, _PLAIN):
        return {"value": value}
    if not isinstance(value, Tensor):
        raise PluginContractError(
            f"an activation holds {type(value).__name__}; wanted tensors, tuples and lists of them, and plain values"
        )
    if not value.dim() or value.shape[0] != rows:
        raise PluginContractError(
            f"an activation of {rows} rows holds a tensor of shape {tuple(value.shape)}; wanted one row for each"
        )
    kept = value.float() if value.is_floating_point() else value
    if not kept.isfinite().all():
        raise PluginContractError("an activation has values that are not finite in float32 (NaN or infinity)")
    leaves.append(kept)
    return {"array": f"a{len(leaves) - 1}"}


def _built(form: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return tensors and plain values nested as they were."""
    if "array" in form:
        return tensors[form["array"]]
    if "value" in form:
        return form["value"]
    parts = [_built(p, tensors) for p in form.get("tuple", form.get("list"))]
    return tuple(parts) if "tuple" in form else parts


def _expect_same(first: _Batch, again: _Batch, lengths: np.ndarray[Any, Any] | None) -> None:
    shapes = [
        [tuple(f.shape[2:]) if _is_ragged(batch, f, lengths) else tuple(f.shape[1:]) for f in batch.leaves]
        for batch in (first, again)
    ]
    if first.form != again.form or shapes[0] != shapes[1]:
        raise PluginContractError(
            f"an activation differs from batch to batch: {shapes[0]} for a row, then {shapes[1]}; "
            "wanted one shape, one nesting and the same plain values for all rows"
        )


def _channels_innermost(leaf: Tensor) -> bool:
    outer, inner = leaf.is_contiguous(), leaf.dim() == 4 and leaf.is_contiguous(memory_format=torch.channels_last)
    return inner and not outer


def _laid(leaf: Tensor, inner: bool) -> Tensor:
    return leaf.permute(0, 2, 3, 1) if inner else leaf


def _dtype(leaf: Tensor, half: bool) -> np.dtype[Any]:
    if leaf.is_floating_point():
        return np.dtype(np.float16 if half and _largest(leaf) < MOST_HALF else np.float32)
    return leaf[:0].cpu().numpy().dtype


def _largest(leaf: Tensor) -> float:
    return leaf.abs().max().item() if leaf.numel() else 0.0
