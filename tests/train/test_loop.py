"""The training loop: what moves, at which rate, when it stops, how it goes on, and every door of a strategy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autotransfer.errors import TrialFailedError
from autotransfer.schema import Phase
from autotransfer.search.trial import build_network
from autotransfer.spec import BackboneSpec
from autotransfer.strategy import HeadState, Strategy
from autotransfer.train import checkpoint
from autotransfer.train.schedule import segments


def _state(trainer: Any) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in trainer.job.network.state_dict().items()}


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("freeze", [0, 1, 2, 3])
def test_frozen_stages_and_their_statistics_stay_bit_identical(toys: Any, freeze: int) -> None:
    trainer = toys.trainer([Phase(epochs=2, lr=0.05, freeze=freeze)], norm_statistics="batch")
    before, owners = _state(trainer), trainer.job.stages.owners
    trainer.run()
    moved = {n.removeprefix("backbone.") for n, t in _state(trainer).items() if not torch.equal(t, before[n])}
    assert not {n for n in moved if n in owners and owners[n] < freeze}
    assert {owners[n] for n in moved if n in owners} == set(range(freeze, 3))
    assert "head.linear.weight" in moved


def test_a_probe_reads_each_row_once(toys: Any) -> None:
    train = toys.rows(24)
    trainer = toys.trainer([Phase(epochs=5, lr=0.05, freeze=3)], train=train)
    trainer.run()
    assert sorted(i for asked in train.asked[-1:] for i in asked) == list(range(24))
    assert sum(len(a) for a in train.asked) <= 24 + 24  # statistics of the head, then all features


def test_training_lowers_the_loss_and_raises_the_score(toys: Any) -> None:
    trainer = toys.trainer([Phase(epochs=12, lr=0.02)])
    trainer.run()
    losses = [p.train_loss for p in trainer.curve]
    assert losses[-1] < 0.5 * losses[0]
    assert trainer.best[1] > 0.9


@pytest.mark.parametrize(
    ("scores", "rungs", "patience", "best", "epochs"),
    [
        ([0.5, 0.7, 0.6, 0.7, 0.6], [1, 2, 3, 4, 5], 0, 4, 5),  # of equal ones the later
        ([0.5, 0.8, 0.7, 0.7, 0.6], [1, 2, 3, 4, 5], 0, 2, 5),
        ([0.5, 0.9, 0.6, 0.9, 0.7], [3, 5], 0, 5, 5),  # in the midst of a rung the steps are large
        ([0.5, 0.9, 0.7, 0.9, 0.6], [3, 5], 0, 3, 5),
        ([0.5, 0.9, 0.6, 0.9, 0.5], [5], 0, 5, 5),
        ([0.5, 0.7, 0.7, 0.7, 0.9], [5], 2, 4, 4),  # an equal one is no better; it stops in the midst of a rung
        ([0.5, 0.7, 0.6, 0.8, 0.6], [5], 2, 4, 5),
    ],
)
def test_which_weights_are_kept_and_when_training_stops(
    toys: Any,
    monkeypatch: pytest.MonkeyPatch,
    scores: list[float],
    rungs: list[int],
    patience: int,
    best: int,
    epochs: int,
) -> None:
    trainer, told = toys.trainer([Phase(epochs=5, lr=0.02)], patience=patience), iter(scores)
    states: list[dict[str, Tensor]] = []

    def objective() -> float:
        states.append(_state(trainer))
        return next(told)

    monkeypatch.setattr(trainer, "objective", objective)
    for until in rungs:
        trainer.run(until)
    assert len(trainer.curve) == epochs
    assert trainer.best == (best, scores[best - 1])
    trainer.load_best()
    assert _same(_state(trainer), states[best - 1])


def test_a_training_cut_off_in_its_first_rung_keeps_its_best_epoch(toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, told = toys.trainer([Phase(epochs=5, lr=0.02)]), iter([0.5, 0.8, 0.6])

    def objective() -> float:
        if len(trainer.curve) == 2:
            trainer.job.deadline = 0.0
        return next(told)

    monkeypatch.setattr(trainer, "objective", objective)
    assert not trainer.run()
    assert trainer.best == (2, 0.8)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("stops", [(1, 2), (2, 3), (1, 4)])
def test_stopping_and_going_on_changes_nothing(toys: Any, tmp_path: Path, optimizer: str, stops: Any) -> None:
    phases = [Phase(epochs=2, lr=0.02, freeze=3), Phase(epochs=3, lr=0.01, lr_ratio=0.3, averaging=0.9)]

    def new() -> Any:
        # As real backbones are laid out: what is restored must lie in memory as its parameter does.
        body = toys.made(toys.Conv, 0.3).to(memory_format=torch.channels_last)
        return toys.trainer(phases, backbone=body, optimizer=optimizer, dropout=0.2, norm_statistics="batch")

    live, stored = new(), new()
    for epoch in (*stops, None):
        live.run(epoch)
        stored.run(epoch)
        checkpoint.save(stored, tmp_path / "c")
        stored = new()
        checkpoint.load(stored, tmp_path / "c")
    assert live.curve == stored.curve
    assert live.best == stored.best
    assert _same(_state(live), _state(stored))
    live.finish()
    stored.finish()
    assert _same(_state(live), _state(stored))


def test_rungs_restart_the_schedule_and_end_annealed() -> None:
    phases = [Phase(epochs=2), Phase(epochs=4)]
    assert [(s.phase, s.start, s.stop) for s in segments(phases, 5, 0, 15)] == [(0, 0, 10), (1, 10, 15)]
    assert [(s.phase, s.start, s.stop) for s in segments(phases, 5, 15, None)] == [(1, 15, 30)]


def test_a_damaged_or_lean_checkpoint_is_refused(toys: Any, tmp_path: Path) -> None:
    trainer = toys.trainer([Phase(epochs=2)])
    trainer.run(1)
    checkpoint.save(trainer, tmp_path / "lean", lean=True)
    with pytest.raises(TrialFailedError, match="only the best weights"):
        checkpoint.load(toys.trainer([Phase(epochs=2)]), tmp_path / "lean")
    checkpoint.save(trainer, tmp_path / "c")
    file = tmp_path / "c" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(TrialFailedError, match="cannot be read"):
        checkpoint.load(toys.trainer([Phase(epochs=2)]), tmp_path / "c")


def test_a_loss_that_is_not_finite_ends_the_trial_with_its_reason(toys: Any) -> None:
    with pytest.raises(TrialFailedError, match=r"loss became nan|loss became inf"):
        toys.trainer([Phase(epochs=8, lr=1e9)], optimizer="sgd", clip=0.0).run()


def test_patience_and_deadline_stop_early(toys: Any) -> None:
    idle = toys.trainer([Phase(epochs=30, lr=1e-12)], patience=3)
    assert idle.run()
    assert idle.epochs == 4
    assert "no better for 3" in idle.stopped
    late = toys.trainer([Phase(epochs=30, lr=0.01)])
    late.job.deadline = time.time() - 1
    assert late.run() is False
    assert late.step == 1


class Greedy(nn.Module):
    """Runs out of memory on more than two rows."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 7 GiB")
        return torch.tanh(self.one(x.mean((2, 3))))


class Frugal(Greedy):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.one(x.mean((2, 3))))


def test_out_of_memory_halves_the_batch_and_gives_the_same_weights(toys: Any) -> None:
    greedy = toys.trainer([Phase(epochs=2, lr=0.01)], backbone=toys.made(Greedy), batch_size=8)
    frugal = toys.trainer([Phase(epochs=2, lr=0.01)], backbone=toys.made(Frugal), batch_size=8)
    greedy.run()
    frugal.run()
    assert greedy.micro == 2
    assert any("out of memory" in n for n in greedy.notes)
    for name, tensor in _state(greedy).items():
        torch.testing.assert_close(tensor, _state(frugal)[name], rtol=1e-4, atol=1e-5)


def test_another_runtime_error_is_not_taken_for_memory(toys: Any) -> None:
    class Broken(Frugal):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise RuntimeError("shapes differ")
            return super().forward(x)

    with pytest.raises(RuntimeError, match="shapes differ"):
        toys.trainer([Phase(epochs=1)], backbone=toys.made(Broken)).run()


def test_the_best_weights_of_an_earlier_phase_are_the_whole_network_of_that_time(toys: Any, tmp_path: Path) -> None:
    phases = [Phase(epochs=4, lr=0.05, freeze=3), Phase(epochs=2, lr=0.3, lr_ratio=1.0, freeze=1)]

    def new() -> Any:
        return toys.trainer(phases, optimizer="sgd", clip=0.0, batch_size=24)

    alone, both, again = new(), new(), new()
    alone.run(4)
    both.run(5)
    checkpoint.save(both, tmp_path / "c")
    checkpoint.load(again, tmp_path / "c")
    alone.finish()
    for trainer in (both, again):
        trainer.run()
        assert trainer.best[0] <= 4  # such rates spoil the network
        assert trainer.finish() == trainer.best[1] == trainer.objective()
        assert _same(_state(trainer), _state(alone))


# Doors.


def test_a_head_in_closed_form_is_taken(toys: Any) -> None:
    class Closed(toys.Toy):
        def head(self, features: Tensor, targets: Tensor) -> HeadState:
            assert features.shape == (24, 8)
            assert targets.dtype == torch.int64
            return HeadState(weight=torch.eye(3, 8), bias=torch.tensor([1.0, 2.0, 3.0]))

    trainer = toys.trainer([], strategy=Closed())
    assert trainer.run()
    pooled = trainer.pooled()[1]
    torch.testing.assert_close(trainer.outputs(), pooled[:, :3] + torch.tensor([1.0, 2.0, 3.0]))


def test_a_head_that_takes_groups_is_given_them(toys: Any) -> None:
    class Grouped(toys.Toy):
        def head(self, features: Tensor, targets: Tensor, groups: Tensor | None = None) -> HeadState:
            self.groups = groups
            return HeadState(weight=torch.eye(3, 8), bias=torch.zeros(3))

    strategy, rows = Grouped(), toys.rows(24)
    toys.trainer([], strategy=strategy, train=rows)
    assert strategy.groups is None
    rows.groups = torch.arange(24) // 6
    toys.trainer([], strategy=strategy, train=rows)
    assert strategy.groups is rows.groups


def test_adapt_changes_the_backbone_before_anything_is_read(toys: Any) -> None:
    class Louder(toys.Toy):
        def adapt(self, backbone: nn.Module, values: Any, rows: Any) -> None:
            with torch.no_grad():
                backbone.stem.weight.mul_(values["gain"])

    job = toys.trainer([Phase(epochs=1)], values={"gain": 2.0}).job
    body, train = toys.made(toys.Conv), toys.rows(6)
    spec = BackboneSpec(id="toy/net", factory="toy:net", stages=toys.Conv.STAGES)
    network, stages = build_network(body, spec, Louder(), job.recipe, toys.TASK, train)
    torch.testing.assert_close(network.backbone.stem.weight, 2 * toys.made(toys.Conv).stem.weight)
    assert stages.paths == toys.Conv.STAGES


class Pull(nn.Module):
    """Pulls a parameter of its own towards 3, and adds the mean squared feature of the last stage."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.zeros(()))
        self.steps: list[Any] = []

    def forward(self, step: Any) -> Tensor:
        self.steps.append(step)
        return (self.own - 3) ** 2 + 0.1 * step.stage_features[-1].pow(2).mean()


def test_an_objective_is_added_and_its_parameters_are_trained(toys: Any) -> None:
    class Penalised(toys.Toy):
        unlabeled = True

        def objective(self, context: Any) -> nn.Module:
            assert context.widths == (4, 6, 8)
            assert set(context.initial) == {n for n, _ in context.backbone.named_parameters()}
            return Pull()

    trainer = toys.trainer([Phase(epochs=3, lr=0.1)], strategy=Penalised(), unlabeled=toys.rows(10, seed=5))
    trainer.run()
    assert trainer.own_term.own.item() > 0.2
    step = trainer.own_term.steps[0]
    assert [f.shape[1] for f in step.stage_features] == [4, 6, 8]
    assert [f.shape for f in step.unlabeled_features] == [f.shape for f in step.stage_features]
    assert step.outputs.shape == (6, 3)


def test_combine_has_the_last_word_on_gradients(toys: Any) -> None:
    class OnlyTheFirst(toys.Toy):
        def objective(self, context: Any) -> nn.Module:
            return Pull()

        def combine(self, gradients: Any) -> Any:
            assert len(gradients) == 2
            return list(gradients[0])

    class Ignored(toys.Toy):
        pass

    combined = toys.trainer([Phase(epochs=2, lr=0.01)], strategy=OnlyTheFirst())
    plain = toys.trainer([Phase(epochs=2, lr=0.01)], strategy=Ignored())
    combined.run()
    plain.run()
    assert combined.own_term.own.item() == 0.0
    for name, tensor in _state(plain).items():
        torch.testing.assert_close(_state(combined)[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("good", [True, False])
def test_a_last_touch_is_kept_only_when_the_score_does_not_fall(toys: Any, good: bool) -> None:
    class Touch(toys.Toy):
        def finish(self, context: Any) -> None:
            assert context.snapshots
            assert context.evaluate() >= 0
            with torch.no_grad():
                context.module.head.linear.bias.add_(0.0 if good else torch.tensor([1e4, 0.0, 0.0]))
                context.module.head.linear.weight.mul_(1.5 if good else 1.0)
                context.module.head.linear.bias.mul_(1.5 if good else 1.0)

    trainer = toys.trainer([Phase(epochs=6, lr=0.02)], strategy=Touch())
    trainer.run()
    best = trainer.best_state["head.linear.weight"].clone()
    after = trainer.finish()
    kept = trainer.job.network.head.linear.weight
    torch.testing.assert_close(kept, best * 1.5 if good else best)
    assert after == trainer.best[1]
    assert any("undone" in n for n in trainer.notes) is not good


def test_augmentation_and_balanced_sampling_reach_the_rows(toys: Any) -> None:
    few = toys.TinyRows(toys.rows(24).inputs, torch.tensor([0] * 20 + [1, 1, 2, 2]))
    trainer = toys.trainer([Phase(epochs=4, lr=0.01, sampler="balanced", augment="light")], train=few)
    trainer.run()
    drawn = [i for asked in few.asked for i in asked]
    share = sum(i >= 20 for i in drawn) / len(drawn)
    assert share > 0.4


def test_a_strategy_without_doors_opens_none() -> None:
    from autotransfer.strategy import overrides

    assert not any(overrides(Strategy(), d) for d in ("head", "adapt", "objective", "combine", "finish"))
