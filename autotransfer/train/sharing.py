"""Several tasks on one backbone: how their losses are weighed, and what is done where their gradients disagree."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from autotransfer.protocols import Tasks
from autotransfer.recipes import COMBINE, PCGRAD, TASK_WEIGHTS, UNCERTAINTY
from autotransfer.train.sampling import stream

if TYPE_CHECKING:
    from autotransfer.protocols import Task
    from autotransfer.train.job import Job

RATE = 0.02
"""Learning rate of the weights: they have to move by about 1 within a few hundred steps."""
NAME = "task_weights"


class TaskWeights(nn.Module):
    """One number s for each task: its loss L becomes exp(-s) L + s, learned beside the network.

    Source: Kendall, Gal and Cipolla 2018, Multi-Task Learning Using Uncertainty to Weigh Losses (arXiv 1705.07115),
    section 3.2, with s the logarithm of the task's variance.

    Args:
        names: of the tasks.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.logs = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, losses: Sequence[Tensor], there: Sequence[bool]) -> list[Tensor]:
        """Return the weighed losses; a task without any label in the batch has no say in its weight.

        Args:
            losses: of each task, scalars.
            there: whether the batch has labels of it.
        """
        return [(-s).exp() * loss + s if own else loss for loss, own, s in zip(losses, there, self.logs, strict=True)]

    def group(self) -> dict[str, Any]:
        """Return the optimizer's group: a rate of its own, no decay."""
        own = {"params": [self.logs], "names": [f"{NAME}.logs"], "lr": RATE, "peak": RATE, "weight_decay": 0.0}
        return {**own, "apart": True}

    def told(self) -> str:
        """Return the weights in words."""
        shares = [f"{n} {w:.3g}" for n, w in zip(self.names, (-self.logs).exp().tolist(), strict=True)]
        return f"weights of the losses, as learned: {', '.join(shares)}"


def weights_of(job: Job) -> TaskWeights | None:
    """Return the weights that a recipe asks for; None where all losses count alike."""
    if job.recipe.values.get(TASK_WEIGHTS) != UNCERTAINTY or not isinstance(job.task, Tasks):
        return None
    return TaskWeights([p.target for p in job.task.parts]).to(job.network.head.mean.device)


def task_terms(
    task: Task,
    weights: TaskWeights | None,
    outputs: Tensor,
    targets: Tensor,
    whole: Tensor,
    label_smoothing: float,
) -> list[Tensor]:
    """Return the loss of each task on a piece of a batch, scaled so that pieces add up by their shares of the rows.

    A task's loss is the mean over the rows that have its label. A piece may hold more or fewer of them than its share,
    so its loss counts by what it holds of the batch's.

    Args:
        task: one, or several.
        weights: learned ones, or None.
        outputs: of the piece.
        targets: of the piece, encoded.
        whole: of the whole batch.
        label_smoothing: of classes.
    """
    if not isinstance(task, Tasks):
        return [task.loss(outputs, targets, label_smoothing)]
    here, every = ([len(p.labelled(t)[0]) for p in task.parts] for t in (targets, whole))
    share = len(targets) / len(whole)
    scales = [some / max(1, all_) / share for some, all_ in zip(here, every, strict=True)]
    found = [loss * s for loss, s in zip(task.losses(outputs, targets, label_smoothing), scales, strict=True)]
    return found if weights is None else weights(found, [count > 0 for count in every])


def combiner(job: Job, names: Sequence[str], step: int) -> Callable[[Any], list[Tensor]] | None:
    """Return what makes one gradient of those of each term, the tasks' losses first; None: they are added.

    Args:
        job: whose recipe says how.
        names: of the trained tensors: those of the backbone are shared.
        step: of the training, for its random numbers.
    """
    if job.recipe.values.get(COMBINE) != PCGRAD or not isinstance(job.task, Tasks):
        return None
    tasks = len(job.task.parts)
    shared = [i for i, name in enumerate(names) if name.startswith("backbone.")]
    rng = np.random.default_rng(stream(job.recipe.seed, job.stream, "pcgrad", step))

    def combined(gradients: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        shares = pcgrad([[g[i] for i in shared] for g in gradients[:tasks]], rng).sum(0).tolist() if shared else []
        found = [torch.stack(g).sum(0) for g in zip(*gradients, strict=True)]
        for i in shared:  # the tasks' own heads, and a strategy's own term, are no part of it
            terms = [(s - 1.0) * g[i] for s, g in zip(shares, gradients[:tasks], strict=True) if s != 1.0]
            found[i] = torch.stack([found[i], *terms]).sum(0)
        return found

    return combined


def pcgrad(gradients: Sequence[Sequence[Tensor]], rng: np.random.Generator) -> np.ndarray:
    """Return what each task's gradient is made of, without what works against another task's: ``float64`` [T, T].

    Row i says how much of each gradient is in that of task i after the surgery.

    Source: Yu et al. 2020, Gradient Surgery for Multi-Task Learning (arXiv 2001.06782), algorithm 1: in random order,
    where the gradient of task i as it is by then has a negative product with that of task j as it came, it is
    projected onto the plane normal to the latter. All of them stay sums of the gradients as they came, so that their
    products with each other are all that is needed.

    Args:
        gradients: of each task, the shared parameters in the same order.
        rng: of the order.
    """
    count = len(gradients)
    products = np.zeros((count, count))
    for i, j in itertools.combinations_with_replacement(range(count), 2):
        products[i, j] = products[j, i] = _product(gradients[i], gradients[j])
    made = np.eye(count)
    for i in range(count):
        for j in rng.permutation([j for j in range(count) if j != i]).tolist():
            along = made[i] @ products[:, j]
            if along < 0 and products[j, j] > 0:
                made[i, j] -= along / products[j, j]
    return made


def _product(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return float(torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).double().sum())
