"""The spectrum: exact, free of the features' units, harmless where nothing varies."""

from __future__ import annotations

import pytest
import torch

from autotransfer.errors import PluginContractError
from autotransfer.search.transferability import decompose


@pytest.mark.parametrize(("rows", "width"), [(40, 6), (12, 30), (9, 9), (3, 5), (2, 1)])
@pytest.mark.parametrize("standardise", [True, False])
def test_the_parts_make_the_features_again(rows: int, width: int, standardise: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(rows, width, dtype=torch.float64) * 7 + 100
    found = decompose(x, standardise=standardise)
    f = (x - x.mean(0)) * found.scale
    rank = min(rows - 1, width)
    assert found.values.shape == (rank,)
    torch.testing.assert_close(found.left.T @ found.left, torch.eye(rank, dtype=torch.float64))
    basis = found.weights(torch.eye(rank, dtype=torch.float64)) / found.scale[:, None]
    torch.testing.assert_close(found.scores() @ basis.T, f)
    torch.testing.assert_close(basis.T @ basis, torch.eye(rank, dtype=torch.float64))
    if standardise:
        torch.testing.assert_close(f.square().mean(0), torch.ones(width, dtype=torch.float64))
    else:
        assert len(set(found.scale.tolist())) == 1


def test_constant_and_zero_features_have_no_weight_and_change_nothing() -> None:
    torch.manual_seed(1)
    x = torch.randn(20, 3)
    constant = torch.tensor([0.0, 1e3, 1e-35]).expand(20, 3)
    alone, beside = decompose(x), decompose(torch.cat([x, constant], 1))
    assert beside.varying == 3
    torch.testing.assert_close(beside.values, alone.values)
    weights = beside.weights(torch.ones(3, 2, dtype=torch.float64))
    assert weights.shape == (6, 2)
    assert not weights[3:].any()


def test_a_nearly_dead_feature_counts_for_what_it_is_beside_the_others() -> None:
    torch.manual_seed(2)
    x = torch.randn(30, 5) * torch.tensor([1.0, 2.0, 0.5, 0.02, 1e-8])
    found = decompose(x)
    assert found.varying == 5
    torch.testing.assert_close(found.scale[:4], 1.0 / x.double().std(0, correction=0)[:4])
    assert found.scale[4] == pytest.approx(100 * float(found.scale[2]))


def test_features_none_of_which_varies_have_rank_0() -> None:
    for x in (torch.ones(5, 4), torch.zeros(5, 4), torch.zeros(2, 4), torch.zeros(5, 0)):
        found = decompose(x)
        assert found.values.shape == (0,)
        assert found.left.shape == (len(x), 0)
        assert found.weights(torch.zeros(0, 3, dtype=torch.float64)).shape == (x.shape[1], 3)


@pytest.mark.parametrize("factor", [1e-25, 1e25, 1e200])
@pytest.mark.parametrize("width", [4, 40])
def test_the_unit_of_the_features_does_not_matter(factor: float, width: int) -> None:
    torch.manual_seed(2)
    x = torch.randn(15, width, dtype=torch.float64)
    torch.testing.assert_close(decompose(x * factor).values, decompose(x).values, rtol=1e-9, atol=1e-9)


def test_half_precision_is_worked_on_in_double() -> None:
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(3)).mul(1000).half()
    found, same = decompose(x), decompose(x.double())
    assert found.values.dtype == torch.float64
    torch.testing.assert_close(found.values, same.values, rtol=0, atol=0)


def test_the_features_given_are_left_alone() -> None:
    x = torch.randn(10, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    before = x.clone()
    decompose(x)
    assert torch.equal(x, before)


def test_what_cannot_be_decomposed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 3\); wanted \[N, D\] with two or more rows"):
        decompose(torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        decompose(torch.ones(4))
    for bad in (float("nan"), float("inf")):
        with pytest.raises(PluginContractError, match="not finite"):
            decompose(torch.tensor([[1.0], [bad]]))
