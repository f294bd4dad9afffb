"""Several tasks on one backbone: how their losses are weighed, and what is done where their gradients disagree."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from autotransfer.protocols import Tasks
from autotransfer.recipes import COMBINE, PCGRAD, TASK_WEIGHTS, UNCERTAINTY
from autotransfer.strategy import HeadState, NeighbourState
from autotransfer.train.balance import Loss, evened, log_priors
from autotransfer.train.sampling import stream

if TYPE_CHECKING:
    from autotransfer.protocols import Task, TaskPart
    from autotransfer.schema import Training
    from autotransfer.train.job import Job
    from autotransfer.train.mixing import Mix

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


def losses_of(task: Task, training: Training, targets: Tensor) -> tuple[Loss, ...]:
    """Return the loss of a task on training rows with these encoded targets; of several targets one for each.

    Of several targets a recipe's balance is for those with classes whose metric calls for it: the others, numbers among
    them, are trained as they are.
    """
    if not isinstance(task, Tasks):
        return (Loss.of(task, training, targets),)
    found = []
    for part in task.parts:
        own = training if part.evened else replace(training, balance="none")
        found.append(Loss.of(part.task, own, part.labelled(targets)[1]))
    return tuple(found)


def task_terms(
    job: Job,
    weights: TaskWeights | None,
    outputs: Tensor,
    targets: Tensor,
    whole: Tensor,
    mix: Mix | None = None,
) -> list[Tensor]:
    """Return the loss of each task on a piece of a batch, scaled so that pieces add up by their shares of the rows.

    A task's loss is the mean over the rows that have its label. A piece may hold more or fewer of them than its share,
    so its loss counts by what it holds of the batch's. Where rows are mixed, the label of a row and that of its partner
    count by their shares, each where it is there: a permutation of the piece's rows has as many labels as they have.

    Args:
        job: of one task, or of several.
        weights: learned ones, or None.
        outputs: of the piece.
        targets: of the piece, encoded.
        whole: of the whole batch.
        mix: how the rows of the piece were mixed; None: they were not.
    """
    if not isinstance(job.task, Tasks):
        (loss,) = job.losses
        return [loss(outputs, targets, mix)]
    found, there = [], []
    for part, loss in zip(job.task.parts, job.losses, strict=True):
        here, every = len(part.labelled(targets)[0]), len(part.labelled(whole)[0])
        scale = here / max(1, every) * len(whole) / len(targets)
        found.append(_of_part(part, loss, outputs, targets, mix) * scale)
        there.append(every > 0)
    return found if weights is None else weights(found, there)


def _of_part(part: TaskPart, loss: Loss, outputs: Tensor, targets: Tensor, mix: Mix | None) -> Tensor:
    own = outputs[:, part.outputs]

    def of(labels: Tensor) -> Tensor:
        rows, wanted = part.labelled(labels)
        return loss(own[rows], wanted) if len(rows) else own[rows].float().sum()

    return of(targets) if mix is None else mix.loss(of, targets)


@overload
def evened_heads(head: HeadState, task: Task, targets: Tensor, balance: str) -> HeadState: ...
@overload
def evened_heads(head: NeighbourState, task: Task, targets: Tensor, balance: str) -> NeighbourState: ...
@overload
def evened_heads(
    head: HeadState | NeighbourState, task: Task, targets: Tensor, balance: str
) -> HeadState | NeighbourState: ...
def evened_heads(
    head: HeadState | NeighbourState, task: Task, targets: Tensor, balance: str
) -> HeadState | NeighbourState:
    """Return a closed-form head as a balanced training has it; of several targets those that the balance is for.

    Args:
        head: fitted to the rows as they are.
        task: one, or several.
        targets: of these rows, encoded.
        balance: of the training.
    """
    if not isinstance(task, Tasks):
        return evened(head, targets, balance)
    if balance == "none" or isinstance(head, NeighbourState):
        return head
    bias = head.bias.clone()
    for part in task.parts:
        if part.evened:
            _, own = part.labelled(targets)
            bias[part.outputs] -= log_priors(own, part.task.outputs).to(bias)
    return replace(head, bias=bias)


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
