"""The survey of one backbone, worker side: one frozen pass, features at every cut, ridge heads on them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from autotransfer.errors import PluginContractError
from autotransfer.schema import CutReport, SurveyRecord
from autotransfer.search.jobs import Context, SurveyJob, slug
from autotransfer.search.ridge import ridge
from autotransfer.train.autocast import exact, mixed
from autotransfer.train.cuts import check_cuts
from autotransfer.train.evaluate import device_of, features
from autotransfer.train.stages import Stages, find_stages

if TYPE_CHECKING:
    from autotransfer.protocols import Rows, Task
    from autotransfer.spec import BackboneSpec

RIDGE_ROWS = 8192
"""Closed-form heads look at this many rows at most: their error no longer changes the ranking."""
_SHARPNESS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


@dataclass
class Frozen:
    """A surveyed backbone in a worker's memory."""

    spec: BackboneSpec
    backbone: nn.Module
    stages: Stages
    record: SurveyRecord


def open_backbone(spec: BackboneSpec, backbone: nn.Module, train: Rows) -> Frozen:
    """Return the backbone with its stages found and its cuts checked."""
    probe = train.batch(range(min(2, len(train))))
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
        macs=stages.macs[-1] if stages.macs else 0.0,
        stages=stages.paths,
        cuts=reports,
        notes=tuple(n for n in notes if n),
    )
    return Frozen(spec, backbone, stages, record)


def go_on(context: Context, frozen: Frozen) -> None:
    """Take up the survey of this backbone where an earlier job of this search, maybe elsewhere, left it."""
    prefix = f"features-{slug(frozen.spec.id)}."
    read = [int(p.name.removeprefix(prefix).split(".")[0]) for p in Path(context.work).glob(f"{prefix}*.safetensors")]
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
) -> SurveyRecord:
    """Read on to row ``job.rows``, store pooled features, score a ridge head at every cut."""
    record, began = frozen.record, time.perf_counter()
    stop = min(job.rows, len(train))
    name = f"features-{slug(frozen.spec.id)}"
    parts = load_features(context.path(record.features)) if record.features else {}
    read = {"train": (train, record.rows, stop)} | (
        {"validation": (validation, 0, len(validation))} if job.last else {}
    )
    count = 0
    for split, (rows, start, end) in read.items():
        if split == "validation" and ("validation/0" in parts or stop < len(train)):
            continue
        limit = began + job.seconds if split == "train" else float("inf")
        new = _collect(frozen, rows, start, end, tick, limit)
        count += len(new[0])
        stop = start + len(new[0]) if split == "train" else stop
        for depth, tensor in enumerate(new):
            old = parts.get(f"{split}/{depth}")
            parts[f"{split}/{depth}"] = tensor if old is None else torch.cat([old, tensor])
    spent = (time.perf_counter() - began) / max(1, count)
    file = f"{name}.{stop}.safetensors"
    write_atomically(parts, context.path(file))
    frozen.record = replace(
        record,
        status="done" if stop == len(train) and job.last else "partial",
        rows=stop,
        seconds_per_row=spent,
        features=file,
        cuts=_scored(record.cuts, parts, train.targets[:stop], task, tick),
    )
    scores = [c.score for c in frozen.record.cuts if c.score is not None]
    frozen.record = replace(frozen.record, score=max(scores) if scores else None)
    return frozen.record


def _collect(frozen: Frozen, rows: Rows, start: int, stop: int, tick: Callable[[], None], limit: float) -> list[Tensor]:
    depths = max(1, len(frozen.stages))
    lists: list[list[Tensor]] = [[] for _ in range(depths)]
    with mixed(frozen.record.dtype, device_of(frozen.backbone)):
        passes = features(frozen.backbone, frozen.stages, rows, frozen.spec.output, start=start, stop=stop, tick=tick)
        for pools in passes:
            for held, pool in zip(lists, pools, strict=True):
                held.append(compact(pool))
            if time.perf_counter() > limit:
                break
    # Joined outside: autocast to bfloat16 refuses to join tensors in float16.
    return [torch.cat(held) if held else torch.zeros(0, 0) for held in lists]


def compact(values: Tensor) -> Tensor:
    """Return float16 where that loses nothing that matters, else float32 (float16 overflows silently)."""
    fits = values.numel() == 0 or float(values.abs().max()) < 3e4
    return values.half() if fits else values.float()


def _scored(
    cuts: tuple[CutReport, ...],
    parts: dict[str, Tensor],
    targets: Tensor,
    task: Task,
    tick: Callable[[], None],
) -> tuple[CutReport, ...]:
    done = []
    for depth, cut in enumerate(cuts):
        tick()
        pooled = parts[f"train/{depth}"][:RIDGE_ROWS]
        usable = pooled.shape[1] > 0 and len(pooled) > 2 and bool((pooled != pooled[0]).any())
        score = closed_form_score(pooled.float(), targets[: len(pooled)], task) if usable else None
        done.append(replace(cut, score=score, width=pooled.shape[1]))
    return tuple(done)


@exact()
def closed_form_score(pooled: Tensor, targets: Tensor, task: Task) -> float:
    """Return the task's objective of leave-one-out predictions of a ridge head on standardised features."""
    spread = pooled.std(0, correction=0)
    scaled = (pooled - pooled.mean(0)) / torch.where(spread > 1e-8, spread, torch.ones_like(spread))
    left = ridge(scaled, task.survey_target(targets)).left_out.float()
    if not task.classes:
        return task.objective(task.scores(left, targets))
    # Ridge predicts shares around 0 to 1; how sharp they are as logits is fitted on the same left-out rows.
    sharp = min(_SHARPNESS, key=lambda s: float(task.loss((left - 0.5) * s, targets)))
    return task.objective(task.scores((left - 0.5) * sharp, targets))


def load_features(path: Path) -> dict[str, Tensor]:
    """Return every tensor of a features file."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def final_features(path: Path) -> tuple[Tensor, Tensor] | None:
    """Return the pooled output of the backbone on train and validation rows, ``float32``; None where partial."""
    with safe_open(path, framework="pt") as file:
        names: list[str] = list(file.keys())
        depths = [int(n.rpartition("/")[2]) for n in names if n.startswith("train/")]
        last = max(depths)
        if f"validation/{last}" not in names:
            return None
        train, validation = (file.get_tensor(f"{split}/{last}") for split in ("train", "validation"))
        return train.float(), validation.float()


def write_atomically(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({n: t.contiguous() for n, t in tensors.items()}, temporary)
    os.replace(temporary, path)
