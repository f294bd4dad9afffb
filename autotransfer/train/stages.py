"""Stages of a network: found, ordered, and every parameter put in exactly one of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autotransfer.errors import PluginContractError, suggestion
from autotransfer.protocols import MASK
from autotransfer.train.autocast import exact
from autotransfer.train.heads import pool_activation, pool_output
from autotransfer.train.network import call, mask_of

MOST_TRACED = 12
"""Traced networks are given at most this many stages."""


@dataclass
class Call:
    """One call of one module during a forward pass."""

    path: str
    enter: int
    leave: int = -1
    macs: float = 0.0
    """Multiply-accumulates from the input to the end of this call, for the whole batch."""
    output: Any = None


@dataclass(frozen=True)
class Stages:
    """A network's stages with what belongs to each."""

    paths: tuple[str, ...]
    owners: dict[str, int]
    """Stage of each parameter and buffer, by name."""
    modules: dict[str, int]
    """Stage of each module that runs inside one stage, by path."""
    stem: tuple[str, ...]
    """Modules outside the stages that run before the last one, in order."""
    ambiguous: frozenset[str]
    """Parameters used outside any called submodule, so placed by their order of registration."""
    macs: tuple[float, ...] = ()
    """Multiply-accumulates for one row from the input to the end of each stage; the last is the whole."""
    width: int = 0
    """Pooled features of the backbone's output."""
    widths: tuple[int, ...] = ()
    """Pooled features after each stage, 0 where there are none; the last is ``width``."""
    inputs: tuple[int, ...] = ()
    """Shape of one row of the inputs, where they are one tensor."""
    width_traced: int = 0
    """Length of the mask of the inputs that the stages were found with; 0: they have none."""
    activations: tuple[Any, ...] = field(default=(), repr=False, compare=False)
    stem_outputs: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.paths)


@exact()
def find_stages(backbone: nn.Module, inputs: Any, *, declared: Sequence[str] = (), output: str = "vector") -> Stages:
    """Return the stages of a backbone, from one forward pass in eval mode.

    Args:
        backbone: the network without head.
        inputs: a batch of two rows or more.
        declared: stage paths, input to output; empty: found from the order of calls.
        output: kind of the backbone's output.

    Raises:
        PluginContractError: a declared stage does not exist, does not run, or runs out of order; the output is
            not finite or not of its kind.
    """
    calls, whole = _trace(backbone, inputs, record=())
    pooled = pool_output(whole, output, mask_of(inputs))
    if not pooled.isfinite().all():
        raise PluginContractError("the backbone gives values that are not finite (NaN or infinity)")
    once = {c.path: c for c in calls if sum(o.path == c.path for o in _same(calls, c.path)) == 1}
    paths = _declared(backbone, declared, calls) if declared else _traced(backbone, calls, once)
    if not paths and any(True for _ in backbone.parameters()):
        paths = [""]  # nothing to cut: the whole network is one stage
    if not paths:
        return Stages((), {}, {}, (), frozenset(), macs=(), width=pooled.shape[1], widths=())
    stem = _stem(calls, paths)
    again, whole = _trace(backbone, inputs, record=(*paths, *stem))
    kept = {c.path: c for c in again if c.path in {*paths, *stem}}
    owners, modules, ambiguous = _owners(backbone, calls, paths)
    rows = pooled.shape[0]
    pools = [pool_activation(kept[p].output) for p in paths[:-1]]
    return Stages(
        paths=tuple(paths),
        owners=owners,
        modules=modules,
        stem=tuple(stem),
        ambiguous=frozenset(ambiguous),
        macs=(*(kept[p].macs / rows for p in paths[:-1]), max(c.macs for c in again) / rows),
        width=pooled.shape[1],
        widths=(*(0 if p is None else p.shape[1] for p in pools), pooled.shape[1]),
        inputs=tuple(inputs.shape[1:]) if isinstance(inputs, Tensor) else (),
        width_traced=0 if mask_of(inputs) is None else int(inputs[MASK].shape[1]),
        activations=tuple(kept[p].output for p in paths),
        stem_outputs={p: kept[p].output for p in stem},
    )


@contextmanager
def stage_outputs(
    backbone: nn.Module, paths: Sequence[str], take: Callable[[Any], Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Give a mapping that each forward pass fills with what ``take`` makes of the stages' outputs, by path.

    It is taken at once: the next stage may change its input in place. None: outputs are pooled, under the mask that
    the pass is called with, where it has one.
    """
    seen: dict[str, Any] = {}
    hooks: list[Any] = []
    mask: list[Tensor | None] = [None]

    def enter(_module: nn.Module, _args: Any, named: dict[str, Any]) -> None:
        mask[0] = mask_of(named)

    if take is None and paths:
        hooks.append(backbone.register_forward_pre_hook(enter, with_kwargs=True))
    for path in paths:

        def keep(_module: nn.Module, _inputs: Any, result: Any, path: str = path) -> None:
            seen[path] = pool_activation(result, mask[0]) if take is None else take(result)

        hooks.append(backbone.get_submodule(path).register_forward_hook(keep))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _trace(backbone: nn.Module, inputs: Any, record: Sequence[str]) -> tuple[list[Call], Any]:
    """Return the calls in order of entry, and the output."""
    calls: list[Call] = []
    open_calls: dict[str, list[Call]] = {}
    hooks, clock = [], iter(range(1 << 62))
    counter = FlopCounterMode(display=False, custom_mapping=_RECURRENT)
    for path, module in backbone.named_modules():

        def enter(_m: nn.Module, _i: Any, path: str = path) -> None:
            one = Call(path, next(clock))
            calls.append(one)
            open_calls.setdefault(path, []).append(one)

        def leave(_m: nn.Module, _i: Any, result: Any, path: str = path) -> None:
            one = open_calls[path].pop()
            one.leave, one.macs = next(clock), counter.get_total_flops() / 2
            # A later operation in place would change what was recorded.
            one.output = copied(result) if path in record else None

        hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    backbone.eval()
    try:
        with counter:
            whole = call(backbone, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [c for c in calls if c.leave >= 0], whole


def _recurrent_flops(inputs: Any, first: Any, second: Any, *_rest: Any, **_named: Any) -> int:
    """Return the operations of one recurrent layer, from the shapes of its inputs [T, B, C] and its two matrices."""
    return int(2 * math.prod(inputs[:2]) * (math.prod(first) + math.prod(second)))


_RECURRENT = {torch.ops.aten.mkldnn_rnn_layer: _recurrent_flops}
"""What torch runs recurrent layers by on a CPU, and does not count itself."""


def copied(value: Any) -> Any:
    """Return an activation with its tensors copied."""
    if isinstance(value, Tensor):
        return value.clone()
    return type(value)(map(copied, value)) if type(value) in (tuple, list) else value


def _same(calls: list[Call], path: str) -> list[Call]:
    return [c for c in calls if c.path == path]


def _declared(backbone: nn.Module, declared: Sequence[str], calls: list[Call]) -> list[str]:
    known = dict(backbone.named_modules())
    missing = [f"{p!r}{suggestion(p, known)}" for p in declared if p not in known]
    if missing:
        raise PluginContractError(f"stages that do not exist in the network: {', '.join(missing)}")
    first = {p: _same(calls, p) for p in declared}
    idle = [p for p, found in first.items() if len(found) != 1]
    if idle:
        raise PluginContractError(f"stages must run exactly once in a forward pass; these do not: {', '.join(idle)}")
    for before, after in itertools.pairwise(declared):
        if first[before][0].leave > first[after][0].enter:
            raise PluginContractError(f"stage {after!r} is declared after {before!r} but does not run after it")
    return list(declared)


def _frontier(calls: list[Call], inside: str, once: dict[str, Call]) -> list[Call]:
    """Return the outermost calls inside a module, in order, without those of modules that run more than once."""
    prefix = f"{inside}." if inside else ""
    inner = [c for c in calls if c.path != inside and c.path.startswith(prefix)]
    outer = [c for c in inner if not any(o.enter < c.enter and c.leave < o.leave for o in inner)]
    return [c for c in outer if c.path in once]


def _traced(backbone: nn.Module, calls: list[Call], once: dict[str, Call]) -> list[str]:
    """Return stage paths found from the calls: the outermost modules, containers opened, small ones joined."""
    nodes = _frontier(calls, "", once)
    size = {c.path: sum(p.numel() for p in backbone.get_submodule(c.path).parameters()) for c in nodes}
    total = sum(p.numel() for p in backbone.parameters())
    while nodes:
        heavy = [c for c in nodes if len(nodes) < 4 or size[c.path] > total / 3]
        opened = next((c for c in sorted(heavy, key=lambda c: -size[c.path]) if _opens(backbone, c, calls, once)), None)
        if opened is None:
            break
        inner = _frontier(calls, opened.path, once)
        at = nodes.index(opened)
        nodes[at : at + 1] = inner
        size |= {c.path: sum(p.numel() for p in backbone.get_submodule(c.path).parameters()) for c in inner}
    return _join([c.path for c in nodes], size)


def _opens(backbone: nn.Module, node: Call, calls: list[Call], once: dict[str, Call]) -> bool:
    """Only plain sequences are opened: inside any other module a cut may lie on a branch."""
    module = backbone.get_submodule(node.path)
    inner = _frontier(calls, node.path, once)
    return isinstance(module, nn.Sequential) and len(inner) > 1


def _join(paths: list[str], size: dict[str, int]) -> list[str]:
    """Return at most MOST_TRACED of the paths as ends of stages, each stage with about as many parameters."""
    heavy = [p for p in paths if size[p]]
    if not heavy:
        return []
    ends = {p: paths[paths.index(n) - 1] for p, n in itertools.pairwise(heavy)} | {heavy[-1]: paths[-1]}
    if len(heavy) <= MOST_TRACED:
        return [ends[p] for p in heavy]
    share, held, chosen = sum(size.values()) / MOST_TRACED, 0, list[str]()
    for p in heavy[:-1]:
        held += size[p]
        if held >= share * (len(chosen) + 1) and len(chosen) < MOST_TRACED - 1:
            chosen.append(ends[p])
    return [*chosen, ends[heavy[-1]]]


def _stem(calls: list[Call], paths: Sequence[str]) -> list[str]:
    """Return the outermost modules that lie outside every stage and end before the last one does."""
    stage = {c.path: c for c in calls if c.path in paths}
    last = stage[paths[-1]].leave
    holds = [c for c in calls if any(c.enter <= s.enter and s.leave <= c.leave for s in stage.values())]
    inside = [c for c in calls if any(s.enter < c.enter and c.leave < s.leave for s in stage.values())]
    skip = {id(c) for c in (*holds, *inside)}
    free = [c for c in calls if id(c) not in skip and c.leave < last and len(_same(calls, c.path)) == 1]
    return [c.path for c in free if not any(o.enter < c.enter and c.leave < o.leave for o in free)]


def _owners(
    backbone: nn.Module, calls: list[Call], paths: Sequence[str]
) -> tuple[dict[str, int], dict[str, int], set[str]]:
    """Return the stage of every tensor and module: the first stage that ends no earlier than it ran."""
    ends = [next(c for c in calls if c.path == p).leave for p in paths]
    starts = [0, *ends[:-1]]
    modules: dict[str, int] = {}
    for c in calls:
        at = next((i for i, end in enumerate(ends) if c.leave <= end), len(ends) - 1)
        if c.enter >= starts[at]:
            modules[c.path] = min(at, modules.get(c.path, at))
    owners: dict[str, int] = {}
    ambiguous, current = set(), 0
    names = [(n, True) for n, _ in backbone.named_parameters()] + [(n, False) for n, _ in backbone.named_buffers()]
    for name, is_parameter in names:
        home = name.rpartition(".")[0]
        while home and home not in modules:
            home = home.rpartition(".")[0]
        if home in modules and home:
            owners[name] = current = modules[home]
        else:
            owners[name] = current if is_parameter else 0
            ambiguous |= {name} if is_parameter else set()
    return owners, modules, ambiguous


def pooled_stages(seen: dict[str, Any], stages: Stages, final: Tensor) -> list[Tensor]:
    """Return pooled features [N, widths[i]] after each stage; the last is ``final``, the pooled output."""
    pools = [seen[path] for path in stages.paths[:-1]]
    empty = final.new_zeros(final.shape[0], 0)
    return [*(empty if p is None else p for p in pools), final]
