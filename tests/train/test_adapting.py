"""What a strategy may do to the backbone before training, and what core makes of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autotransfer.train.adapting import adapted


def run(toys: Any, strategy: Any, seed: int = 0, **values: Any) -> tuple[nn.Module, bool]:
    body = toys.made(toys.Conv)
    changed = adapted(body, strategy, values, toys.rows(6), declared=toys.Conv.STAGES, output="vector", seed=seed)
    return body, changed


@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_features_that_stay_as_they_are_are_told(toys: Any, gain: float) -> None:
    class Louder(toys.Toy):
        def adapt(self, backbone: nn.Module, values: Any, rows: Any) -> None:
            with torch.no_grad():
                backbone.last.weight.mul_(values["gain"])
                backbone.last.bias.mul_(values["gain"])

    body, changed = run(toys, Louder(), gain=gain)
    assert changed == (gain != 1.0)
    assert not body.training


def test_nothing_is_done_where_a_strategy_does_not_adapt(toys: Any) -> None:
    body, changed = run(toys, toys.Toy())
    assert not changed
    assert toys.changed(toys.tensors(toys.made(toys.Conv)), toys.tensors(body)) == set()


def test_the_owners_of_parameters_are_given_to_who_asks(toys: Any) -> None:
    class Asking(toys.Toy):
        def adapt(self, backbone: nn.Module, values: Any, rows: Any, owners: Any = None) -> None:
            self.owners, self.values = owners, values

    strategy = Asking()
    run(toys, strategy, freeze=2)
    assert strategy.values == {"freeze": 2}
    assert (strategy.owners["stem.weight"], strategy.owners["two.0.bias"], strategy.owners["last.weight"]) == (0, 1, 2)


def test_random_numbers_are_those_of_the_seed_and_leave_no_trace(toys: Any) -> None:
    class Drawing(toys.Toy):
        def adapt(self, backbone: nn.Module, values: Any, rows: Any) -> None:
            self.drawn = torch.rand(3).tolist()

    strategy, found, before = Drawing(), [], torch.get_rng_state()
    for seed in (1, 1, 2):
        run(toys, strategy, seed=seed)
        found.append(strategy.drawn)
    assert found[0] == found[1] != found[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_only_changed_features_cost_the_stored_ones(toys: Any) -> None:
    pooled = (torch.zeros(24, 8), torch.zeros(12, 8))
    trainer = toys.trainer([], pooled=pooled)
    assert trainer.pooled() is pooled
    trainer.job.network.adapted = True
    again = type(trainer)(trainer.job)
    assert again.pooled()[0].abs().sum() > 0
