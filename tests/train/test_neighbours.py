"""Heads that remember rows: what they answer, what they refuse, checkpoints."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autotransfer.errors import PluginContractError
from autotransfer.schema import Phase
from autotransfer.strategy import HeadState, NeighbourState
from autotransfer.train import checkpoint
from autotransfer.train.balance import evened
from autotransfer.train.heads import LinearHead
from autotransfer.train.neighbours import NeighbourHead, with_state, with_tensors

KEYS = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
STATE = NeighbourState(
    keys=KEYS + 5.0,
    values=torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]),
    mean=torch.full((2,), 5.0),
    scale=torch.tensor([1.0, 0.5]),
    neighbours=2,
    temperature=0.5,
    link="softmax",
)


def made(**changes: Any) -> NeighbourHead:
    head = with_state(LinearHead("vector", 2, 2), replace(STATE, **changes))
    assert isinstance(head, NeighbourHead)
    return head


def test_the_answer_is_the_mean_of_the_nearest_weighted_by_their_cosine() -> None:
    query = torch.tensor([[3.0, 8.0]]) + 5.0  # (3, 4) once it is scaled: cosines .6, .8 and -.6
    far, near = math.exp(0.6 / 0.5), math.exp(0.8 / 0.5)
    wanted = [(far * a + near * b) / (far + near) for a, b in ((0.9, 0.2), (0.1, 0.8))]
    torch.testing.assert_close(made()(query), torch.tensor([wanted]).log())
    torch.testing.assert_close(made(link="sigmoid")(query), torch.tensor([wanted]).logit())
    torch.testing.assert_close(made(link="identity")(query), torch.tensor([wanted]))
    torch.testing.assert_close(made(link="identity", neighbours=1)(query), torch.tensor([[0.2, 0.8]]))


def test_what_no_neighbour_is_has_a_finite_logit() -> None:
    certain = made(values=torch.tensor([[1.0, 0.0]] * 3))
    assert certain(torch.zeros(1, 2)).isfinite().all()
    assert made(values=torch.tensor([[1.0, 0.0]] * 3), link="sigmoid")(torch.zeros(1, 2)).isfinite().all()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"keys": torch.zeros(3, 4)}, r"has the shapes .*'keys': \(3, 4\)"),
        ({"values": torch.zeros(3, 5)}, r"wanted .*'values': \(3, 2\)"),
        ({"mean": torch.zeros(1)}, "shapes"),
        ({"values": torch.full((3, 2), torch.nan)}, "not finite"),
        ({"neighbours": 4}, "1 to 3 neighbours"),
        ({"neighbours": 0}, "1 to 3 neighbours"),
        ({"temperature": 0.0}, "temperature above 0"),
        ({"link": "log"}, "link of softmax, sigmoid, identity; got 2, 0.5 and 'log'"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(PluginContractError, match=text):
        made(**changes)


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(PluginContractError, match="gave dict; wanted a HeadState"):
        with_state(LinearHead("vector", 2, 2), {})  # type: ignore[arg-type]


def test_its_tensors_are_the_whole_head() -> None:
    first, names = made(), {f"head.{n}": t for n, t in made().state_dict().items()}
    again = with_tensors(LinearHead("vector", 2, 2), names)
    again.load_state_dict(first.state_dict())
    query = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(query), first(query))
    linear = LinearHead("vector", 2, 2)
    assert with_tensors(linear, {"head.linear.weight": linear.linear.weight}) is linear


def test_a_strategy_gives_one_and_its_checkpoint_keeps_it(toys: Any, tmp_path: Path) -> None:
    class Memory(toys.Toy):
        def head(self, features: Tensor, targets: Tensor) -> NeighbourState:
            shares = torch.nn.functional.one_hot(targets, 3).float()
            unit = {"mean": torch.zeros(8), "scale": torch.ones(8)}
            return NeighbourState(keys=features, values=shares, neighbours=1, temperature=0.1, link="softmax", **unit)

    rows = toys.rows(24)
    trainer = toys.trainer([], strategy=Memory(), train=rows, validation=rows)
    assert trainer.run()
    assert trainer.best[1] == 1.0  # each row's nearest is itself
    assert set(trainer.best_state) == {f"head.{n}" for n in trainer.job.network.head.state_dict()}
    checkpoint.save(trainer, tmp_path / "c", lean=True)
    best = checkpoint.best_tensors(tmp_path / "c")
    network = toys.trainer([]).job.network
    network.head = with_tensors(network.head, best)
    network.load_state_dict({**network.state_dict(), **best})
    torch.testing.assert_close(network.eval()(rows.inputs), trainer.outputs())
    with pytest.raises(PluginContractError, match="which no phase can train further"):
        toys.trainer([Phase(epochs=1)], strategy=Memory())


def test_a_linear_state_stays_linear() -> None:
    head = LinearHead("vector", 2, 2)
    assert with_state(head, HeadState(weight=torch.eye(2), bias=torch.zeros(2))) is head
    torch.testing.assert_close(head(torch.tensor([[3.0, 4.0]])), torch.tensor([[3.0, 4.0]]))


def test_balanced_neighbours_answer_with_their_shares_over_the_priors() -> None:
    targets = torch.tensor([0, 0, 0, 1])
    mass = STATE.values.sum(0)  # rows of each class that it remembers
    query = torch.tensor([[3.0, 8.0]]) + 5.0
    plain, even = made()(query), with_state(LinearHead("vector", 2, 2), evened(STATE, targets, "logits"))(query)
    gained = even - plain
    assert float(gained[0, 1] - gained[0, 0]) == pytest.approx(math.log(float(mass[0] / mass[1])))
    assert evened(replace(STATE, link="identity"), targets, "logits").values is STATE.values


def test_a_shift_of_the_outputs_is_part_of_the_head() -> None:
    query, head = torch.tensor([[3.0, 8.0]]) + 5.0, made()
    before = head(query)
    with torch.no_grad():
        head.offset.add_(torch.tensor([0.0, 2.0]))
    torch.testing.assert_close(head(query), before + torch.tensor([[0.0, 2.0]]))
    again = with_tensors(LinearHead("vector", 2, 2), {"head.keys": head.keys})
    again.load_state_dict(head.state_dict())
    torch.testing.assert_close(again(query), head(query))


def test_prototypes_have_no_priors_to_take_away() -> None:
    targets = torch.tensor([0, 0, 0, 1])
    prototypes = replace(STATE, keys=STATE.keys[:2], values=torch.eye(2), neighbours=2)
    assert torch.equal(evened(prototypes, targets, "logits").values, torch.eye(2))
    lacking = replace(prototypes, values=torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    assert evened(lacking, targets, "logits").values[:, 2].tolist() == [0.0, 0.0]
