"""A training on disk: the trained tensors and the optimizer's, as safetensors and JSON, written atomically."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from autotransfer.codec import from_json, to_json
from autotransfer.errors import TrialFailedError
from autotransfer.schema import CurvePoint
from autotransfer.train.evaluate import device_of

if TYPE_CHECKING:
    from torch import Tensor

    from autotransfer.strategy import HeadState
    from autotransfer.train.loop import Trainer


def save(trainer: Trainer, folder: Path, lean: bool = False) -> None:
    """Write what a trainer needs to go on: only tensors that training may have changed.

    Args:
        trainer: whose state it is.
        folder: replaced as a whole.
        lean: it will not go on: only the best weights are kept.
    """
    tensors = {f"best/{n}": t for n, t in trainer.best_state.items()}
    if not lean:
        tensors |= {f"now/{n}": t for n, t in trainer.snapshot().items()}
        tensors |= {f"average/{n}": t for n, t in trainer.average.items()}
        tensors |= {f"initial/{n}": t for n, t in trainer.initial.items() if n.startswith("head.")}
        tensors |= {f"snapshots/{i}/{n}": t for i, part in enumerate(trainer.snapshots) for n, t in part.items()}
        tensors |= {f"optimizer/{n}": t for n, t in _optimizer_tensors(trainer).items()}
    if trainer.own_term is not None:
        tensors |= {f"own_term/{n}": t for n, t in trainer.own_term.state_dict().items()}
    if trainer.weights is not None:
        tensors |= {f"weights/{n}": t for n, t in trainer.weights.state_dict().items()}
    meta = {
        "lean": lean,
        "step": trainer.step,
        "phase": trainer.phase,
        "curve": to_json(trainer.curve),
        "best": to_json(trainer.best),
        "stale": trainer.stale,
        "stopped": trainer.stopped,
        "micro": trainer.micro,
        "pristine": trainer.pristine,
        "touched": sorted(trainer.touched),
        "notes": trainer.notes,
    }
    _write(folder, tensors, meta)


def save_head(state: HeadState, folder: Path) -> None:
    """Write the checkpoint of a head on raw features above an untouched backbone: only the best weights.

    Args:
        state: of the head.
        folder: replaced as a whole.
    """
    width = state.weight.shape[1]
    best = {
        "head.mean": torch.zeros(width),
        "head.scale": torch.ones(width),
        "head.linear.weight": state.weight,
        "head.linear.bias": state.bias,
    }
    _write(folder, {f"best/{n}": t for n, t in best.items()}, {"lean": True})


def _write(folder: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all; its parent is not made: where that is gone, nothing may stand in for it.

    What is there already goes only when the new one is on the disk. Two that write the same at one time do no harm.
    """
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        temporary.mkdir()
        save_file(
            {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()},
            temporary / "state.safetensors",
        )
        (temporary / "state.json").write_text(json.dumps(meta), encoding="utf-8")
        for file in (temporary / "state.safetensors", temporary / "state.json", temporary):
            to_disk(file)
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder, old)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def to_disk(path: Path) -> None:
    """Wait until a file or folder is on the disk: a rename may reach it earlier than what was written."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def load(trainer: Trainer, folder: Path) -> None:
    """Bring a newly made trainer to the state that :func:`save` wrote.

    Raises:
        TrialFailedError: the files are missing or damaged, or hold only the best weights.
    """
    try:
        tensors = load_file(folder / "state.safetensors")
        meta = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise TrialFailedError(f"the checkpoint {folder.name} cannot be read: {error}") from error
    if meta["lean"]:
        raise TrialFailedError(f"the checkpoint {folder.name} holds only the best weights; training cannot go on")
    for phase in range(meta["phase"]):  # earlier phases have touched tensors too, and the first values are wanted
        trainer.enter(phase)
    if trainer.own_term is not None:
        trainer.own_term.load_state_dict(_part(tensors, "own_term"))
    if trainer.weights is not None:
        trainer.weights.load_state_dict(_part(tensors, "weights"))
    if meta["phase"] >= 0:
        trainer.enter(meta["phase"])
    trainer.touched |= set(meta["touched"])
    trainer.load(_part(tensors, "now"))
    device = device_of(trainer.job.network)
    trainer.average = {n: t.to(device) for n, t in _part(tensors, "average").items()}
    trainer.initial |= {n: t.to(device) for n, t in _part(tensors, "initial").items()}
    trainer.best_state = _part(tensors, "best")
    trainer.snapshots = _snapshots(tensors)
    _restore_optimizer(trainer, _part(tensors, "optimizer"))
    trainer.step, trainer.stale, trainer.micro = meta["step"], meta["stale"], meta["micro"]
    trainer.stopped, trainer.pristine, trainer.notes = meta["stopped"], meta["pristine"], list(meta["notes"])
    trainer.best = tuple(meta["best"]) if meta["best"] else None
    trainer.settled = trainer.best is not None  # checkpoints are made where a rung ends
    trainer.curve = [from_json(CurvePoint, point) for point in meta["curve"]]


def best_tensors(folder: Path) -> dict[str, Tensor]:
    """Return the best weights of a checkpoint, by name in the network."""
    return _part(load_file(folder / "state.safetensors"), "best")


def _part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {n.removeprefix(f"{part}/"): t for n, t in tensors.items() if n.startswith(f"{part}/")}


def _snapshots(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    rows = _part(tensors, "snapshots")
    count = len({n.partition("/")[0] for n in rows})
    return [_part(rows, str(i)) for i in range(count)]


def _named(trainer: Trainer) -> dict[str, Any]:
    if trainer.optimizer is None:
        return {}
    return {n: p for g in trainer.optimizer.param_groups for n, p in zip(g["names"], g["params"], strict=True)}


def _optimizer_tensors(trainer: Trainer) -> dict[str, Tensor]:
    assert trainer.optimizer is not None or trainer.phase < 0
    state = trainer.optimizer.state if trainer.optimizer is not None else {}
    return {
        f"{key}/{name}": value if isinstance(value, torch.Tensor) else torch.tensor(float(value))
        for name, parameter in _named(trainer).items()
        for key, value in state.get(parameter, {}).items()
        if value is not None
    }


def _restore_optimizer(trainer: Trainer, tensors: dict[str, Tensor]) -> None:
    named = _named(trainer)
    for full, tensor in tensors.items():
        key, _, name = full.partition("/")
        assert trainer.optimizer is not None
        parameter = named[name]
        # Laid out as its parameter is: the optimizer goes through both as they lie in memory.
        value = _count(trainer.optimizer, parameter, tensor) if key == "step" else _like(parameter, tensor)
        trainer.optimizer.state[parameter][key] = value


def _like(parameter: Tensor, tensor: Tensor) -> Tensor:
    return torch.empty_like(parameter.detach()).copy_(tensor)


def _count(optimizer: torch.optim.Optimizer, parameter: Tensor, tensor: Tensor) -> Tensor:
    """Return the number of steps where the optimizer counts them: a fused one beside its parameter."""
    return tensor.to(parameter.device if optimizer.defaults.get("fused") else "cpu", copy=True)
