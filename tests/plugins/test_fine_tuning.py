"""Strategies that train, on tiny networks against their definitions: what moves, at which rates, with which loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autotransfer.plugin import BackboneSpec, Profile, Strategy, frozen_stages
from autotransfer.schema import Recipe
from autotransfer.train.schedule import Segment, rate
from autotransfer_strategies import autotransfer_strategies
from autotransfer_strategies.penalties import Distance, SmallestValues

STRATEGIES = {s.id.removeprefix("core/"): s for s in autotransfer_strategies()}
PROFILE = Profile(
    name="toy", modality="image", task="multiclass", metric="accuracy", rows=40, train=24, validation=12, test=4
)


def started(toys: Any, name: str, given: Any = None, cls: str = "Conv", **values: Any) -> Any:
    """Return a training of a core strategy on a tiny network, before its first step."""
    kind, output = getattr(toys, cls), "tokens" if cls == "Tokens" else "vector"
    spec = BackboneSpec(id="toy/net", factory="toy:net", stages=kind.STAGES, output=output)
    strategy: Strategy = given or STRATEGIES[name]
    values = {"epochs": 2, "lr": 0.02, "lr_ratio": 0.5, **values}
    if "freeze_fraction" in values:
        values["freeze"] = frozen_stages(values["freeze_fraction"], len(spec.stages))
    phases = strategy.phases(PROFILE, spec, values)
    return toys.trainer(
        phases, strategy=strategy, backbone=toys.made(kind), output=output, values=values, norm_statistics="frozen"
    )


def stages_moved(toys: Any, trainer: Any, until: int | None = None) -> set[int]:
    before, owners = toys.tensors(trainer.job.network.backbone), trainer.job.stages.owners
    trainer.run(until)
    return {owners[n] for n in toys.changed(before, toys.tensors(trainer.job.network.backbone))}


def test_lpft_trains_the_head_and_then_the_upper_stages(toys: Any) -> None:
    trainer = started(toys, "lpft", freeze_fraction=0.33)
    assert stages_moved(toys, trainer, until=2) == set()
    probed = toys.tensors(trainer.job.network.head)
    assert probed["linear.weight"].any()
    assert stages_moved(toys, trainer) == {1, 2}
    assert not torch.equal(probed["linear.weight"], trainer.job.network.head.linear.weight)


def test_gradual_opens_one_group_more_at_a_time(toys: Any) -> None:
    trainer = started(toys, "gradual", epochs=10)
    opened = [stages_moved(toys, trainer, until=epoch) for epoch in (1, 2, 3, 4)]
    assert opened == [set(), {2}, {1, 2}, {0, 1, 2}]


@pytest.mark.parametrize(("block", "stage"), [("first", 0), ("middle", 1)])
def test_surgical_trains_its_block_alone(toys: Any, block: str, stage: int) -> None:
    assert stages_moved(toys, started(toys, "surgical", block=block)) == {stage}


def test_norms_trains_gains_offsets_and_biases_alone(toys: Any) -> None:
    trainer = started(toys, "norms", cls="Tokens")
    before = toys.tensors(trainer.job.network.backbone)
    trainer.run()
    moved = toys.changed(before, toys.tensors(trainer.job.network.backbone))
    norms = {f"blocks.{i}.norm{j}.weight" for i in (0, 1) for j in (1, 2)} | {"norm.weight"}
    assert moved == norms | {n for n in before if n.endswith("bias")}


RATES = {
    "full": ({"layer_decay": 0.75}, {"one": 0.02 * 0.5 * 0.75**2, "two": 0.02 * 0.5 * 0.75, "three": 0.02 * 0.5}),
    "partial": ({"freeze_fraction": 0.67}, {"three": 0.02 * 0.5}),
    "lpft": ({"freeze_fraction": 0.33}, {"two": 0.01, "three": 0.01}),
    "gradual": ({}, {"one": 0.01 / 2.6**2, "two": 0.01 / 2.6, "three": 0.01}),
    "surgical": ({"block": "middle"}, {"two": 0.01}),
    "norms": ({}, {"one": 0.01, "two": 0.01, "three": 0.01}),
    "l2sp": ({}, {"one": 0.01, "two": 0.01, "three": 0.01}),
    "bss": ({}, {"one": 0.01, "two": 0.01, "three": 0.01}),
    "averaged": ({}, {"one": 0.01, "two": 0.01, "three": 0.01}),
}


@pytest.mark.parametrize("name", RATES)
def test_rates_by_stage_and_step(toys: Any, name: str) -> None:
    values, wanted = RATES[name]
    trainer = started(toys, name, **values)
    trainer.enter(len(trainer.job.phases) - 1)
    found: dict[str, set[float]] = {}
    for group in trainer.optimizer.param_groups:
        for parameter in group["names"]:
            found.setdefault(parameter.removeprefix("backbone.").split(".")[0], set()).add(round(group["peak"], 12))
    assert {s: found[s] for s in ("one", "two", "three") if s in found} == {
        s: {round(lr, 12)} for s, lr in wanted.items()
    }
    assert found["head"] == {0.02}
    trainer.run(1)
    last = trainer.job.phases[trainer.phase]
    assert all(g["lr"] <= g["peak"] for g in trainer.optimizer.param_groups)
    if trainer.phase == 0:  # one phase: its first epoch is four steps of the cosine over both
        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.02 * rate(3, Segment(0, 0, 4), 0.0))
        assert last.epochs == 2


# Loss terms.


class Pair(nn.Module):
    """Two weights, one of them frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.moves = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.rests = nn.Parameter(torch.tensor([5.0]), requires_grad=False)


def test_l2sp_against_a_value_by_hand() -> None:
    body, head = Pair(), nn.Linear(2, 1)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[3.0, -1.0]]))
        head.bias.fill_(2.0)
    initial = {"moves": torch.tensor([0.0, 4.0]), "rests": torch.tensor([0.0])}
    term = Distance(body, head, initial)
    value = term(None)  # type: ignore[arg-type]
    # alpha / 2 ((1 - 0)^2 + (2 - 4)^2) + beta / 2 (3^2 + 1^2 + 2^2)
    assert value.item() == pytest.approx(0.005 * 5 + 0.005 * 14)
    value.backward()
    torch.testing.assert_close(body.moves.grad, 0.01 * torch.tensor([1.0, -2.0]))
    assert body.rests.grad is None
    torch.testing.assert_close(head.weight.grad, 0.01 * torch.tensor([[3.0, -1.0]]))
    assert list(term.parameters()) == []


def test_l2sp_keeps_weights_nearer_to_their_start(toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def moved(weight: float) -> float:
        monkeypatch.setattr("autotransfer_strategies.penalties.DISTANCE", weight)
        trainer = started(toys, "l2sp", epochs=6)
        start = toys.tensors(trainer.job.network.backbone)
        trainer.run()
        now = trainer.job.network.backbone.named_parameters()
        return sum(float((p.detach() - start[n]).square().sum()) for n, p in now)

    assert moved(3.0) < 0.5 * moved(0.0)


def test_bss_against_a_value_by_hand() -> None:
    features = torch.diag(torch.tensor([3.0, 2.0, 0.5])).requires_grad_()

    class Seen:
        stage_features = (torch.zeros(3, 9), features)

    value = SmallestValues()(Seen())  # type: ignore[arg-type]
    assert value.item() == pytest.approx(1e-3 * 0.25)
    value.backward()
    assert features.grad is not None
    torch.testing.assert_close(features.grad, torch.diag(torch.tensor([0.0, 0.0, 2e-3 * 0.5])))


def test_bss_is_part_of_the_loss_that_is_trained(toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def smallest(weight: float) -> float:
        monkeypatch.setattr("autotransfer_strategies.penalties.SHRINKAGE", weight)
        trainer = started(toys, "bss", epochs=6)
        trainer.run()
        with torch.no_grad():
            features: Tensor = trainer.job.network.backbone(trainer.job.train.inputs[:6])
        return float(torch.linalg.svdvals(features)[-1])

    assert smallest(3.0) < 0.5 * smallest(0.0)


# Averages.


def test_the_moving_average_is_what_is_judged(toys: Any) -> None:
    trainer = started(toys, "averaged", epochs=1)
    trainer.enter(0)
    weight = trainer.job.network.backbone.two[0].weight
    mean, steps = weight.detach().clone(), []
    step = trainer._one_step

    def watched(segment: Any) -> None:
        step(segment)
        share = min(0.999, (1 + trainer.step) / (10 + trainer.step))
        mean.copy_(share * mean + (1 - share) * weight.detach())
        steps.append(share)

    trainer._one_step = watched
    trainer.run()
    assert steps == pytest.approx([1 / 10, 2 / 11, 3 / 12, 4 / 13])
    torch.testing.assert_close(trainer.best_state["backbone.two.0.weight"], mean)
    assert not torch.allclose(mean, weight.detach())


class Line(nn.Module):
    """One weight, judged by how near to a place it is."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([at]))
        self.register_buffer("count", torch.tensor(3))


class Judged:
    """A context whose objective is best at one place; at 3 digits, as scores of few rows are."""

    def __init__(self, best: float, snapshots: list[float] | None = None) -> None:
        self.module = Line(1.0)
        self.initial = {"weight": torch.tensor([0.0]), "count": torch.tensor(0)}
        self.snapshots = [{"weight": torch.tensor([s])} for s in snapshots or []]
        self.best = best
        self.asked: list[float] = []

    def evaluate(self) -> float:
        place = self.module.weight.item()
        self.asked.append(round(place, 4))
        return round(-abs(place - self.best), 3)


@pytest.mark.parametrize(("best", "share"), [(1.2, 1.0), (0.72, 0.7), (0.45, 0.5), (0.0, 0.3), (0.85, 1.0)])
def test_interpolation_stops_at_the_best_place(best: float, share: float) -> None:
    from autotransfer_strategies.averaging import interpolate

    context: Any = Judged(best)
    interpolate(context)
    assert context.module.weight.item() == pytest.approx(share)
    assert sorted(context.asked) == pytest.approx([0.3, 0.5, 0.7, 1.0])
    assert context.module.count.item() == 3  # whole numbers are not averaged


@pytest.mark.parametrize(
    ("best", "snapshots", "place"),
    [(0.5, [0.0, 1.0], 0.5), (1.0, [0.0, 1.0], 1.0), (0.6, [-3.0, 0.2, 1.0], 0.6), (0.4, [0.0, 0.2, 1.0], 0.4)],
)
def test_a_soup_takes_what_makes_it_no_worse(best: float, snapshots: list[float], place: float) -> None:
    from autotransfer_strategies.averaging import soup

    context: Any = Judged(best, snapshots)
    soup(context)
    assert context.module.weight.item() == pytest.approx(place)


TOUCHED = {
    "full": {"layer_decay": 0.75},
    "partial": {"freeze_fraction": 0.33},
    "lpft": {"freeze_fraction": 0.33},
    "gradual": {},
    "averaged": {},
}


@pytest.mark.parametrize("name", TOUCHED)
def test_the_last_touch_never_lowers_the_score(toys: Any, name: str) -> None:
    values = TOUCHED[name]
    trainer = started(toys, name, epochs=6, **values)
    trainer.run()
    after = trainer.finish()
    assert after >= trainer.best[1]
    assert trainer.objective() == after
    assert not any("undone" in n for n in trainer.notes)


def test_recipes_of_all_strategies_survive_json() -> None:
    from autotransfer.codec import from_json, to_json

    for strategy in STRATEGIES.values():
        recipe = Recipe(backbone="toy/net", strategy=strategy.id, values={"block": "first", "lr": 1e-3})
        assert from_json(Recipe, to_json(recipe)) == recipe
