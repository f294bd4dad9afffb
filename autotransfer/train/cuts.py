"""Cuts: running a network from a stored activation on, and proving that nothing is lost by it.

The stage modules before the cut are replaced by stubs that hand back the stored activation; then the
network's own ``forward`` runs. A cut counts only after a numerical check on this very network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autotransfer.train.autocast import exact
from autotransfer.train.network import call
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

    def __init__(self, original: nn.Module, value: Any, rows: int | None) -> None:
        super().__init__()
        object.__setattr__(self, "_original", original)
        object.__setattr__(self, "_value", value)
        object.__setattr__(self, "_rows", rows)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(object.__getattribute__(self, "_original"), name)

    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        return copied(self._value) if self._rows is None else _rows_like(self._value, self._rows)


@contextmanager
def run_from(
    backbone: nn.Module,
    stages: Stages,
    cut: Cut,
    activation: Any,
    rows: int,
    stem_outputs: Mapping[str, Any] | None = None,
) -> Iterator[nn.Module]:
    """Give the backbone with its first ``cut.after`` stages replaced by ``activation`` (of ``rows`` rows).

    Only shapes are taken from ``stem_outputs`` (by default those of the stages' own trace): what the stem
    gives does not reach the result, but the network's ``forward`` may do arithmetic with it.
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
            _replace(backbone, path, _Stub(originals[path], value, count))
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
    rows = whole.shape[0]
    cuts = []
    for after in wanted:
        if after == len(stages):
            cuts.append(Cut(after, True, inputs=False))
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
    """Return which of the parameters get a gradient in the whole network but none from the cut on."""
    parameters = dict(backbone.named_parameters())
    wanted = [parameters[n] for n in names if parameters[n].requires_grad]
    with torch.enable_grad():
        full = torch.autograd.grad(call(backbone, inputs).sum(), wanted, allow_unused=True) if wanted else ()
        with run_from(backbone, stages, cut, activation, rows) as suffix:
            result = call(suffix, inputs).sum()
        part = torch.autograd.grad(result, wanted, allow_unused=True) if result.requires_grad else [None] * len(wanted)
    lost = [n for n, a, b in zip(names, full, part, strict=False) if a is not None and b is None]
    return f"parameters that count to a later stage act before the cut: {', '.join(lost)}" if lost else ""


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


def _rows_like(value: Any, rows: int) -> Any:
    """Return the value with its first axis repeated to ``rows``; maps, which are large, without copying."""
    if isinstance(value, Tensor) and value.dim():
        repeated = value[:1].expand(rows, *value.shape[1:])
        return repeated if value.dim() > 3 else repeated.clone()  # some networks blank padded tokens in place
    if isinstance(value, (tuple, list)):
        return type(value)(_rows_like(v, rows) for v in value)
    return value
