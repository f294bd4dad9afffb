"""Nearest neighbours, each row left out."""

from __future__ import annotations

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from torch.nn import functional

from autotransfer.search.transferability import Link, decompose, knn
from autotransfer.search.transferability.knn import hits


def test_classes_are_those_of_the_reference_without_each_row() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 4, generator=generator)
    labels = (x[:, 0] + 0.3 * torch.randn(300, generator=generator) > 0).long()
    f = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
    near = KNeighborsClassifier(6).fit(f, labels).kneighbors(f, return_distance=False)[:, 1:]
    wanted = (labels[torch.tensor(near)].double().mean(1) > 0.5).long()
    found = knn(decompose(x), functional.one_hot(labels), Link.SOFTMAX)
    assert found == pytest.approx(float((wanted == labels).double().mean()))
    assert found > 0.8


def test_numbers_are_those_of_the_reference_without_each_row() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, 20, generator=generator)
    y = x[:, :1].double().sin()
    f = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
    near = KNeighborsRegressor(4).fit(f, y).kneighbors(f, return_distance=False)[:, 1:]
    predicted = y[torch.tensor(near)].mean(1)
    wanted = 1 - float((predicted - y).square().sum() / (y - y.mean()).square().sum())
    assert knn(decompose(x), y, Link.IDENTITY, neighbours=3) == pytest.approx(wanted)


def test_clusters_that_no_line_divides_are_seen() -> None:
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(10, 1)
    labels = torch.tensor([0, 1, 1, 0]).repeat(10)
    assert knn(decompose(x), functional.one_hot(labels), Link.SOFTMAX) == 1
    assert knn(decompose(x), functional.one_hot(labels).double(), Link.SIGMOID) == 1


def test_a_tied_vote_goes_to_the_nearest() -> None:
    x = torch.tensor([[0.0], [1.0], [-2.0], [9.0], [-9.0]])
    labels = torch.tensor([0, 0, 1, 2, 2])
    # The first row's neighbours are of class 0 and 1; it is the only question.
    assert knn(decompose(x), functional.one_hot(labels), Link.SOFTMAX, neighbours=2, queries=1) == 1


def test_few_rows_and_features_that_do_not_vary() -> None:
    x, labels = torch.randn(3, 4, generator=torch.Generator().manual_seed(2)), functional.one_hot(torch.arange(3))
    assert knn(decompose(x), labels, Link.SOFTMAX) == 0
    assert 0 <= knn(decompose(torch.zeros(3, 4)), labels, Link.SOFTMAX) <= 1
    assert knn(decompose(x), torch.ones(3, 1), Link.IDENTITY) == 0


def test_a_sample_of_questions_looks_among_all_rows() -> None:
    x = torch.arange(1000.0)[:, None]
    labels = functional.one_hot((x[:, 0] >= 500).long())
    assert knn(decompose(x), labels, Link.SOFTMAX, queries=50) == 1


def test_hits() -> None:
    one = functional.one_hot(torch.tensor([0, 1, 1, 1])).double()
    guess = torch.tensor([[0.6, 0.4]]).repeat(4, 1).double()
    assert hits(guess, one, Link.SOFTMAX) == 0.25
    assert hits(guess, one, Link.SIGMOID) == 0.25
    assert hits(one, one, Link.IDENTITY) == 1
    assert hits(one.mean(0).expand(4, 2), one, Link.IDENTITY) == 0


def test_members_of_a_row_s_group_are_no_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(20).repeat_interleave(6)
    x = torch.randn(20, 5, generator=generator)[groups] + 0.01 * torch.randn(120, 5, generator=generator)
    labels = functional.one_hot(groups % 2)
    assert knn(decompose(x), labels, Link.SOFTMAX) == 1.0
    assert knn(decompose(x), labels, Link.SOFTMAX, groups=groups) < 0.8
    assert knn(decompose(x), labels, Link.SOFTMAX, groups=torch.zeros(120)) == 1.0  # one group: nobody else is there
    two = torch.cat([torch.zeros(118), torch.ones(2)])
    assert 0.0 <= knn(decompose(x), labels, Link.SOFTMAX, groups=two) <= 1.0
