from __future__ import annotations

import pytest
import torch
from torch import nn

from autotransfer.train.cuts import check_cuts, run_from
from autotransfer.train.stages import find_stages

EXACT = ("Conv", "Residual", "Tokens", "Pairs", "Shared")


def output_of(name):
    return "tokens" if name == "Tokens" else "vector"


@pytest.mark.parametrize("name", EXACT)
def test_prefix_and_suffix_give_the_whole_on_other_rows_too(toys, name):
    module = toys.made(getattr(toys, name))
    stages = toys.stages_of(module, output_of(name))
    cuts = check_cuts(module, stages, toys.rows(2).inputs)
    assert [(c.after, c.ok, c.reason) for c in cuts] == [(i + 1, True, "") for i in range(len(stages))]
    other = toys.rows(5, seed=3).inputs
    traced = find_stages(module, other, declared=stages.paths, output=output_of(name))
    with torch.no_grad():
        whole = module(other)
        for cut in cuts[:-1]:
            activation = traced.activations[cut.after - 1]
            for _ in range(2):  # the suffix must not spoil what is stored
                with run_from(module, stages, cut, activation, 5) as suffix:
                    assert torch.equal(suffix(torch.full_like(other, float("nan"))), whole) == cut.stem
                    torch.testing.assert_close(suffix(other), whole, rtol=1e-5, atol=1e-5)


def test_a_skip_connection_over_a_cut_drops_it_with_the_reason(toys):
    module = toys.made(toys.Skip)
    cuts = check_cuts(module, toys.stages_of(module), toys.rows(2).inputs)
    assert [c.ok for c in cuts] == [True, False, True]
    assert "differs from the whole" in cuts[1].reason


@pytest.mark.parametrize("twins", [False, True], ids=["two rows", "twice the same row"])
def test_a_stem_that_is_used_later_runs_again(toys, twins):
    module = toys.made(toys.StemSkip)
    inputs = toys.rows(1).inputs.repeat(2, 1, 1, 1) if twins else toys.rows(2).inputs
    stages = find_stages(module, inputs, declared=module.STAGES)
    cuts = check_cuts(module, stages, inputs)
    assert [(c.ok, c.stem) for c in cuts] == [(True, False), (True, True)]


def test_a_network_that_cannot_run_from_a_cut_says_why(toys):
    class Shapes(nn.Module):
        STAGES = ("one", "two")

        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)

        def forward(self, x):
            first = self.one(x)
            if type(self.one) is not nn.Conv2d:
                raise ValueError("who is this?")
            return self.two(first).mean((2, 3))

    module = toys.made(Shapes)
    cuts = check_cuts(module, toys.stages_of(module), toys.rows(2).inputs)
    assert not cuts[0].ok
    assert "ValueError: who is this?" in cuts[0].reason


def test_a_parameter_counted_to_a_later_stage_that_acts_before_the_cut_drops_it(toys):
    class Early(nn.Module):
        STAGES = ("one", "two")

        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 4, 1)
            self.extra = nn.ParameterDict({"scale": nn.Parameter(torch.ones(3, 1, 1) * 2)})

        def forward(self, x):
            return self.two(self.one(x * self.extra["scale"])).mean((2, 3))

    module = toys.made(Early)
    stages = toys.stages_of(module)
    assert stages.owners["extra.scale"] == 1
    cut = check_cuts(module, stages, toys.rows(2).inputs)[0]
    assert not cut.ok
    assert "extra.scale" in cut.reason


def test_stubs_forward_attributes_and_are_taken_away_even_after_an_error(toys):
    class Reads(toys.Conv):
        def __init__(self):
            super().__init__()
            self.one.gain = 3.0

        def forward(self, x):
            return super().forward(x) * self.one.gain

    module = toys.made(Reads)
    stages = toys.stages_of(module)
    originals = dict(module.named_modules())
    assert all(c.ok for c in check_cuts(module, stages, toys.rows(2).inputs))
    cut = check_cuts(module, stages, toys.rows(2).inputs)[1]
    with pytest.raises(RuntimeError, match="stop"), run_from(module, stages, cut, stages.activations[1], 2):
        raise RuntimeError("stop")
    assert dict(module.named_modules()) == originals


def test_gradients_of_the_suffix_are_those_of_the_whole(toys):
    module = toys.made(toys.Conv)
    inputs = toys.rows(2).inputs
    stages = toys.stages_of(module)
    cut = check_cuts(module, stages, inputs)[1]
    wanted = torch.autograd.grad(module(inputs).square().sum(), list(module.three.parameters()))
    with run_from(module, stages, cut, stages.activations[1], 2) as suffix:
        got = torch.autograd.grad(suffix(inputs).square().sum(), list(module.three.parameters()))
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(wanted, got, strict=True))
