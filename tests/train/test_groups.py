from __future__ import annotations

import pytest
import torch
from torch import nn

from autotransfer.errors import PluginContractError
from autotransfer.schema import Phase, Training
from autotransfer.train import groups
from autotransfer.train.network import TransferNetwork


def parts(toys, phase, training=None, cls="Conv", output="vector"):
    module = toys.made(getattr(toys, cls))
    stages = toys.stages_of(module, output)
    network = TransferNetwork(module, toys.TASK.head(output, stages.width))
    selection = groups.select(module, stages, phase)
    groups.apply(network, stages, selection)
    return (
        network,
        stages,
        selection,
        groups.parameter_groups(network, stages, selection, phase, training or Training()),
    )


def rates(found):
    return {name: group["lr"] for group in found for name in group["names"]}


def test_every_trained_parameter_is_in_exactly_one_group(toys):
    network, _, _, found = parts(toys, Phase(epochs=1, layer_decay=0.5))
    names = [n for g in found for n in g["names"]]
    assert sorted(names) == sorted(n for n, _ in network.named_parameters())
    by_name = dict(network.named_parameters())
    assert all(by_name[n] is p for g in found for n, p in zip(g["names"], g["params"], strict=True))


def test_rates_are_lr_times_ratio_times_decay_to_the_depth(toys):
    got = rates(parts(toys, Phase(epochs=1, lr=0.1, lr_ratio=0.5, layer_decay=0.1))[3])
    wanted = {"head.linear.weight": 0.1, "backbone.stem.weight": 0.1 * 0.5 * 0.01, "backbone.one.0.weight": 0.0005}
    wanted |= {"backbone.two.0.weight": 0.005, "backbone.three.0.weight": 0.05, "backbone.last.weight": 0.05}
    assert {n: got[n] for n in wanted} == pytest.approx(wanted, rel=1e-12)


def test_stage_lrs_take_the_place_of_ratio_and_decay(toys):
    phase = Phase(epochs=1, lr=0.1, lr_ratio=0.5, layer_decay=0.1, stage_lrs={"0": 7e-5, "2": 3e-4})
    got = rates(parts(toys, phase)[3])
    assert got["backbone.stem.weight"] == got["backbone.one.1.bias"] == 7e-5
    assert got["backbone.two.0.weight"] == pytest.approx(0.005)
    assert got["backbone.last.bias"] == 3e-4
    assert got["head.linear.bias"] == 0.1


@pytest.mark.parametrize(("cls", "output"), [("Conv", "vector"), ("Tokens", "tokens")])
def test_only_matrices_decay(toys, cls, output):
    found = parts(toys, Phase(epochs=1), Training(weight_decay=0.3), cls, output)[3]
    for group in found:
        assert {p.dim() > 1 for p in group["params"]} == {group["weight_decay"] == 0.3}
        assert group["weight_decay"] in (0.0, 0.3)
    assert {g["weight_decay"] for g in found} == {0.0, 0.3}


@pytest.mark.parametrize("freeze", [0, 1, 2, 3])
def test_freeze_trains_all_but_the_first_k_stages(toys, freeze):
    network, stages, selection, _ = parts(toys, Phase(epochs=1, freeze=freeze))
    trained = {n for n, p in network.backbone.named_parameters() if p.requires_grad}
    assert trained == set(selection.names) == {n for n in trained if stages.owners[n] >= freeze}
    assert selection.stages == set(range(freeze, 3))
    assert selection.prefix == (freeze if freeze < 3 else None)
    assert all(p.requires_grad for p in network.head.parameters())


def test_a_set_of_stages_and_a_pattern_choose_parameters(toys):
    _, _, some, _ = parts(toys, Phase(epochs=1, stages=(1,)))
    assert some.stages == {1}
    assert all(n.startswith("two.") for n in some.names)
    _, _, found, _ = parts(toys, Phase(epochs=1, parameters=r"^three\.0\."))
    assert found.names == {"three.0.weight", "three.0.bias"}
    assert found.stages == {2}


def test_a_pattern_finds_within_the_stages_that_are_trained(toys):
    _, _, upper, _ = parts(toys, Phase(epochs=1, freeze=2, parameters="bias$"))
    assert upper.names == {"three.0.bias", "three.1.bias", "last.bias"}
    assert upper.prefix == 2
    _, _, middle, _ = parts(toys, Phase(epochs=1, stages=(1,), parameters="norms_and_biases"))
    assert middle.names == {"two.0.bias", "two.1.weight", "two.1.bias"}
    _, _, none, _ = parts(toys, Phase(epochs=1, freeze=3, parameters="bias$"))
    assert none.names == frozenset()
    with pytest.raises(PluginContractError, match="no backbone parameter is found by 'stem'"):
        parts(toys, Phase(epochs=1, freeze=1, parameters="stem"))


def test_norms_and_biases(toys):
    _, _, selection, _ = parts(toys, Phase(epochs=1, parameters="norms_and_biases"))
    norms = {f"{s}.1.weight" for s in ("one", "two", "three")} | {"last.weight"}
    assert selection.names == norms | {n for n in selection.names if n.endswith("bias")}
    assert not any(n.endswith("0.weight") or n == "stem.weight" for n in selection.names)
    assert {"stem.bias", "one.0.bias", "last.bias"} <= selection.names


@pytest.mark.parametrize(
    ("phase", "text"),
    [
        (Phase(epochs=1, freeze=4), "freezes 4 stages; the backbone has 3"),
        (Phase(epochs=1, freeze=-1), "freezes -1"),
        (Phase(epochs=1, stages=(0, 3)), r"trains stages \[3\]"),
        (Phase(epochs=1, parameters="nothing_like_it"), "no backbone parameter is found"),
    ],
)
def test_phases_that_do_not_fit_the_backbone(toys, phase, text):
    with pytest.raises(PluginContractError, match=text):
        parts(toys, phase)


def test_more_than_one_choice_of_what_is_trained_is_refused():
    with pytest.raises(PluginContractError, match="freeze and stages"):
        Phase(epochs=1, freeze=1, stages=(1,))


@pytest.mark.parametrize("freeze", [0, 1, 2, 3])
@pytest.mark.parametrize("statistics", [True, False])
def test_frozen_modules_are_in_eval_mode_and_trained_ones_in_train_mode(toys, freeze, statistics):
    network, stages, selection, _ = parts(toys, Phase(epochs=1, freeze=freeze))
    network.train()
    groups.set_modes(network, stages, selection, batch_statistics=statistics)
    of_stage = {"stem": 0, "one": 0, "two": 1, "three": 2, "last": 2}
    for path, module in network.backbone.named_modules():
        if not path:
            continue
        trained = of_stage[path.split(".")[0]] >= freeze
        norm = isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))
        assert module.training == (trained and (statistics or not norm)), path
    assert network.head.training
    assert network.backbone.training == (freeze == 0)  # what it does itself may come before a frozen stage


def test_a_module_that_a_frozen_and_a_trained_stage_share_stays_frozen(toys):
    network, stages, selection, _ = parts(toys, Phase(epochs=1, freeze=1), cls="Shared")
    groups.set_modes(network, stages, selection, batch_statistics=True)
    assert "one.1.weight" not in selection.names
    assert not network.backbone.one[1].training
    assert network.backbone.two[0].training
    assert not network.backbone.one[1].weight.requires_grad


def test_whole_numbers_among_the_parameters_are_left_alone(toys):
    class Counted(toys.Conv):
        def __init__(self):
            super().__init__()
            self.count = nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False)

    toys.Counted = Counted
    network, _, selection, found = parts(toys, Phase(epochs=1), cls="Counted")
    assert "count" not in selection.names
    assert not network.backbone.count.requires_grad
    assert "backbone.count" not in rates(found)


class _Outside(nn.Module):
    """Drops out in its own forward, before its first stage, as encoders of BART's kind do."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = nn.functional.dropout(x.flatten(1)[:, :4], 0.5, training=self.training)
        return self.two(self.one(x))


def test_what_lies_in_no_stage_does_not_disturb_a_frozen_one(toys):
    module = toys.made(_Outside)
    stages = toys.stages_of(module, declared=["one", "two"])
    network = TransferNetwork(module, toys.TASK.head("vector", stages.width))
    x = torch.randn(5, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    for freeze, same in ((1, True), (0, False)):
        selection = groups.select(module, stages, Phase(epochs=1, freeze=freeze))
        groups.set_modes(network, stages, selection, batch_statistics=True)
        seen = []
        handle = module.one.register_forward_hook(lambda *given, seen=seen: seen.append(given[2].detach()))
        for seed in (0, 1):
            torch.manual_seed(seed)
            module(x)
        handle.remove()
        assert torch.equal(*seen) == same


def test_a_kernel_that_is_named_like_a_norm_is_none(toys):
    module = nn.Module()
    module.downsample = nn.Sequential(nn.LayerNorm(4), nn.Conv2d(4, 4, 2))
    names = [n for n, _ in module.named_parameters()]
    assert groups._matching(module, names, "norms_and_biases") == [
        "downsample.0.weight",
        "downsample.0.bias",
        "downsample.1.bias",
    ]
