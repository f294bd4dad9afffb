"""Terms that compare a batch of unlabeled rows with a batch of labelled ones, or with itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autotransfer.plugin import Step

TEMPERATURE = 2.5
"""Of the chances whose confusion is told (the paper's)."""


class CovarianceGap(nn.Module):
    """Deep CORAL (Sun and Saenko 2016, equation 1) on the outputs, as the paper has it on its last layer."""

    def forward(self, step: Step) -> Tensor:
        """Return the term, a scalar."""
        assert step.unlabeled_outputs is not None
        return covariance_gap(step.outputs, step.unlabeled_outputs)


def covariance_gap(first: Tensor, second: Tensor) -> Tensor:
    """Return the squared Frobenius norm of the difference of two covariances over 4 d^2, for [N, d] and [M, d]."""
    apart = _covariance(first.float()) - _covariance(second.float())
    return apart.square().sum() / (4 * first.shape[1] ** 2)


def _covariance(x: Tensor) -> Tensor:
    """Return the covariance [d, d] of rows (equations 2 and 3 of the paper)."""
    centred = x - x.mean(0)
    return centred.T @ centred / max(1, len(x) - 1)


class ClassConfusion(nn.Module):
    """Minimum class confusion (Jin et al. 2020)."""

    def forward(self, step: Step) -> Tensor:
        """Return the term, a scalar."""
        assert step.unlabeled_outputs is not None
        return class_confusion(step.unlabeled_outputs)


def class_confusion(outputs: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return the mean confusion of a class with all others, for outputs [B, C].

    Jin et al. 2020: chances at a temperature (equation 2), rows weighted by their certainty (4, 5; no gradient flows
    through the weights), correlation of the classes (6), normalised by class (7), mean of what is off its diagonal (8).
    """
    chances = torch.softmax(outputs.float() / temperature, 1)
    with torch.no_grad():
        entropy = -(chances * chances.clamp_min(1e-12).log()).sum(1)
        weights = 1 + torch.exp(-entropy)
        weights = len(weights) * weights / weights.sum()
    mixed = (chances * weights[:, None]).T @ chances
    mixed = mixed / mixed.sum(1, keepdim=True).clamp_min(1e-12)  # a class that no row is near confuses none
    return (mixed.sum() - mixed.trace()) / outputs.shape[1]
