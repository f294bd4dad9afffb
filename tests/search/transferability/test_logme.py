"""LogME against the evidence computed densely."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from autotransfer.search.transferability import decompose, logme


def evidence(x: Tensor, y: Tensor) -> float:
    """Maximise the density of y, less its mean, under N(0, 1/beta + F F'/alpha), its N x N covariance formed."""
    rows = len(x)
    f = (x - x.mean(0)) / x.std(0, correction=0)
    # An orthonormal basis of all vectors of sum 0 takes the intercept out.
    free = torch.linalg.svd(torch.eye(rows, dtype=torch.float64) - 1 / rows).U[:, :-1]
    f, y = free.T @ f, free.T @ y
    gram = f @ f.T

    def loss(logs: list[float]) -> float:
        # Where N < D the best noise may be none at all; the evidence is flat there.
        alpha, beta = (math.exp(min(max(v, -20.0), 20.0)) for v in logs)
        law = torch.distributions.MultivariateNormal(
            torch.zeros(rows - 1, dtype=torch.float64),
            gram / alpha + torch.eye(rows - 1, dtype=torch.float64) / beta,
        )
        return -float(law.log_prob(y)) / (rows - 1)

    return -min(minimize(loss, start, method="Nelder-Mead").fun for start in ([0.0, 0.0], [4.0, 0.0], [2.0, 2.0]))


@pytest.mark.parametrize(("rows", "width"), [(60, 8), (20, 50), (12, 200)])
@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_it_is_the_exact_evidence(rows: int, width: int, noise: float) -> None:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, width, dtype=torch.float64, generator=generator) * 4 + 1
    signal = x @ torch.randn(width, 2, dtype=torch.float64, generator=generator) / (4 * width**0.5)
    y = signal + noise * torch.randn(rows, 2, dtype=torch.float64, generator=generator)
    wanted = sum(evidence(x, y[:, k]) for k in range(2)) / 2
    found = logme(decompose(x), y)
    assert found == pytest.approx(wanted, abs=2e-4)


def test_noise_features_give_the_evidence_of_no_features() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(200, 1, dtype=torch.float64, generator=generator)
    null = -0.5 * math.log(2 * math.pi * float((y - y.mean()).square().sum()) / 199) - 0.5
    assert logme(decompose(torch.zeros(200, 4)), y) == pytest.approx(null, abs=1e-6)
    found = logme(decompose(torch.randn(200, 4, generator=generator)), y)
    assert found is not None
    assert null - 1e-6 <= found < null + 0.02


@pytest.mark.parametrize("width", [5, 300])
def test_wider_features_of_the_same_information_score_the_same(width: int) -> None:
    # The published code rewards width beyond the rank; copies of a feature add none.
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(30, 5, dtype=torch.float64, generator=generator)
    y = x[:, :1] + 0.5 * torch.randn(30, 1, dtype=torch.float64, generator=generator)
    found = logme(decompose(x.repeat(1, width // 5)), y)
    assert found == pytest.approx(logme(decompose(x), y), abs=1e-6)


def test_better_features_score_higher() -> None:
    generator = torch.Generator().manual_seed(2)
    y = torch.randn(50, 1, dtype=torch.float64, generator=generator)
    noise = torch.randn(50, 100, dtype=torch.float64, generator=generator)
    scores = [logme(decompose(noise + s * y), y) or 0.0 for s in (0.0, 0.3, 1.0)]
    assert scores == sorted(scores)
    assert scores[2] > scores[0] + 0.1


def test_the_unit_of_the_targets_shifts_it_by_its_logarithm() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(40, 3, dtype=torch.float64, generator=generator)
    y = x[:, :1] + torch.randn(40, 1, dtype=torch.float64, generator=generator)
    one, many = logme(decompose(x), y), logme(decompose(x), 1e8 * y)
    assert one is not None
    assert many == pytest.approx(one - math.log(1e8), abs=1e-9)


def test_columns_that_do_not_vary_do_not_count() -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(10, 3, generator=generator)
    y = torch.tensor([[0.0], [1.0]]).repeat(5, 1)
    spectrum = decompose(x)
    beside = torch.cat([y, torch.zeros(10, 1), torch.ones(10, 1)], 1)
    assert logme(spectrum, beside) == logme(spectrum, y)
    assert logme(spectrum, torch.ones(10, 2)) is None


def test_targets_that_are_features_stay_finite() -> None:
    x = torch.randn(4, 9, generator=torch.Generator().manual_seed(5))
    for features in (x, x[:, :2], x[[0, 0, 1, 1]]):
        found = logme(decompose(features), features[:, :1])
        assert found is not None
        assert math.isfinite(found)
