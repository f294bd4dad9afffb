"""Gradients of one training step: the task's loss, a strategy's own term, pieces where memory is short."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from autotransfer.errors import TrialFailedError
from autotransfer.strategy import Step, overrides
from autotransfer.train.evaluate import device_of
from autotransfer.train.heads import pool_output
from autotransfer.train.mixing import MIXED, Mix, draw, is_image
from autotransfer.train.network import call, mask_of, to_device
from autotransfer.train.sampling import stream
from autotransfer.train.schedule import total_steps
from autotransfer.train.sharing import combiner, task_terms
from autotransfer.train.stages import pooled_stages, stage_outputs

if TYPE_CHECKING:
    from autotransfer.train.job import Job
    from autotransfer.train.prefixes import Prefix
    from autotransfer.train.sharing import TaskWeights


class Trainer(Protocol):
    """What a step needs to know of the training that it belongs to; ``train/loop.py`` has it."""

    job: Job
    phase: int
    step: int
    per_epoch: int
    micro: int
    notes: list[str]
    pristine: bool
    optimizer: torch.optim.Optimizer | None
    own_term: nn.Module | None
    weights: TaskWeights | None

    @property
    def epochs(self) -> float:
        """Passes over the training rows so far."""
        ...

    def pooled(self) -> tuple[Tensor, Tensor]:
        """Return the untrained backbone's pooled output on train and validation rows."""
        ...

    @property
    def augment(self) -> str:
        """How rows are augmented at this step."""
        ...

    def views(self) -> np.ndarray | None:
        """Return the view of each training row in this epoch; None: the rows are seen as they are."""
        ...

    def prefix(self) -> Prefix | None:
        """Return the stored activations that this phase starts from; None: it runs the whole network."""
        ...


def fill(trainer: Trainer, rows: np.ndarray) -> float:
    """Fill the gradients for these rows, in smaller pieces where memory does not hold them at once."""
    assert trainer.optimizer is not None
    while True:
        trainer.optimizer.zero_grad(set_to_none=True)
        try:
            return _pieces(trainer, rows)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error) or trainer.micro <= 1:
                raise
        trainer.micro = max(1, min(trainer.micro, len(rows)) // 2)
        trainer.notes.append(f"out of memory: batches are now summed from pieces of {trainer.micro}")


def _pieces(trainer: Trainer, rows: np.ndarray) -> float:
    total, summed = 0.0, None
    trained = [p for g in trainer.optimizer.param_groups for p in g["params"]]  # type: ignore[union-attr]
    merge = _merge(trainer)
    for piece in np.array_split(rows, -(-len(rows) // trainer.micro)):
        terms, share = _terms(trainer, piece, rows), len(piece) / len(rows)
        value = float(sum(t.detach() for t in terms))
        if not np.isfinite(value):
            phase = trainer.job.phases[trainer.phase]
            where = f"epoch {trainer.epochs:.2f} (lr {phase.lr:g}, lr_ratio {phase.lr_ratio:g})"
            raise TrialFailedError(f"the loss became {value} in {where}")
        total += value * share
        if merge is None or len(terms) == 1:
            torch.autograd.backward(torch.stack(terms).sum() * share)
            continue
        parts = [_gradient(trainer, t * share, trained, last=t is terms[-1]) for t in terms]
        summed = parts if summed is None else [_added(a, b) for a, b in zip(summed, parts, strict=True)]
    if summed is not None and merge is not None:
        merged = merge(summed)
        merged = [torch.stack(g).sum(0) for g in zip(*summed, strict=True)] if merged is None else merged
        for parameter, gradient in zip(trained, merged, strict=True):
            # Laid out as its parameter is: the optimizer goes through both as they lie in memory.
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
    return total


def _merge(trainer: Trainer) -> Callable[[Any], Any] | None:
    """Return what makes one gradient of those of each term: the strategy's own door, else as the recipe says."""
    job, groups = trainer.job, trainer.optimizer.param_groups  # type: ignore[union-attr]
    if overrides(job.strategy, "combine"):
        return job.strategy.combine
    return combiner(job, [n for g in groups for n in g["names"]], trainer.step)


def _gradient(trainer: Trainer, term: Tensor, trained: list[Tensor], *, last: bool) -> list[Tensor]:
    if not term.requires_grad:  # a term of the backbone alone, while the backbone is frozen
        return [torch.zeros_like(p) for p in trained]
    found = torch.autograd.grad(term, trained, retain_graph=not last, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(trained, found, strict=True)]


def _terms(trainer: Trainer, piece: np.ndarray, rows: np.ndarray) -> list[Tensor]:
    """Return the loss of the task, or of each of several, and the strategy's own term where it has one.

    Args:
        trainer: whose step it is.
        piece: of the batch: numbers of its rows.
        rows: those of the whole batch.
    """
    job, numbers = trainer.job, trainer.views()
    network, device = job.network, device_of(job.network)
    targets = job.train.targets[torch.from_numpy(piece)].to(device)

    def losses(outputs: Tensor, mix: Mix | None = None) -> list[Tensor]:
        return task_terms(job, trainer.weights, outputs, targets, job.train.targets[torch.from_numpy(rows)], mix)

    if trainer.pristine and trainer.own_term is None and trainer.augment == "none":
        pooled = trainer.pooled()[0][torch.from_numpy(piece)].to(device)
        return losses(network.head.classify(pooled))
    prefix = trainer.prefix()
    if prefix is not None:
        with prefix.suffix(network.backbone, "train", piece.tolist(), numbers) as run:
            outputs = network.head(*run())
        return losses(outputs)
    inputs, mix = _inputs(trainer, piece)
    paths = job.stages.paths[:-1] if trainer.own_term is not None else tuple(network.depths or ())
    with stage_outputs(network.backbone, paths) as seen:
        raw = call(network.backbone, inputs)
    pooled = network.pooled(raw, seen, mask_of(inputs))
    outputs = network.head.classify(pooled if mix is None or is_image(inputs) else mix.inputs(pooled))
    terms = losses(outputs, mix)
    if trainer.own_term is not None:
        pools = _stage_features(trainer, seen, raw, mask_of(inputs))
        step = Step(
            inputs=inputs,
            outputs=outputs,
            targets=targets,
            backbone=network.backbone,
            stage_features=pools,
            progress=trainer.step / max(1, total_steps(job.phases, trainer.per_epoch)),
            **_unlabeled(trainer, len(piece)),
        )
        terms.append(trainer.own_term(step))
    return terms


def _inputs(trainer: Trainer, piece: np.ndarray) -> tuple[Any, Mix | None]:
    """Return the inputs of these rows as they are augmented at this step, and how rows are mixed where they are."""
    job, numbers, kind = trainer.job, trainer.views(), trainer.augment
    rng = np.random.default_rng(stream(job.recipe.seed, job.stream, "augment", trainer.step, int(piece[0])))
    rows = job.train if numbers is None else job.train.view(numbers)
    own = "none" if numbers is not None else "light" if kind in MIXED else kind
    inputs = to_device(rows.batch([int(i) for i in piece], own, rng), device_of(job.network))
    if kind not in MIXED:
        return inputs, None
    mix = draw(kind, inputs, len(piece), rng)
    return mix.inputs(inputs) if is_image(inputs) else inputs, mix


def _stage_features(trainer: Trainer, seen: dict[str, Any], raw: Any, mask: Tensor | None) -> tuple[Tensor, ...]:
    final = pool_output(raw, trainer.job.network.head.output, mask)
    return tuple(pooled_stages(seen, trainer.job.stages, final)) if trainer.job.stages.paths else (final,)


def _unlabeled(trainer: Trainer, count: int) -> dict[str, Any]:
    """Return features and outputs of so many rows without labels, drawn anew in each step."""
    rows, network = trainer.job.unlabeled, trainer.job.network
    if rows is None or not trainer.job.strategy.unlabeled:
        return {}
    rng = np.random.default_rng(stream(trainer.job.recipe.seed, trainer.job.stream, "unlabeled", trainer.step))
    drawn = rng.choice(len(rows), size=count, replace=len(rows) < count)
    with stage_outputs(network.backbone, trainer.job.stages.paths[:-1]) as seen:
        inputs = to_device(rows.batch([int(i) for i in drawn]), device_of(network.backbone))
        raw = call(network.backbone, inputs)
    mask = mask_of(inputs)
    outputs = network.head.classify(network.pooled(raw, seen, mask))
    return {"unlabeled_features": _stage_features(trainer, seen, raw, mask), "unlabeled_outputs": outputs}


def _added(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    return [x + y for x, y in zip(a, b, strict=True)]


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or "out of memory" in text or "can't allocate" in text
