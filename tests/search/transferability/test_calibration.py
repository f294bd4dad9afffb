"""One temperature for many matrices of predictions."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from autotransfer.search.transferability.calibration import Link, fit_sharpness, link_of, negative_log_likelihood
from autotransfer.tasks import make_task


def test_every_matrix_gets_the_factor_of_least_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (500,), generator=generator)
    y = functional.one_hot(labels).double()
    noise = torch.randn(500, 4, dtype=torch.float64, generator=generator)
    predicted = torch.stack([y + noise, 0.02 * (y + noise), 30 * (2 * y + noise) + 1e3])
    for link in (Link.SOFTMAX, Link.SIGMOID):
        found = fit_sharpness(predicted, y, link)
        least = negative_log_likelihood(predicted, found, y, link).mean(1)
        for other in (0.9, 1.1):
            worse = negative_log_likelihood(predicted, found * other, y, link).mean(1) > least
            # Logits that are all far above one half want no sharpness at all: the factor stays at its bound.
            assert worse.tolist() == [True, True, link is Link.SOFTMAX or other > 1]
    softmax = fit_sharpness(predicted, y, Link.SOFTMAX)
    assert softmax[1] / softmax[0] == pytest.approx(50, rel=1e-3)


@pytest.mark.parametrize("link", [Link.SOFTMAX, Link.SIGMOID])
def test_rows_that_are_all_right_do_not_ask_for_an_infinite_factor(link: Link) -> None:
    y = torch.eye(2, dtype=torch.float64).repeat(10, 1)
    sharpness = fit_sharpness(y[None], y, link)
    loss = negative_log_likelihood(y[None], sharpness, y, link)
    # Platt's targets for 20 rows: 21 of 22 right.
    torch.testing.assert_close(loss.exp(), torch.full((1, 20), 22 / 21, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("link", [Link.SOFTMAX, Link.SIGMOID])
def test_rows_that_are_all_wrong_get_the_least_factor(link: Link) -> None:
    y = torch.eye(2, dtype=torch.float64).repeat(10, 1)
    assert float(fit_sharpness(1 - y[None], y, link)) == pytest.approx(1e-2, rel=1e-3)


def test_a_start_does_not_change_the_answer() -> None:
    generator = torch.Generator().manual_seed(1)
    y = functional.one_hot(torch.randint(3, (50,), generator=generator), 3).double()
    predicted = (y + torch.randn(50, 3, dtype=torch.float64, generator=generator))[None]
    found = [fit_sharpness(predicted, y, Link.SOFTMAX, torch.tensor([s], dtype=torch.float64)) for s in (0.011, 9e3)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=0)


@pytest.mark.parametrize("link", [Link.SOFTMAX, Link.SIGMOID])
def test_a_row_that_counts_three_times_is_three_rows(link: Link) -> None:
    generator = torch.Generator().manual_seed(2)
    y = functional.one_hot(torch.randint(3, (60,), generator=generator), 3).double()
    predicted = (y + torch.randn(60, 3, dtype=torch.float64, generator=generator))[None]
    often = torch.ones(60, dtype=torch.long)
    often[::2] = 3
    rows = torch.arange(60).repeat_interleave(often)
    found = fit_sharpness(predicted, y, link, weights=often / often.double().mean())
    # Targets are drawn in by one in so many rows, which are twice as many here.
    torch.testing.assert_close(found, fit_sharpness(predicted[:, rows], y[rows], link), rtol=0.05, atol=0)


def test_numbers_are_left_as_they_are() -> None:
    predicted = torch.randn(2, 5, 1, dtype=torch.float64)
    assert fit_sharpness(predicted, torch.zeros(5, 1), Link.IDENTITY).tolist() == [1.0, 1.0]


def test_every_task_has_its_link() -> None:
    values = {
        "binary": (["a", "b"], Link.SOFTMAX),
        "multiclass": ([1, 2, 3], Link.SOFTMAX),
        "multilabel": ([["a"], ["b"]], Link.SIGMOID),
        "regression": ([0.5, 1.5], Link.IDENTITY),
    }
    for name, (rows, link) in values.items():
        task = make_task(name, rows)
        assert link_of(task, task.encode(rows)) is link
