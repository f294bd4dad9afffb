"""Ridge with exact leave-one-out predictions for all regularisations at once, and their calibration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from autotransfer.search.transferability.calibration import Link, fit_sharpness, negative_log_likelihood
from autotransfer.search.transferability.spectrum import Spectrum
from autotransfer.strategy import HeadState

REGULARISATIONS = torch.logspace(-6, 2, 17, dtype=torch.float64)
"""In units of the mean variance of the features that vary."""
_ENTRIES = 4_000_000
"""Predictions held at once (32 MB); where all regularisations need more, they are compared on fewer rows."""
_LEAST_ROWS = 512
"""... but on this many at least."""
_INSIDE = 1e-12
"""A row's share outside the span of the features below this is rounding."""


@dataclass(frozen=True)
class Ridge:
    """The solution at the regularisation whose leave-one-out loss is least."""

    weight: Tensor
    """``float64`` [K, D], on raw features, as fitted: before calibration."""
    bias: Tensor
    """``float64`` [K]."""
    temperature: float
    """Predictions (less ``middle``) divided by it are calibrated logits (Guo et al. 2017); 1 for numbers."""
    middle: float
    """The prediction whose logit is 0: one half for a sigmoid, else 0."""
    left_out: Tensor
    """Leave-one-out predictions ``float64`` [N, K], before calibration."""
    loss_per_row: Tensor
    """Of the calibrated leave-one-out predictions, ``float64`` [N]: nats a row (for sigmoids the mean over labels,
    as in ``task.loss``), or the squared error."""
    penalty: float
    """The regularisation chosen, added to the eigenvalues of F'F / N."""

    @property
    def logits(self) -> Tensor:
        """Calibrated leave-one-out outputs ``float64`` [N, K], as a task takes them."""
        return (self.left_out - self.middle).div_(self.temperature)

    def head(self) -> HeadState:
        """Return the head on raw features whose outputs are calibrated logits (numbers for a regression)."""
        return HeadState(
            weight=(self.weight / self.temperature).float(),
            bias=((self.bias - self.middle) / self.temperature).float(),
        )


def ridge(
    spectrum: Spectrum,
    targets: Tensor,
    link: Link,
    regularisations: Tensor = REGULARISATIONS,
    groups: Tensor | None = None,
) -> Ridge:
    """Return the ridge solution with the least leave-one-out loss.

    For numbers the loss is the squared error, for classes and labels the negative log-likelihood at each
    regularisation's own temperature. Where N x K times the number of regularisations is large, these are compared on
    evenly spaced rows, whose leave-one-out predictions are as exact; the chosen one is then predicted and calibrated
    on all rows.

    Args:
        spectrum: of the features [N, D].
        targets: the matrix to fit, [N, K]: one-hot rows, 0-1 rows or numbers.
        link: what turns predictions into probabilities.
        regularisations: [L], in units of the mean variance of the features that vary.
        groups: number of each row's group, ``int64`` [N]; the whole group is left out with a row. None: rows alone.

    Raises:
        ValueError: targets of another number of rows.
    """
    if targets.ndim != 2 or targets.shape[0] != spectrum.rows:
        raise ValueError(f"targets have the shape {tuple(targets.shape)}; wanted [{spectrum.rows}, K]")
    y = targets.double()
    rows, columns = y.shape
    penalties = regularisations.double() * (
        spectrum.values.sum() / spectrum.varying if spectrum.values.numel() else 1.0
    )
    fit = _Fit(spectrum, y, groups)
    some = min(rows, max(_LEAST_ROWS, _ENTRIES // max(1, columns * len(penalties))))
    penalty, sharpness, left = _chosen(fit, penalties, y, link, rows if fit.members else some)
    factor, middle = float(sharpness[0]), link.middle
    weight = spectrum.weights(fit.answers * (spectrum.values / (spectrum.values + penalty))[:, None]).T
    return Ridge(
        weight=weight,
        bias=fit.mean - weight @ spectrum.mean,
        temperature=1.0 / factor,
        middle=middle,
        left_out=left,
        loss_per_row=negative_log_likelihood(left[None], sharpness, y, link)[0],
        penalty=float(penalty),
    )


def _chosen(fit: _Fit, penalties: Tensor, y: Tensor, link: Link, some: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return penalty, sharpness and predictions [N, K] of all rows; penalties are compared on ``some`` of them."""
    rows = len(y)
    if some >= rows:
        return _best(fit, penalties, y, link, None)
    compared = torch.linspace(0, rows - 1, some, dtype=torch.float64).round().long()
    penalty, sharpness, _ = _best(fit, penalties, y[compared], link, compared)
    left = torch.empty_like(y)
    for part in torch.arange(rows).split(some):
        left[part] = fit.left_out(penalty[None], part)[0]
    return penalty, fit_sharpness(left[None], y, link, start=sharpness), left


def leave_one_out(spectrum: Spectrum, targets: Tensor, penalties: Tensor, groups: Tensor | None = None) -> Tensor:
    """Return exact leave-one-out predictions ``float64`` [L, N, K] for penalties [L] on the eigenvalues of F'F / N.

    Rows of one group are left out together: their residuals are solved for with the block of 1 - H that is theirs.

    The penalty on the sum of squares, N times these, and the standardisation stay as they are on all rows. With
    w_k = l / (s_k + l) the residual of a ridge fit is e = U (w * U'y) + (1 - UU') y and 1 - h = U^2 w + 1 - 1/N -
    |U_i|^2; leaving row i out makes it e_i / (1 - h_i) (Allen 1974, PRESS). Neither sum takes a small difference of
    large numbers, so both hold at interpolation (N < D, small penalties).
    """
    return _Fit(spectrum, targets.double(), groups).left_out(penalties.double())


class _Fit:
    """What ridge solutions of one spectrum and one target matrix share."""

    def __init__(self, spectrum: Spectrum, y: Tensor, groups: Tensor | None = None) -> None:
        self.spectrum, self.y, self.mean = spectrum, y, y.mean(0)
        u = spectrum.left
        self.projected = u.T @ y - u.sum(0)[:, None] * self.mean
        """U'(y - mean) [r, K]."""
        self.answers = self.projected / (spectrum.rows * spectrum.values).sqrt()[:, None]
        """Coefficients of least squares on the principal components [r, K]."""
        slack = 1.0 - 1.0 / spectrum.rows - u.square().sum(1)
        self.slack = slack.masked_fill(slack < _INSIDE, 0.0)
        """The share of each row's unit vector outside the span of the features and the intercept [N]."""
        self.members = members_of(groups)
        """Numbers of the rows of each group of two or more, where there are several groups."""

    def left_out(self, penalties: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return leave-one-out predictions [L, N, K], or of some rows [L, n, K]."""
        u, slack, y = (
            part if rows is None else part.index_select(0, rows) for part in (self.spectrum.left, self.slack, self.y)
        )
        shares = penalties / (self.spectrum.values[:, None] + penalties)  # w [r, L]
        mixed = (shares[:, :, None] * self.projected[:, None]).flatten(1)
        residual = (u @ mixed).reshape(len(u), len(penalties), y.shape[1]).transpose(0, 1)
        if bool(slack.any()):
            outside = (y - self.mean).sub_(u @ self.projected).masked_fill_((slack == 0)[:, None], 0.0)
            residual = residual.add_(outside)
        free = u.square() @ shares + slack[:, None]
        together = [(g, self._together(residual[:, g], shares, g)) for g in self.members]
        residual = residual.div_(free.T[:, :, None])
        for members, left in together:
            residual[:, members] = left
        return y - residual

    def _together(self, residual: Tensor, shares: Tensor, members: Tensor) -> Tensor:
        """Return residuals [L, n, K] of rows that are left out together, from those of the fit on all rows."""
        u = self.spectrum.left[members]
        block = u.new_zeros(len(members), len(members))
        if bool(self.slack.any()):
            block = torch.eye(len(members), dtype=u.dtype) - 1.0 / self.spectrum.rows - u @ u.T
        return torch.stack([_solved(block + (u * w) @ u.T, r) for w, r in zip(shares.T, residual, strict=True)])


def members_of(groups: Tensor | None) -> list[Tensor]:
    """Return the rows of each group of two or more; nothing where all rows are one group."""
    if groups is None or len(groups.unique()) < 2:
        return []
    order = groups.argsort(stable=True)
    _, counts = torch.unique_consecutive(groups[order], return_counts=True)
    return [rows for rows in order.split(counts.tolist()) if len(rows) > 1]


def _solved(block: Tensor, residual: Tensor) -> Tensor:
    found: Tensor
    found, failed = torch.linalg.solve_ex(block, residual)
    if int(failed) or not bool(found.isfinite().all()):  # the group alone spans a direction of the features
        found = torch.linalg.pinv(block, hermitian=True) @ residual
    return found


def _best(fit: _Fit, penalties: Tensor, y: Tensor, link: Link, rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the penalty of least loss (a scalar), its sharpness [1] and its predictions [n, K]."""
    found: tuple[float, Tensor, Tensor, Tensor] | None = None
    start: Tensor | None = None
    for group in _groups(penalties, y.numel()):
        left = fit.left_out(group, rows)
        sharpness = fit_sharpness(left, y, link, start=start)
        start = sharpness[-1:]
        losses = negative_log_likelihood(left, sharpness, y, link).mean(1)
        at = int(losses.argmin())
        if found is None or float(losses[at]) < found[0]:
            found = (float(losses[at]), group[at], sharpness[at : at + 1], left[at].clone())
    assert found is not None
    return found[1], found[2], found[3]


def _groups(penalties: Tensor, entries: int) -> Iterator[Tensor]:
    yield from penalties.split(max(1, min(len(penalties), _ENTRIES // max(1, entries))))
