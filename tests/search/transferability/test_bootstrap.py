"""How surely a backbone is the best."""

from __future__ import annotations

import pytest
import torch

from autotransfer.search.transferability import chance_of_best


def test_chances_follow_the_paired_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    hard = 10 * torch.randn(400, dtype=torch.float64, generator=generator)
    noise = torch.randn(400, dtype=torch.float64, generator=generator)
    noise = (noise - noise.mean()) / noise.std(correction=0)
    # The second loses by 1 standard error of the paired mean difference; what is hard for both cancels.
    chances = chance_of_best(torch.stack([hard, hard + noise + 1 / 20]), draws=4000)
    assert float(chances[0]) == pytest.approx(0.841, abs=0.03)
    assert float(chances.sum()) == pytest.approx(1)


def test_a_clear_winner_takes_all_and_equals_share() -> None:
    losses = torch.rand(100, generator=torch.Generator().manual_seed(1))
    assert chance_of_best(torch.stack([losses + 1, losses])).tolist() == [0, 1]
    assert chance_of_best(torch.stack([losses, losses, losses + 1])).tolist() == [0.5, 0.5, 0]
    assert chance_of_best(torch.stack([losses])).tolist() == [1]


def test_the_seed_decides_and_draws_come_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = torch.randn(3, 50, generator=torch.Generator().manual_seed(2))
    one = chance_of_best(losses, seed=1)
    assert torch.equal(one, chance_of_best(losses, seed=1))
    assert not torch.equal(one, chance_of_best(losses, seed=2))
    monkeypatch.setattr("autotransfer.search.transferability.bootstrap._DRAWN", 170)
    torch.testing.assert_close(chance_of_best(losses, seed=1), one, rtol=0, atol=0.06)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"losses \(0, 5\) and 1000 draws"):
        chance_of_best(torch.zeros(0, 5))
    with pytest.raises(ValueError, match="0 draws"):
        chance_of_best(torch.zeros(2, 5), draws=0)
    with pytest.raises(ValueError, match="not finite"):
        chance_of_best(torch.tensor([[0.0, float("nan")]]))
