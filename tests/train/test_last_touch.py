"""A strategy's last touch: what it is given, what is read again, when it is undone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from autotransfer.schema import Phase
from autotransfer.store import Store
from autotransfer.strategy import FinishContext
from autotransfer.train import checkpoint, prefixes
from autotransfer.train.prefixes import Prefixes

TWO = [Phase(epochs=2, lr=0.05, freeze=3), Phase(epochs=2, lr=0.02, lr_ratio=0.5, freeze=2)]


def touched(toys: Any, finish: Any, phases: Any = TWO, kept: int = 8, **more: Any) -> Any:
    class Touch(toys.Toy):
        snapshots = kept

        def finish(self, context: FinishContext) -> None:
            finish(context)

    return toys.trainer(phases, strategy=Touch(), **more)


def test_the_first_weights_are_those_before_the_backbone_was_trained(toys: Any, tmp_path: Path) -> None:
    given: dict[str, Any] = {}

    def look(context: FinishContext) -> None:
        given.update(context.initial)

    live, stored = touched(toys, look), touched(toys, look)
    live.run(2)
    probed = {n: t.clone() for n, t in live.job.network.head.state_dict().items()}
    live.run()
    live.finish()
    body = toys.made(toys.Conv).state_dict()
    owners = live.job.stages.owners
    assert {n for n in given if n.startswith("backbone.")} == {f"backbone.{n}" for n in body if owners[n] == 2}
    assert all(torch.equal(given[f"backbone.{n}"], body[n]) for n in body if owners[n] == 2)
    assert all(torch.equal(given[f"head.{n}"], t) for n, t in probed.items())
    assert probed["linear.weight"].any()

    stored.run(3)
    checkpoint.save(stored, tmp_path / "c")
    again = touched(toys, look)
    checkpoint.load(again, tmp_path / "c")
    again.run()
    given.clear()
    again.finish()
    assert torch.equal(given["head.linear.weight"], probed["linear.weight"])


@pytest.mark.parametrize("kept", [0, 2])
def test_no_more_snapshots_are_kept_than_the_strategy_asks_for(toys: Any, kept: int) -> None:
    found: list[Any] = []
    trainer = touched(toys, lambda c: found.extend(c.snapshots), [Phase(epochs=12, lr=0.005)], kept=kept)
    trainer.run()
    improved = [p for i, p in enumerate(trainer.curve) if all(p.objective > o.objective for o in trainer.curve[:i])]
    assert len(improved) > 2
    trainer.finish()
    assert len(found) == kept
    if kept:
        assert all(torch.equal(found[-1][n], t) for n, t in trainer.best_state.items())


def test_what_is_as_it_was_is_not_evaluated_again(toys: Any) -> None:
    held = toys.rows(12, seed=1)
    seen: list[float] = []
    trainer = touched(toys, lambda c: seen.append(c.evaluate()), [Phase(epochs=2, lr=0.02)], validation=held)
    trainer.run()
    before = len(held.asked)
    assert trainer.finish() == seen[0] == trainer.best[1]
    assert len(held.asked) == before


@pytest.mark.parametrize("place", ["three.0.weight", "one.0.weight"])
def test_stored_activations_serve_as_long_as_nothing_before_them_changes(
    toys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(prefixes, "READ", 0.0)

    def louder(context: FinishContext) -> None:
        with torch.no_grad():
            context.module.get_parameter(f"backbone.{place}").mul_(1.5)
        found.append(context.evaluate())

    found: list[float] = []
    held = toys.rows(12, seed=1)
    trainer = touched(toys, louder, [Phase(epochs=3, lr=0.02, freeze=2)], validation=held)
    rows = {"train": trainer.job.train, "validation": held}
    trainer.job.prefixes = Prefixes(Store(tmp_path, 1 << 24), ("toy",), rows, half=False)
    trainer.run()
    assert trainer.prefix() is not None
    before = len(held.asked)
    trainer.finish()
    assert (len(held.asked) > before) == (place == "one.0.weight")
    outputs = trainer.job.network.eval()(held.inputs)  # of what was kept, or put back
    scores = trainer.job.task.scores(outputs.detach(), held.targets)
    assert trainer.objective() == pytest.approx(trainer.job.task.objective(scores))


def test_a_gain_is_noted(toys: Any) -> None:
    def undo_harm(context: FinishContext) -> None:
        with torch.no_grad():
            context.module.head.linear.bias.sub_(torch.tensor([9.0, 0.0, 0.0]))

    trainer = touched(toys, undo_harm, [Phase(epochs=8, lr=0.005)])
    trainer.run()
    trainer.best_state["head.linear.bias"] += torch.tensor([9.0, 0.0, 0.0])
    trainer.load_best()
    trainer.best = (4.0, trainer.objective())
    after = trainer.finish()
    assert after > trainer.best[1]
    assert trainer.notes == [
        f"the strategy's last touch raised the objective from {trainer.best[1]:.4f} to {after:.4f}"
    ]


def test_a_frozen_backbone_that_is_changed_is_run_again(toys: Any) -> None:
    found: list[float] = []

    def spoil(context: FinishContext) -> None:
        with torch.no_grad():
            context.module.get_parameter("backbone.one.0.weight").zero_()
        found.append(context.evaluate())

    trainer = touched(toys, spoil, [Phase(epochs=8, lr=0.05, freeze=3)])
    trainer.run()
    trainer.load(trainer.best_state)
    before = trainer.outputs()
    after = trainer.finish()
    assert found[0] < trainer.best[1] == after
    assert any("undone" in n for n in trainer.notes)
    assert torch.equal(trainer.outputs(), before)
    assert trainer.pristine


def test_it_is_undone_where_the_budget_ends_first(toys: Any) -> None:
    def slow(context: FinishContext) -> None:
        with torch.no_grad():
            context.module.head.linear.weight.mul_(2.0)
        context.evaluate()
        raise AssertionError("there was no time left for this")

    trainer = touched(toys, slow, [Phase(epochs=2, lr=0.02)])
    trainer.run()
    best = trainer.best_state["head.linear.weight"].clone()
    trainer.job.deadline = time.time() - 1
    assert trainer.finish() == trainer.best[1]
    assert torch.equal(trainer.job.network.head.linear.weight, best)
    assert trainer.notes == ["the strategy's last touch was undone: the budget ended before it was done"]


def test_without_validation_rows_there_is_none(toys: Any) -> None:
    def never(context: FinishContext) -> None:
        raise AssertionError("nothing can be judged")

    trainer = touched(toys, never, [Phase(epochs=1, lr=0.02)], validation=None)
    trainer.run()
    assert trainer.finish() is None
