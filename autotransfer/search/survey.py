"""The survey of one backbone, worker side: one frozen pass, features at every cut, ridge heads on them."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autotransfer.errors import PluginContractError
from autotransfer.schema import CutReport, SurveyRecord
from autotransfer.search.jobs import Context, SurveyJob, slug
from autotransfer.search.transferability import judge
from autotransfer.strategy import HeadState, linear_weights, weight_matrices
from autotransfer.train.autocast import exact, mixed
from autotransfer.train.checkpoint import to_disk
from autotransfer.train.cuts import check_cuts
from autotransfer.train.depths import concatenated
from autotransfer.train.evaluate import device_of, features, probe_of
from autotransfer.train.stages import Stages, find_stages

if TYPE_CHECKING:
    from autotransfer.protocols import Rows, Task
    from autotransfer.spec import BackboneSpec

LAST_ROWS = 4096
"""Closed-form heads on the output look at this many rows at most: more no longer change the ranking."""
DEPTH_ROWS = 1024
"""The same at the other cuts, whose scores are only compared with each other."""
LOSSES, HEAD_WEIGHT, HEAD_BIAS = "losses", "head/weight", "head/bias"
"""Tensors of a features file: leave-one-out loss by row, and the closed-form head, both on the output."""


@dataclass
class Frozen:
    """A surveyed backbone in a worker's memory."""

    spec: BackboneSpec
    backbone: nn.Module
    stages: Stages
    record: SurveyRecord


def open_backbone(spec: BackboneSpec, backbone: nn.Module, train: Rows) -> Frozen:
    """Return the backbone with its stages found and its cuts checked."""
    probe = probe_of(train, backbone)
    stages = find_stages(backbone, probe, declared=spec.stages, output=spec.output)
    cuts = check_cuts(backbone, stages, probe) if stages.paths else []
    reports = tuple(
        CutReport(after=stages.paths[c.after - 1], ok=c.ok, reason=c.reason, width=w, macs=m)
        for c, w, m in zip(cuts, stages.widths, stages.macs, strict=True)
    )
    if not stages.paths:
        reports = (CutReport(after="", ok=True, width=stages.width),)
    notes = ["" if c.ok else f"cut after {c.after}: {c.reason}" for c in reports]
    if spec.weights is None and spec.transfer:
        notes.append("no weights are declared: whatever its factory makes is used")
    if spec.width is not None and spec.width != stages.width:
        raise PluginContractError(f"its card says width {spec.width}; the network gives {stages.width} features")
    record = SurveyRecord(
        backbone=spec.id,
        status="partial",
        width=stages.width,
        params=sum(p.numel() for p in backbone.parameters()),
        batch_norms=any(isinstance(m, _BatchNorm) for m in backbone.modules()),
        macs=stages.macs[-1] if stages.macs else 0.0,
        linear=_linear(backbone),
        stages=stages.paths,
        cuts=reports,
        notes=tuple(n for n in notes if n),
    )
    return Frozen(spec, backbone, stages, record)


def _linear(backbone: nn.Module) -> float:
    """Return the share of a backbone's weights that lie in linear layers; 0 where there are no weights."""
    sizes = {n: p.numel() for n, p in weight_matrices(backbone).items()}
    return sum(sizes[n] for n in linear_weights(backbone)) / max(1, sum(sizes.values()))


def go_on(context: Context, frozen: Frozen, rows: int, last: bool) -> None:
    """Take up the survey of this backbone where an earlier job of this search, maybe elsewhere, left it.

    What lies there of all ``rows`` that are asked for is of this job, whose worker died before it could tell what it
    found: they are read again. Where it is the ``last`` and the validation rows are missing, these alone are read.
    """
    prefix = f"features-{slug(frozen.spec.id)}."
    files = {
        int(p.name.removeprefix(prefix).split(".")[0]): p for p in Path(context.work).glob(f"{prefix}*.safetensors")
    }
    read = [n for n, p in files.items() if n < rows or (n == rows and last and not _tensors(p, "validation/0"))]
    if read:
        frozen.record = replace(frozen.record, rows=max(read), features=f"{prefix}{max(read)}.safetensors")


def run_survey(
    context: Context,
    job: SurveyJob,
    frozen: Frozen,
    train: Rows,
    validation: Rows,
    task: Task,
    tick: Callable[[], None],
    groups: Tensor | None = None,
) -> SurveyRecord:
    """Read on to row ``job.rows``, store pooled features, score a ridge head at every cut.

    Where training rows have ``groups`` ``int64`` [N], each is judged by what the other groups' rows say. Validation
    rows are stored all or none: heads are judged on all of them.
    """
    record, began = frozen.record, time.perf_counter()
    parts = load_features(context.path(record.features)) if record.features else {}
    stop, count, cut = max(record.rows, min(job.rows, len(train))), 0, ""
    if record.rows < stop:
        new = _collect(frozen, train, record.rows, stop, tick, min(job.deadline, time.time() + job.seconds))
        _add(parts, "train", new)
        count, stop = len(new[0]), record.rows + len(new[0])
    whole = job.last and stop == len(train)
    if whole and "validation/0" not in parts:
        new = _collect(frozen, validation, 0, len(validation), tick, min(job.deadline, time.time() + job.seconds))
        count, whole = count + len(new[0]), len(new[0]) == len(validation)
        if whole:
            _add(parts, "validation", new)
        else:
            cut = f"its time was over after {len(new[0])} of {len(validation)} validation rows"
    spent = (time.perf_counter() - began) / max(1, count)
    file = f"features-{slug(frozen.spec.id)}.{stop}.safetensors"
    own = None if groups is None else groups[:stop]
    # What was fitted on these very rows cannot be judged by leaving one of them out.
    cuts = record.cuts if frozen.spec.fitted else _scored(record.cuts, parts, train.targets[:stop], task, tick, own)
    write_atomically(parts, context.path(file))  # the head and the losses that judging has added to them too
    frozen.record = replace(
        record,
        status="done" if whole else "partial",
        rows=stop,
        seconds_per_row=spent,
        features=file,
        cuts=cuts,
    )
    told = getattr(train, "told", None)
    if told is not None and job.last and told():
        frozen.record = replace(frozen.record, notes=(*frozen.record.notes, told()))
    scores = [c.score for c in frozen.record.cuts if c.score is not None]
    frozen.record = replace(frozen.record, score=max(scores) if scores else None)
    return replace(frozen.record, notes=(*frozen.record.notes, cut)) if cut else frozen.record  # it may yet go on


def _add(parts: dict[str, Tensor], split: str, new: Sequence[Tensor]) -> None:
    """Put the features of further rows, one tensor a depth, behind those of the rows before."""
    for depth, tensor in enumerate(new):
        old = parts.get(f"{split}/{depth}")
        parts[f"{split}/{depth}"] = tensor if old is None else torch.cat([old, tensor])


def _collect(frozen: Frozen, rows: Rows, start: int, stop: int, tick: Callable[[], None], limit: float) -> list[Tensor]:
    depths = max(1, len(frozen.stages))
    lists: list[list[Tensor]] = [[] for _ in range(depths)]
    passes = features(frozen.backbone, frozen.stages, rows, frozen.spec.output, start=start, stop=stop, tick=tick)
    with mixed(frozen.record.dtype, device_of(frozen.backbone)):
        for pools in passes:
            for held, pool in zip(lists, pools, strict=True):
                held.append(compact(pool))
            if time.time() > limit:
                break
    # Of each depth its batches go as it is joined, so that the features of all depths are not held twice.
    return [torch.cat(held) if (held := lists.pop(0)) else torch.zeros(0, 0) for _ in range(depths)]


def compact(values: Tensor) -> Tensor:
    """Return float16 where that loses nothing that matters, else float32 (float16 overflows silently)."""
    fits = values.numel() == 0 or float(values.abs().max()) < 3e4
    return values.half() if fits else values.float()


@exact()
def _scored(
    cuts: tuple[CutReport, ...],
    parts: dict[str, Tensor],
    targets: Tensor,
    task: Task,
    tick: Callable[[], None],
    groups: Tensor | None = None,
) -> tuple[CutReport, ...]:
    """Return the cuts judged; the last one's head and the losses of its rows are added to ``parts``."""
    done = []
    for depth, cut in enumerate(cuts):
        tick()
        last = depth == len(cuts) - 1
        pooled = parts[f"train/{depth}"][: LAST_ROWS if last else DEPTH_ROWS].float()
        report = replace(cut, width=pooled.shape[1])
        if pooled.shape[1] > 0 and len(pooled) > 2 and bool((pooled != pooled[0]).any()):
            found = judge(pooled, targets[: len(pooled)], task, None if groups is None else groups[: len(pooled)])
            report = replace(
                report,
                score=found.score,
                loss=float(found.loss_per_row.mean()),
                logme=found.logme,
                hscore=found.hscore,
                knn=found.knn,
            )
            if last:
                parts |= {LOSSES: found.loss_per_row.float()}
                parts |= {HEAD_WEIGHT: found.head.weight, HEAD_BIAS: found.head.bias}
        done.append(report)
    return tuple(done)


def load_features(path: Path) -> dict[str, Tensor]:
    """Return every tensor of a features file."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def row_losses(context: Context, record: SurveyRecord) -> Tensor | None:
    """Return the leave-one-out loss of each row ``float32`` [N] on a backbone's output; None where it has none."""
    return _tensors(context.path(record.features), LOSSES).get(LOSSES) if record.features else None


def closed_form_head(path: Path) -> HeadState | None:
    """Return the survey's head on a backbone's raw pooled output; None where it has none."""
    found = _tensors(path, HEAD_WEIGHT, HEAD_BIAS)
    return HeadState(weight=found[HEAD_WEIGHT], bias=found[HEAD_BIAS]) if len(found) == 2 else None


def _tensors(path: Path, *names: str) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        there = set(file.keys())
        return {name: file.get_tensor(name) for name in names if name in there}


def head_features(path: Path, depths: bool = False) -> tuple[Tensor, Tensor] | None:
    """Return what a head sees of train and validation rows, ``float32`` [N, width]; None where partial.

    Args:
        path: of a features file.
        depths: all depths, as :func:`concatenated` joins them; else the backbone's pooled output.
    """
    with safe_open(path, framework="pt") as file:
        names: list[str] = list(file.keys())
        count = 1 + max(int(n.rpartition("/")[2]) for n in names if n.startswith("train/"))
        if f"validation/{count - 1}" not in names:
            return None
        wanted = range(count) if depths else (count - 1,)
        splits = [[file.get_tensor(f"{split}/{depth}") for depth in wanted] for split in ("train", "validation")]
    train, validation = (_side_by_side(pools) if depths else pools[0].float() for pools in splits)
    return train, validation


def _side_by_side(pools: Sequence[Tensor]) -> Tensor:
    """Return what :func:`concatenated` does, some rows at a time: it holds its parts beside the whole."""
    first = concatenated([p[:LAST_ROWS] for p in pools])
    found = first.new_empty(len(pools[0]), first.shape[1])
    for at in range(0, len(found), LAST_ROWS):
        found[at : at + LAST_ROWS] = concatenated([p[at : at + LAST_ROWS] for p in pools])
    return found


def write_atomically(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors: whole or not at all. The folder must be there."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        save_file({n: t.contiguous() for n, t in tensors.items()}, temporary)
        to_disk(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
