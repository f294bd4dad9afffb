"""The shrunk H-score against its definition, and the shrinkage against scikit-learn's."""

from __future__ import annotations

import pytest
import torch
from sklearn.covariance import ledoit_wolf as reference
from torch import Tensor
from torch.nn import functional

from autotransfer.search.transferability import Link, decompose, hscore
from autotransfer.search.transferability.hscore import ledoit_wolf


def _data(rows: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    labels = torch.arange(rows) % 3
    mix = torch.randn(width, width, dtype=torch.float64, generator=generator)
    x = torch.randn(rows, width, dtype=torch.float64, generator=generator) @ mix
    return x + 3 * mix[labels], labels


@pytest.mark.parametrize(("rows", "width"), [(60, 5), (15, 40)])
def test_it_is_its_definition(rows: int, width: int) -> None:
    x, labels = _data(rows, width)
    f = (x - x.mean(0)) / x.std(0, correction=0)
    covariance, shrinkage = reference(f.numpy(), assume_centered=True)
    means = torch.stack([f[labels == k].mean(0) for k in labels.tolist()])
    between = means.T @ means / rows
    wanted = (1 - shrinkage) * float(torch.trace(torch.linalg.solve(torch.tensor(covariance), between)))
    spectrum = decompose(x)
    assert ledoit_wolf(spectrum) == pytest.approx(shrinkage, rel=1e-9)
    assert hscore(spectrum, functional.one_hot(labels), Link.SOFTMAX) == pytest.approx(wanted, rel=1e-9)


def test_two_classes_score_as_one_label() -> None:
    x, labels = _data(40, 6)
    two = functional.one_hot((labels == 1).long(), 2)
    spectrum = decompose(x)
    both = hscore(spectrum, two, Link.SOFTMAX)
    assert hscore(spectrum, two[:, 1:], Link.SIGMOID) == pytest.approx(both)
    assert hscore(spectrum, two[:, 1:] * 7.0 - 3, Link.IDENTITY) == pytest.approx(both)


def test_without_shrinkage_it_is_the_share_of_a_number_explained() -> None:
    generator = torch.Generator().manual_seed(0)
    x = (
        torch.randn(5000, 2, dtype=torch.float64, generator=generator)
        @ torch.tensor([[1.0, 0.95], [0.0, 0.31]]).double()
    )
    y = x[:, :1] * 2
    assert hscore(decompose(x), y, Link.IDENTITY) == pytest.approx(1.0, abs=0.01)


def test_absent_classes_and_constant_features_change_nothing() -> None:
    x, labels = _data(30, 4)
    spectrum = decompose(x)
    known = hscore(spectrum, functional.one_hot(labels, 3), Link.SOFTMAX)
    assert hscore(spectrum, functional.one_hot(labels + 2, 9), Link.SOFTMAX) == pytest.approx(known)
    beside = decompose(torch.cat([x, torch.full((30, 3), 2.0)], 1))
    assert hscore(beside, functional.one_hot(labels, 3), Link.SOFTMAX) == pytest.approx(known)


def test_nothing_that_varies_scores_0() -> None:
    x, labels = _data(9, 4)
    assert hscore(decompose(torch.zeros(9, 4)), functional.one_hot(labels), Link.SOFTMAX) == 0
    assert hscore(decompose(x), torch.ones(9, 2), Link.SIGMOID) == 0
