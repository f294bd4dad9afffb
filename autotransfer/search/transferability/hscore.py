"""H-score with a shrunk covariance: how much of the features' variance the targets explain, in whitened space."""

from __future__ import annotations

import torch
from torch import Tensor

from autotransfer.search.transferability.calibration import Link
from autotransfer.search.transferability.spectrum import Spectrum


def ledoit_wolf(spectrum: Spectrum) -> float:
    """Return the shrinkage of the covariance towards a multiple of the identity (Ledoit and Wolf 2004, lemma 3.1).

    Constant features do not count.
    """
    width, rows = spectrum.varying, spectrum.rows
    trace, squares = spectrum.values.sum(), spectrum.values.square().sum()
    distance = float(squares - trace.square() / width) / width if width else 0.0
    lengths = (spectrum.left.square() @ spectrum.values) * rows
    noise = float(lengths.square().mean() - squares) / (width * rows) if width else 0.0
    noise = min(noise, distance)
    return noise / distance if noise > 0 else 0.0


def hscore(spectrum: Spectrum, targets: Tensor, link: Link) -> float:
    """Return the regularised H-score (Ibrahim et al. 2021): (1 - a) tr(S_a^-1 cov(E[f | y])).

    S_a = (1 - a) S + a (tr S / D) I is diagonal in the basis of the spectrum, so no matrix is factorised again. For
    labels it is the mean of the score of each label against the rest, for numbers that of the best linear
    prediction of the features from the number: both are c' S_a^-1 c / var(y) with c = cov(f, y). Features that differ
    from white noise by no more than chance have a = 1 and score 0, whatever they say of the targets.

    Args:
        spectrum: of the features [N, D].
        targets: one-hot rows, 0-1 rows or numbers [N, K].
        link: softmax takes the columns as one set of classes.
    """
    y, u, s = targets.double(), spectrum.left, spectrum.values
    if not s.numel():
        return 0.0
    mean = y.mean(0)
    # (cov of the principal components with y)^2 = s (U'y)^2 / N, and its ratio to the shrunk eigenvalues.
    shared = (u.T @ y - u.sum(0)[:, None] * mean).square() / spectrum.rows
    shrinkage = ledoit_wolf(spectrum)
    ratio = s / ((1 - shrinkage) * s + shrinkage * s.sum() / spectrum.varying)
    explained = (1 - shrinkage) * (ratio @ shared)
    # A class of mean m has E[f | class] = c / m and weight m.
    spread = mean if link is Link.SOFTMAX else y.var(0, correction=0)
    present = spread > 1e-12 * torch.linalg.vector_norm(y, dim=0).square() / spectrum.rows
    if not bool(present.any()):
        return 0.0
    each = explained[present] / spread[present]
    return float(each.sum() if link is Link.SOFTMAX else each.mean())
