"""How samples differ, on known shifts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autotransfer.search.transferability.domains import effective, importance, mmd, shares, two_sample


def sample(count: int, seed: int, shift: float = 0.0, width: int = 6) -> Tensor:
    found = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    found[:, 0] += shift
    return found


def test_samples_of_one_distribution_are_not_told_apart() -> None:
    tests = [two_sample(sample(300, s), sample(300, s + 100), seed=s) for s in range(10)]
    assert sum(t.accuracy for t in tests) / 10 == pytest.approx(0.5, abs=0.03)
    assert sum(t.auc for t in tests) / 10 == pytest.approx(0.5, abs=0.03)
    assert sum(t.p_value < 0.05 for t in tests) <= 2
    assert all(t.low <= t.accuracy <= t.high for t in tests)


def test_a_shift_of_two_spreads_is_told_as_well_as_it_can_be() -> None:
    test = two_sample(sample(1000, 0), sample(1000, 1, shift=2.0))
    assert test.accuracy == pytest.approx(0.841, abs=0.04)  # that of the best boundary, half way: Phi(1)
    assert test.p_value < 1e-9
    mixed = torch.cat([sample(400, 2), sample(400, 3, shift=2.0)])
    assert test.share(mixed) == pytest.approx(0.5, abs=0.08)
    assert test.share(sample(400, 4)) < 0.1


def test_a_shift_that_no_line_tells_is_seen_by_the_kernel() -> None:
    here, there = sample(400, 0), sample(400, 1) * 1.6
    assert mmd(here, there)[1] == pytest.approx(0.001)
    assert two_sample(here, there).accuracy < 0.6


def test_mmd_is_about_nothing_where_nothing_differs_and_the_same_for_a_seed() -> None:
    found = [mmd(sample(200, s), sample(200, s + 50), seed=s) for s in range(10)]
    assert abs(sum(f[0] for f in found) / 10) < 0.003
    assert sum(f[1] < 0.05 for f in found) <= 2
    assert mmd(sample(200, 0), sample(200, 50), seed=3) == mmd(sample(200, 0), sample(200, 50), seed=3)


def test_mmd_against_its_definition() -> None:
    first, second = sample(7, 0, width=2), sample(7, 1, shift=1.0, width=2)
    both = torch.cat([first, second]).double()
    both = (both - both.mean(0)) / both.std(0, correction=0)
    pairs = [(i, j) for i in range(14) for j in range(14) if i != j]
    width = torch.stack([(both[i] - both[j]).norm() for i, j in pairs]).median()

    def k(i: int, j: int) -> float:
        return float(torch.exp(-(both[i] - both[j]).square().sum() / (2 * width**2)))

    within = sum(k(i, j) for i, j in pairs if (i < 7) == (j < 7)) / 42
    across = sum(k(i, j) for i in range(7) for j in range(7, 14)) / 49
    assert mmd(first, second)[0] == pytest.approx(within - 2 * across, abs=1e-9)


def test_groups_stay_in_one_half() -> None:
    groups = torch.arange(60) // 10
    here = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))[groups] * 5 + sample(60, 1, width=5) * 0.01
    alone, held = (two_sample(here, sample(60, 2, width=5), groups=g) for g in (None, groups))
    assert 0.0 <= held.accuracy <= 1.0
    assert alone.accuracy >= held.accuracy - 0.2


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="there are 7 and 20 rows; wanted 8"):
        two_sample(sample(7, 0), sample(20, 1))


def test_importance_weights_are_the_ratio_of_the_densities() -> None:
    odds = torch.log(torch.tensor([1.0, 3.0, 4.0]))
    torch.testing.assert_close(importance(odds), torch.tensor([3, 9, 12]).double() / 8)
    assert effective(torch.ones(5)) == pytest.approx(5)
    assert effective(torch.tensor([1.0, 0.0, 0.0, 0.0])) == pytest.approx(1)


@pytest.mark.parametrize("wanted", [(0.5, 0.5), (0.9, 0.1), (0.2, 0.8)])
def test_shares_of_classes_are_recovered_where_nothing_else_differs(wanted: tuple[float, float]) -> None:
    # Two classes at -1 and 1 with unit spread: the chances of the second, trained at 1 : 1, are sigmoid(2 x).
    second = round(4000 * wanted[1])
    x = torch.randn(4000, generator=torch.Generator().manual_seed(0)) - 1
    x[:second] += 2
    chances = torch.sigmoid(2 * x)
    found = shares(torch.stack([1 - chances, chances], 1), torch.tensor([10.0, 10.0]))
    assert found.tolist() == pytest.approx(wanted, abs=0.03)


def test_the_share_of_the_training_rows_is_taken_out_of_the_chances() -> None:
    x = torch.randn(4000, generator=torch.Generator().manual_seed(0)) - 1
    x[:2000] += 2
    chances = torch.sigmoid(2 * x + torch.log(torch.tensor(3.0)))  # trained where the second is three times as frequent
    found = shares(torch.stack([1 - chances, chances], 1), torch.tensor([1.0, 3.0]))
    assert found.tolist() == pytest.approx([0.5, 0.5], abs=0.03)
