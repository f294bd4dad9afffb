from __future__ import annotations

import pytest
import torch
from torch import nn

from autotransfer.errors import PluginContractError
from autotransfer.train.stages import MOST_TRACED, find_stages, stage_outputs

NETWORKS = ("Conv", "Residual", "Tokens", "Pairs", "Skip", "StemSkip", "Functional", "Shared")


def output_of(name):
    return "tokens" if name == "Tokens" else "vector"


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "traced"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_is_in_exactly_one_stage(toys, name, declared):
    module = toys.made(getattr(toys, name))
    given = getattr(module, "STAGES", ()) if declared else ()
    stages = find_stages(module, toys.rows(2).inputs, declared=given, output=output_of(name))
    names = {n for n, _ in module.named_parameters()} | {n for n, _ in module.named_buffers()}
    assert set(stages.owners) == names
    assert set(stages.owners.values()) <= set(range(len(stages)))
    assert {stages.owners[n] for n, _ in module.named_parameters()} == set(range(len(stages)))
    assert stages.paths == (tuple(given) or stages.paths)
    assert len(stages.widths) == len(stages.macs) == len(stages)
    assert list(stages.macs) == sorted(stages.macs)


def test_what_comes_before_the_first_stage_is_of_the_first_and_after_the_last_of_the_last(toys):
    conv = toys.stages_of(toys.made(toys.Conv))
    assert conv.owners["stem.weight"] == conv.owners["one.1.running_mean"] == 0
    assert conv.owners["two.0.weight"] == 1
    assert conv.owners["last.weight"] == conv.owners["last.running_var"] == 2
    assert conv.stem == ("stem",)
    tokens = toys.stages_of(toys.made(toys.Tokens), "tokens")
    assert {tokens.owners[n] for n in ("cls_token", "pos_embed", "patches.weight")} == {0}
    assert tokens.owners["norm.weight"] == 1
    assert tokens.ambiguous == {"cls_token", "pos_embed"}


def test_a_shared_module_belongs_to_the_first_stage_that_uses_it(toys):
    stages = toys.stages_of(toys.made(toys.Shared))
    assert stages.owners["one.1.weight"] == 0
    assert "two.1.weight" not in stages.owners
    assert stages.owners["two.0.weight"] == 1


def test_widths_are_pooled_features_after_each_stage(toys):
    assert toys.stages_of(toys.made(toys.Conv)).widths == (4, 6, 8)
    assert toys.stages_of(toys.made(toys.Pairs)).widths == (3, 3)


def test_multiply_accumulates_are_those_of_one_row(toys):
    stages = toys.stages_of(toys.made(toys.Conv))
    pixels = 8 * 8 * 9
    assert stages.macs == (pixels * (12 + 16), pixels * (12 + 16 + 24), pixels * (12 + 16 + 24 + 48))


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        (("one", "tow"), "'tow'; did you mean two"),
        (("one", "idle"), "exactly once.*idle"),
        (("one", "twice"), "exactly once.*twice"),
        (("two", "one"), "'one' is declared after 'two' but does not run after it"),
        (("one", "one.0"), "'one.0' is declared after 'one'"),
    ],
)
def test_declared_stages_must_exist_run_once_and_in_order(toys, declared, text):
    class Net(toys.Conv):
        def __init__(self):
            super().__init__()
            self.idle = nn.Linear(1, 1)
            self.twice = nn.ReLU()

        def forward(self, x):
            return super().forward(self.twice(self.twice(x)))

    with pytest.raises(PluginContractError, match=text):
        toys.stages_of(toys.made(Net), declared=declared)


def test_all_missing_stages_are_named_at_once(toys):
    with pytest.raises(PluginContractError, match="nine.*ten"):
        toys.stages_of(toys.made(toys.Conv), declared=("nine", "ten"))


def test_values_that_are_not_finite_and_a_wrong_rank_are_refused(toys):
    class Bad(toys.Conv):
        def forward(self, x):
            return super().forward(x) / 0 * 0

    with pytest.raises(PluginContractError, match="not finite"):
        toys.stages_of(toys.made(Bad))
    with pytest.raises(PluginContractError, match="no map.*output='vector' fits"):
        toys.stages_of(toys.made(toys.Conv), output="map")


def test_tracing_opens_sequences_joins_small_modules_and_stops_at_a_dozen(toys):
    deep = nn.Sequential(*(toys.block(3, 3) for _ in range(20)), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    stages = find_stages(deep, toys.rows(2).inputs)
    assert 4 <= len(stages) <= MOST_TRACED
    assert stages.paths[-1] == "21"
    flat = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()), nn.Flatten())
    assert find_stages(flat, toys.rows(2).inputs).paths == ("0.1", "1")


def test_a_module_that_runs_often_is_no_stage_and_hides_no_other(toys):
    shared = toys.made(toys.Shared)
    assert find_stages(shared, toys.rows(2).inputs).paths == ("one", "two", "three")


def test_a_network_without_submodules_is_one_stage(toys):
    stages = find_stages(toys.made(toys.Functional), toys.rows(2).inputs)
    assert (stages.paths, stages.widths, set(stages.owners.values())) == (("",), (5,), {0})


def test_a_module_without_parameters_has_no_stage():
    stages = find_stages(nn.Flatten(), torch.zeros(2, 3))
    assert (len(stages), stages.width) == (0, 3)


def test_finding_stages_changes_nothing_and_leaves_no_hook(toys):
    module = toys.made(toys.Conv)
    before = toys.tensors(module)
    toys.stages_of(module.train())
    assert not toys.changed(before, toys.tensors(module))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_stage_features_are_those_before_the_next_stage_changes_them_in_place(toys):
    module = toys.made(toys.Residual)
    inputs = toys.rows(2).inputs
    wanted = module.one(inputs.clone()).mean((2, 3))
    with torch.no_grad(), stage_outputs(module, ("one",)) as seen:
        module(inputs)
    torch.testing.assert_close(seen["one"], wanted, rtol=0, atol=1e-6)


def test_recurrent_layers_are_counted():
    class Last(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(6, 10, batch_first=True)

        def forward(self, x):
            return self.lstm(x.unflatten(1, (5, 6)))[0][:, -1]

    stages = find_stages(Last(), torch.randn(3, 30))
    assert stages.macs[-1] == 5 * 4 * 10 * (6 + 10)
