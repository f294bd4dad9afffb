"""Losses and heads in which classes of very different size count alike."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor

from autotransfer.strategy import HeadState, NeighbourState

if TYPE_CHECKING:
    from autotransfer.protocols import Task
    from autotransfer.schema import Training
    from autotransfer.train.mixing import Mix


@dataclass(frozen=True)
class Loss:
    """The loss of a training: the task's own, with its targets softened, mixed, and its classes balanced."""

    task: Task
    smoothing: float
    offset: Tensor | None = None
    """Added to the outputs [N, C]; None: nothing."""
    weights: Tensor | None = None
    """Of classes [C], or of 0 and 1 of each label [2, C]; None: all alike."""

    @classmethod
    def of(cls, task: Task, training: Training, targets: Tensor) -> Loss:
        """Return the loss of a training on rows with these encoded targets."""
        return cls(
            task,
            training.label_smoothing,
            log_priors(targets, task.outputs) if training.balance == "logits" else None,
            class_weights(targets, task.outputs) if training.balance == "weights" else None,
        )

    def __call__(self, outputs: Tensor, targets: Tensor, mix: Mix | None = None) -> Tensor:
        """Return the mean loss of outputs [N, C] for encoded targets, a scalar."""
        shifted = outputs if self.offset is None else outputs + self.offset.to(outputs.device)

        def of(own: Tensor) -> Tensor:
            if self.weights is None:
                return self.task.loss(shifted, own, self.smoothing)
            return self.task.loss(shifted, own, self.smoothing, row_weights(self.weights.to(own.device), own))

        return of(targets) if mix is None else mix.loss(of, targets)


def log_priors(targets: Tensor, outputs: int) -> Tensor:
    """Return what to add to the outputs so that classes count alike in a cross-entropy, ``float32`` [C].

    The logarithm of each class's share of the rows (Menon et al. 2021, Long-tail learning via logit adjustment, eq.
    10, tau = 1); of labels, each of which is two classes, that of the odds. A class without a row counts as one row.

    Args:
        targets: of the training rows, encoded: class numbers ``int64`` [N], or 0 and 1 ``float32`` [N, C].
        outputs: C.
    """
    first, second = _counts(targets, outputs)
    return (second.log() - first.log()).float()


def class_weights(targets: Tensor, outputs: int) -> Tensor:
    """Return the weight N / (C n_y) of each class, ``float32`` [C]; of labels N / (2 n) of 0 and of 1, [2, C].

    Its mean over the rows is 1, so that the learning rate keeps its meaning.

    Args:
        targets: of the training rows, encoded.
        outputs: C.
    """
    first, second = _counts(targets, outputs)
    if targets.is_floating_point():
        return (len(targets) / (2.0 * torch.stack([first, second]))).float()
    return (first / (outputs * second)).float()


def row_weights(weights: Tensor, targets: Tensor) -> Tensor:
    """Return the weight of each row [N], or of each label of each row [N, C], by :func:`class_weights`."""
    return torch.where(targets > 0.5, weights[1], weights[0]) if targets.is_floating_point() else weights[targets]


@overload
def evened(head: HeadState, targets: Tensor, balance: str) -> HeadState: ...
@overload
def evened(head: NeighbourState, targets: Tensor, balance: str) -> NeighbourState: ...
def evened(head: HeadState | NeighbourState, targets: Tensor, balance: str) -> HeadState | NeighbourState:
    """Return a closed-form head whose logits are those of equally frequent classes, where a training is balanced.

    Its logits less the log priors (Menon et al. 2021, eq. 9): they are to be calibrated, as those of ridge heads are.
    One of neighbours has their shares over the priors.

    Args:
        head: fitted to the rows as they are.
        targets: of these rows, encoded.
        balance: of the training.
    """
    if balance == "none":
        return head
    if isinstance(head, NeighbourState):
        if head.link != "softmax":
            return head
        mass = head.values.double().sum(0)  # what it remembers: rows of each class; prototypes have no priors
        weights = torch.where(mass > 0, mass.sum() / (len(mass) * mass.clamp_min(1e-12)), 1.0)
        return replace(head, values=head.values * weights.to(head.values))
    return replace(head, bias=head.bias - log_priors(targets, len(head.bias)).to(head.bias))


def _counts(targets: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
    """Return rows without and with each label, or all rows and those of each class, each at least 1, [C]."""
    if targets.is_floating_point():
        there = (targets > 0.5).double().sum(0)
        return (len(targets) - there).clamp_min(1.0), there.clamp_min(1.0)
    counts = torch.bincount(targets, minlength=outputs).double().clamp_min(1.0)
    return torch.full_like(counts, max(1, len(targets))), counts
