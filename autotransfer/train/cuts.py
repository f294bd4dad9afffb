"""Cuts: running a network from a stored activation on, and proving that nothing is lost by it.

The stage modules before the cut are replaced by stubs that hand back the stored activation; then the
network's own ``forward`` runs. A cut counts only after a numerical check on this very network.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autotransfer.train.autocast import exact
from autotransfer.train.network import call, mask_of
from autotransfer.train.stages import Stages, copied, stage_outputs

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Cut:
    """Whether a network may be run from after its first ``after`` stages."""

    after: int
    ok: bool
    reason: str = ""
    stem: bool = True
    """The modules outside the stages are skipped too, not only the stages."""
    inputs: bool = True
    """What follows the cut reads the original inputs too (a mask), and not only their shape."""


class _Stub(nn.Module):
    """Stands in for a module: gives a copy of a stored value, and forwards attribute reads to the original."""

    def __init__(self, original: nn.Module, value: Any, rows: int | None, widths: tuple[int, int] | None) -> None:
        super().__init__()
        object.__setattr__(self, "_original", original)
        object.__setattr__(self, "_value", value)
        object.__setattr__(self, "_rows", rows)
        object.__setattr__(self, "_widths", widths)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(object.__getattribute__(self, "_original"), name)

    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        return copied(self._value) if self._rows is None else _rows_like(self._value, self._rows, self._widths)


@contextmanager
def run_from(
    backbone: nn.Module,
    stages: Stages,
    cut: Cut,
    activation: Any,
    rows: int,
    stem_outputs: Mapping[str, Any] | None = None,
    width: int | None = None,
) -> Iterator[nn.Module]:
    """Give the backbone with its first ``cut.after`` stages replaced by ``activation`` (of ``rows`` rows).

    Only shapes are taken from ``stem_outputs`` (by default those of the stages' own trace): what the stem
    gives does not reach the result, but the network's ``forward`` may do arithmetic with it. ``width`` is the length
    of the inputs' mask, where they have one: these rows may be padded to another length than the traced ones.
    """
    recorded = stages.stem_outputs if stem_outputs is None else stem_outputs
    swaps: dict[str, tuple[Any, int | None]] = dict.fromkeys(stages.paths[: cut.after], (activation, None))
    if cut.stem:
        before = [p for p in stages.stem if _runs_before(stages, p, cut.after)]
        swaps |= {path: (recorded[path], rows) for path in before}
    originals = {}
    try:
        for path, (value, count) in swaps.items():
            originals[path] = backbone.get_submodule(path)
            widths = None if width is None or not stages.width_traced else (stages.width_traced, width)
            _replace(backbone, path, _Stub(originals[path], value, count, widths))
        yield backbone
    finally:
        for path, original in originals.items():
            _replace(backbone, path, original)


@exact()
def check_cuts(backbone: nn.Module, stages: Stages, inputs: Any, places: Iterable[int] | None = None) -> list[Cut]:
    """Return one verdict for each place between stages, and the trivial one after the last.

    Runs in ``float32`` without autocast, in eval mode; prefix + suffix must give the whole to a relative
    1e-5 of its largest value, and every parameter after the cut must still be reached.

    Args:
        backbone: the network; unchanged afterwards.
        stages: its stages, found with these very inputs.
        inputs: a batch of two rows or more.
        places: numbers of stages before the cuts to check; None: all of them.
    """
    backbone.eval()
    wanted = list(range(1, len(stages) + 1) if places is None else places)
    with torch.no_grad(), stage_outputs(backbone, stages.paths, copied) as seen:
        whole = call(backbone, inputs)
        kept = dict(seen)
    rows, wider = whole.shape[0], _wider(backbone, stages, inputs)
    cuts = []
    for after in wanted:
        if after == len(stages):
            cuts.append(Cut(after, True, inputs=False))
            continue
        path = stages.paths[after - 1]
        unfit = _unfit(kept.get(path), wider.get(path), rows)
        if unfit:
            cuts.append(Cut(after, False, unfit))
            continue
        # The cheapest way first; an activation that is nowhere to be had ends with the reason of the last way.
        ways = [Cut(after, True, inputs=False), Cut(after, True), Cut(after, True, stem=False)]
        reason = ""
        for way in ways[0 if _replaceable(inputs) else 1 :]:
            given = inputs if way.inputs else _altered(inputs)
            reason = _difference(backbone, stages, way, kept, given, whole, rows)
            if not reason:
                break
        cuts.append(way if not reason else Cut(after, False, reason))
    return cuts


def _wider(backbone: nn.Module, stages: Stages, inputs: Any) -> dict[str, Any]:
    """Return the stages' outputs on the same rows padded by one more place, where inputs have a mask."""
    mask = mask_of(inputs)
    if mask is None:
        return {}
    same = {n: v for n, v in inputs.items() if isinstance(v, Tensor) and v.shape[:2] == mask.shape}
    more = {n: torch.cat([v, torch.zeros_like(v[:, :1])], 1) for n, v in same.items()}
    try:
        with torch.no_grad(), stage_outputs(backbone, stages.paths, copied) as seen:
            call(backbone, {**inputs, **more})
    except Exception:  # inputs of one fixed length: nothing of theirs changes
        return {}
    return dict(seen)


def _unfit(activation: Any, wider: Any, rows: int) -> str:
    """Return why an activation cannot be kept row by row, or an empty string."""
    for one, other in itertools.zip_longest(_leaves(activation), _leaves(wider)):
        if one is not None and (not one.dim() or one.shape[0] != rows):
            return f"what is stored there holds a tensor of shape {list(one.shape)}, which is not one a row"
        if one is not None and other is not None and (one.dim() != other.dim() or one.shape[2:] != other.shape[2:]):
            return f"what is stored there holds a table over pairs of places, of shape {list(one.shape)}"
    return ""


def _leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for part in value for t in _leaves(part)] if isinstance(value, (tuple, list)) else []


def _difference(
    backbone: nn.Module,
    stages: Stages,
    cut: Cut,
    kept: Mapping[str, Any],
    inputs: Any,
    whole: Tensor,
    rows: int,
) -> str:
    """Return why the suffix does not give the whole, or an empty string."""
    activation = kept[stages.paths[cut.after - 1]]
    try:
        other = {path: _altered(value) for path, value in stages.stem_outputs.items()}
        with torch.no_grad(), run_from(backbone, stages, cut, activation, rows, other) as suffix:
            again = call(suffix, inputs)
    except Exception as error:  # whatever a foreign forward raises is the reason that the cut is dropped
        return f"the network does not run from here: {type(error).__name__}: {str(error)[:160]}"
    if not isinstance(again, Tensor) or again.shape != whole.shape:
        return "the network run from here gives another shape"
    gap = (again - whole).abs().max().item()
    if not gap <= TOLERANCE * max(1e-6, whole.abs().max().item()):
        return f"prefix + suffix differs from the whole by {gap:.2g}"
    late = [n for n in stages.ambiguous if stages.owners[n] >= cut.after]
    return _unreached(backbone, stages, cut, activation, inputs, rows, late) if late else ""


def _unreached(
    backbone: nn.Module, stages: Stages, cut: Cut, activation: Any, inputs: Any, rows: int, names: list[str]
) -> str:
    """Return which of the parameters, that count to a later stage, act before the cut, or there alone."""
    parameters = dict(backbone.named_parameters())
    wanted = [parameters[n] for n in names if parameters[n].requires_grad]
    path = stages.paths[cut.after - 1]
    with torch.enable_grad():
        with stage_outputs(backbone, [path], _total) as seen:
            result = call(backbone, inputs).sum()
            before = _gradients(seen[path], wanted, keep=True)
            full = _gradients(result, wanted)
        with run_from(backbone, stages, cut, activation, rows) as suffix:
            result = call(suffix, inputs).sum()
        part = _gradients(result, wanted)
    named = [n for n in names if parameters[n].requires_grad]
    lost = [n for n, a, b in zip(named, full, part, strict=True) if a is not None and b is None]
    lost += [n for n, a in zip(named, before, strict=True) if a is not None and n not in lost]
    return f"parameters that count to a later stage act before the cut: {', '.join(lost)}" if lost else ""


def _total(activation: Any) -> Tensor:
    """Return the sum of all floating values."""
    return torch.stack([t.sum() for t in _leaves(activation) if t.is_floating_point()]).sum()


def _gradients(total: Tensor, wanted: list[nn.Parameter], keep: bool = False) -> Sequence[Tensor | None]:
    if not total.requires_grad or not wanted:
        return [None] * len(wanted)
    return torch.autograd.grad(total, wanted, allow_unused=True, retain_graph=keep)


def _runs_before(stages: Stages, path: str, after: int) -> bool:
    return stages.modules.get(path, 0) < after


def _replace(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    root.get_submodule(parent)._modules[name] = module


def _replaceable(inputs: Any) -> bool:
    """Return whether inputs are floating values alone: those of ids and masks may decide what runs."""
    return isinstance(inputs, Tensor) and inputs.is_floating_point()


def _altered(value: Any) -> Any:
    """Return other numbers of the same shape: what the stem gives must not reach the result."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return 1.5 - 0.5 * value
    return type(value)(map(_altered, value)) if type(value) in (tuple, list) else value


def _rows_like(value: Any, rows: int, widths: tuple[int, int] | None = None) -> Any:
    """Return the value with its first axis repeated to ``rows``, padded ones to their length; maps are not copied."""
    if isinstance(value, Tensor) and value.dim():
        one = value[:1]
        if widths is not None and widths[0] != widths[1] and one.dim() > 1 and one.shape[1] == widths[0]:
            one = one[:, torch.arange(widths[1], device=one.device) % widths[0]]
        repeated = one.expand(rows, *one.shape[1:])
        return repeated if one.dim() > 3 else repeated.clone()  # some networks blank padded tokens in place
    if isinstance(value, (tuple, list)):
        return type(value)(_rows_like(v, rows, widths) for v in value)
    return value
