"""Which arithmetic a backbone's passes run in on this machine: measured once, then remembered."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autotransfer.codec import digest, from_json, to_json
from autotransfer.errors import ModelError
from autotransfer.train.autocast import cpu_facts, has_bfloat16, mixed
from autotransfer.train.evaluate import device_of, nothing
from autotransfer.train.network import pooled_call, to_device
from autotransfer.weights import cache_folder

if TYPE_CHECKING:
    from autotransfer.spec import BackboneSpec

log = logging.getLogger(__name__)
VERSION = 1
"""Of the answers that are kept; those of another version are measured again."""
ROWS = 8
"""Rows of a batch that are enough to measure on."""
WORTH = 1.15
"""bfloat16 must be so many times as fast: less is not worth its rounding."""
CLEAR = (0.8, 1.6)
"""A first comparison outside this range is not repeated."""
REPEATS = 3
"""Interleaved comparisons at most; the fastest of each counts."""
SHORT = 0.0005
"""Seconds a row; a faster pass is not worth a measurement."""
AGREEMENT = 0.999
"""Least cosine between the features of both, less their mean over the batch."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """An arithmetic, and why."""

    dtype: str
    """``float32`` or ``bfloat16`` (autocast; weights stay ``float32``)."""
    speedup: float | None = None
    """Time in ``float32`` / time in bfloat16; None: not measured."""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """An answer as it lies in the cache folder, with what it is an answer to."""

    version: int
    question: dict[str, Any]
    answer: Precision


def choose(
    backbone: nn.Module,
    batch: Any,
    threads: int,
    kind: str = "frozen",
    *,
    spec: BackboneSpec,
    folder: Path | None = None,
    tick: Callable[[], None] = nothing,
) -> Precision:
    """Return the arithmetic for passes of a backbone on this machine.

    bfloat16 is chosen where the device has instructions for it, it is more than 15 % faster on this batch, and its
    features are finite and agree with those in ``float32``. As a clock decides, the first answer for a machine (CPU
    model or GPU), torch version, number of threads, backbone, input and kind is kept in the cache folder, so that
    runs can be repeated; of two processes that ask at once, both get the answer of the first to finish.

    Args:
        backbone: with its weights; unchanged afterwards.
        batch: inputs of real rows; the first :data:`ROWS` are used of a tensor, all of anything else.
        threads: of the arithmetic, as set by the caller.
        kind: ``frozen`` (forward pass) or ``training`` (forward and backward through all of it).
        spec: its card.
        folder: where answers are kept; None: ``precision`` in the cache folder.
        tick: called between passes.

    Raises:
        ValueError: another kind.
    """
    if kind not in ("frozen", "training"):
        raise ValueError(f"kind is {kind!r}; wanted 'frozen' or 'training'")
    device = device_of(backbone)
    if not has_bfloat16(device):
        return Precision(dtype="float32", reason=f"this {device.type} has no instructions for bfloat16")
    if spec.fitted or not any(True for _ in backbone.parameters()):
        return Precision(dtype="float32", reason="there are no pretrained weights to multiply by")
    question = _question(backbone, threads, kind, spec, device)
    file = (folder or cache_folder() / "precision") / f"{digest(question, 24)}.json"
    kept = _read(file, question)
    if kept is None:
        inputs = to_device(batch[:ROWS] if isinstance(batch, Tensor) else batch, device)
        kept = _keep(file, question, _measured(backbone, inputs, kind, spec.output, tick))
    return kept


def machine(device: torch.device) -> str:
    """Return what measured speeds hold for."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_facts()[0]


def _question(backbone: nn.Module, threads: int, kind: str, spec: BackboneSpec, device: torch.device) -> dict[str, Any]:
    """Return all that an answer depends on."""
    return {
        "machine": machine(device),
        "torch": torch.__version__,
        "threads": threads,
        "backbone": spec.id,
        "options": to_json(spec.options),
        "parameters": sum(p.numel() for p in backbone.parameters()),
        "input": to_json(spec.input),
        "kind": kind,
    }


def _measured(backbone: nn.Module, inputs: Any, kind: str, output: str, tick: Callable[[], None]) -> Precision:
    """Return the answer of a measurement; the first pass of each arithmetic is not timed."""
    device, was_training = device_of(backbone), backbone.training
    passes = {"frozen": frozen_pass, "training": training_pass}
    best = {"float32": float("inf"), "bfloat16": float("inf")}
    features: dict[str, Tensor] = {}
    backbone.eval()
    try:
        for repeat in range(1 + REPEATS):
            for dtype in best:
                tick()
                began = _clock(device)
                try:
                    with mixed(dtype, device):
                        features[dtype], finite = passes[kind](backbone, inputs, output)
                except Exception as error:  # a foreign forward may hold what bfloat16 cannot do
                    if dtype == "float32":
                        raise
                    told = f"it does not run in bfloat16: {type(error).__name__}: {str(error)[:160]}"
                    return Precision(dtype="float32", reason=told)
                spent = _clock(device) - began
                if not finite:
                    return Precision(dtype="float32", reason=f"in {dtype} there are values that are not finite")
                best[dtype] = min(best[dtype], spent) if repeat else best[dtype]
            count = len(features["float32"])
            if repeat == 0:
                agreement = _agreement(features["float32"], features["bfloat16"])
                if agreement < AGREEMENT:
                    told = f"the features in bfloat16 differ: cosine {agreement:.5f}, wanted {AGREEMENT}"
                    return Precision(dtype="float32", reason=told)
            elif best["float32"] < SHORT * count or not CLEAR[0] < best["float32"] / best["bfloat16"] < CLEAR[1]:
                break
    finally:
        backbone.train(was_training)
    return _judged(best["float32"] / count, best["bfloat16"] / count)


def _judged(full: float, half: float) -> Precision:
    """Return the answer for seconds a row in ``float32`` and in bfloat16."""
    half = max(half, 1e-9)
    speedup, told = round(full / half, 3), f"{1e3 * full:.3g} ms a row in float32, {1e3 * half:.3g} in bfloat16"
    if full < SHORT:
        return Precision(dtype="float32", speedup=speedup, reason=f"a pass is short: {told}")
    return Precision(dtype="bfloat16" if full / half > WORTH else "float32", speedup=speedup, reason=told)


def frozen_pass(backbone: nn.Module, inputs: Any, output: str) -> tuple[Tensor, bool]:
    """Return pooled features ``float32`` [N, width], and whether they are finite."""
    with torch.no_grad():
        pooled = pooled_call(backbone, inputs, output).float()
    return pooled, bool(pooled.isfinite().all())


def training_pass(backbone: nn.Module, inputs: Any, output: str) -> tuple[Tensor, bool]:
    """Return pooled features, and whether they and the gradients are finite; no gradient is kept."""
    wanted = [p for p in backbone.parameters() if p.requires_grad]
    with torch.enable_grad():
        pooled = pooled_call(backbone, inputs, output).float()
        found = torch.autograd.grad(pooled.square().mean(), wanted, allow_unused=True) if wanted else ()
    return pooled.detach(), all(bool(t.isfinite().all()) for t in (pooled.detach(), *found) if t is not None)


def _agreement(full: Tensor, half: Tensor) -> float:
    """Return the cosine between two [N, width] less the mean row of the first; of equal rows the plain cosine.

    What is the same in all rows, often one large feature, tells nothing of how rows differ.
    """
    a, b = full.double(), half.double()
    middle = a.mean(0)
    if (a - middle).norm() > 1e-6 * a.norm():
        a, b = a - middle, b - middle
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def _clock(device: torch.device) -> float:
    """Return seconds: of this process on a CPU, which others also use; by the wall where a GPU does the work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def _read(file: Path, question: dict[str, Any]) -> Precision | None:
    """Return a kept answer to this question; None where there is none, or it is damaged."""
    try:
        kept = from_json(_Kept, json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ModelError, RecursionError) as error:
        log.warning("%s cannot be used and is measured again: %s", file, error)
        return None
    right = kept.version == VERSION and kept.question == question and kept.answer.dtype in ("float32", "bfloat16")
    return kept.answer if right else None


def _keep(file: Path, question: dict[str, Any], answer: Precision) -> Precision:
    """Keep an answer, whole or not at all, and return the one that counts: another process may have been first."""
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    body = json.dumps(to_json(_Kept(version=VERSION, question=question, answer=answer)), indent=1)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(body, encoding="utf-8")
        try:
            os.link(temporary, file)  # fails where a file stands, so that the first answer stays
        except FileExistsError:
            first = _read(file, question)
            if first is not None:
                return first
            os.replace(temporary, file)
    except OSError as error:
        log.warning("the arithmetic of this run cannot be kept, so another may be chosen next time: %s", error)
    finally:
        with contextlib.suppress(OSError):  # it is not there
            temporary.unlink()
    return answer
