"""Trainings from stored activations: the same result as without, and never from a prefix that is not the network's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from autotransfer.schema import Phase
from autotransfer.store import Store
from autotransfer.train import checkpoint, prefixes
from autotransfer.train.evaluate import predict
from autotransfer.train.prefixes import Prefixes


@pytest.fixture(autouse=True)
def _free_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stored activations pay for tiny networks too."""
    monkeypatch.setattr(prefixes, "READ", 0.0)


def _trainer(
    toys: SimpleNamespace, folder: Path | None, phases: list[Phase], most: int = 1 << 24, half: bool = True, **more: Any
) -> Any:
    made = toys.trainer(phases, **more)
    if folder is not None:
        rows = {"train": made.job.train, "validation": made.job.validation}
        made.job.prefixes = Prefixes(Store(folder, most), ("toy",), rows, half=half)
    return made


NETWORKS = ("Conv", "Tokens", "Pairs", "Shared")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_from_activations_gives_what_the_whole_network_gives(
    toys: SimpleNamespace, tmp_path: Path, name: str
) -> None:
    phases = [Phase(epochs=3, lr=1e-3, freeze=1)]  # AdamW turns the last digit of a small gradient into a step
    output = "tokens" if name == "Tokens" else "vector"
    pair = [
        _trainer(toys, folder, phases, backbone=toys.made(getattr(toys, name)), output=output, half=False)
        for folder in (None, tmp_path)
    ]
    for one in pair:
        one.run()
    whole, stored = pair
    assert whole.prefix() is None
    assert stored.prefix() is not None
    assert stored.prefix().cut.after == 1
    torch.testing.assert_close(stored.outputs(), whole.outputs(), rtol=0, atol=2e-2)
    for a, b in zip(stored.curve, whole.curve, strict=True):
        assert a.objective == pytest.approx(b.objective, abs=0.09)
        assert a.train_loss == pytest.approx(b.train_loss, abs=1e-3)


def test_stages_that_are_trained_drop_out_in_the_first_epoch_too(toys: SimpleNamespace, tmp_path: Path) -> None:
    phases = [Phase(epochs=3, lr=1e-3, freeze=2)]
    pair = [
        _trainer(toys, folder, phases, backbone=toys.made(lambda: toys.Conv(dropout=0.5)), half=False)
        for folder in (None, tmp_path)
    ]
    seen: list[list[bool]] = [[], []]
    for one, flags in zip(pair, seen, strict=True):
        dropping = next(m for m in one.job.network.backbone.three.modules() if isinstance(m, torch.nn.Dropout))
        dropping.register_forward_hook(lambda module, *_, flags=flags: flags.append(module.training))
        one.run()
    assert pair[1].prefix() is not None
    for flags in seen:
        trained = [f for f in flags if f]
        assert len(trained) == 3 * pair[0].per_epoch
    for a, b in zip(pair[1].curve, pair[0].curve, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, abs=1e-3)


def test_half_precision_on_disk_changes_the_loss_by_a_thousandth(toys: SimpleNamespace, tmp_path: Path) -> None:
    pair = [_trainer(toys, folder, [Phase(epochs=3, lr=1e-3, freeze=1)]) for folder in (None, tmp_path)]
    for one in pair:
        one.run()
    for a, b in zip(pair[1].curve, pair[0].curve, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, rel=2e-3)


def test_images_are_not_decoded_again_once_their_activations_are_stored(toys: SimpleNamespace, tmp_path: Path) -> None:
    made = _trainer(toys, tmp_path, [Phase(epochs=3, lr=1e-2, freeze=2)])
    made.run(until=1)
    before = len(made.job.train.asked)
    made.run()
    assert len(made.job.train.asked) == before


def test_another_training_finds_them_and_other_weights_do_not(toys: SimpleNamespace, tmp_path: Path) -> None:
    phases = [Phase(epochs=3, lr=1e-2, freeze=2)]
    _trainer(toys, tmp_path, phases).run()
    there = {p.name for p in tmp_path.glob("*/arrays.bin") for p in [p.parent]}
    assert len(there) == 2  # training rows and validation rows
    _trainer(toys, tmp_path, phases, values={"lr": 1}).run()
    assert {p.parent.name for p in tmp_path.glob("*/arrays.bin")} == there
    _trainer(toys, tmp_path, phases, backbone=toys.made(toys.Conv, seed=9)).run()
    assert len(list(tmp_path.glob("*/arrays.bin"))) == 4


def test_a_prefix_that_an_earlier_phase_trained_has_activations_of_its_own(
    toys: SimpleNamespace, tmp_path: Path
) -> None:
    phases = [Phase(epochs=1, lr=1e-1, stages=(0,)), Phase(epochs=3, lr=1e-2, freeze=2)]
    whole, stored = (_trainer(toys, folder, phases) for folder in (None, tmp_path))
    whole.run()
    stored.run()
    assert stored.prefix() is not None
    torch.testing.assert_close(stored.outputs(), whole.outputs(), rtol=0, atol=2e-2)


def test_a_resumed_training_goes_on_from_the_same_activations(toys: SimpleNamespace, tmp_path: Path) -> None:
    phases = [Phase(epochs=1, lr=1e-1, stages=(0,)), Phase(epochs=3, lr=1e-2, freeze=2)]
    straight, paused = (_trainer(toys, tmp_path / "store", phases) for _ in range(2))
    straight.run(until=2)
    straight.run()
    paused.run(until=2)
    checkpoint.save(paused, tmp_path / "checkpoint")
    again = _trainer(toys, tmp_path / "store", phases)
    checkpoint.load(again, tmp_path / "checkpoint")
    again.run()
    torch.testing.assert_close(again.outputs(), straight.outputs(), rtol=0, atol=1e-6)


def test_weights_of_an_earlier_phase_are_scored_by_what_they_give(toys: SimpleNamespace, tmp_path: Path) -> None:
    made = _trainer(toys, tmp_path, [Phase(epochs=2, lr=1e-2, freeze=0), Phase(epochs=3, lr=10.0, freeze=2)])
    made.run(until=1)
    best = made.snapshot()
    made.run()
    stored, latest, now = made.prefix(), made.snapshot(), made.outputs()
    assert stored is not None
    made.best, made.best_state = (1.0, 2.0), best  # better than all that came after
    made.load_best()
    plain = predict(made.job.network, made.job.validation)
    assert torch.equal(made.outputs(), plain)
    made.load(latest)
    assert made.prefix() is stored
    assert torch.equal(made.outputs(), now)
    assert not torch.allclose(now, plain, atol=0.1)
    made.finish()
    assert torch.equal(made.outputs(), plain)


def test_a_snapshot_with_the_same_tensors_before_the_cut_leaves_activations_in_use(
    toys: SimpleNamespace, tmp_path: Path
) -> None:
    made = _trainer(toys, tmp_path, [Phase(epochs=3, lr=1e-2, freeze=2)])
    made.run()
    stored = made.prefix()
    assert stored is not None
    made.load_best()
    assert made.prefix() is stored


def test_nothing_is_stored_for_one_pass_or_where_reading_costs_more(
    toys: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _trainer(toys, tmp_path, [Phase(epochs=1, lr=1e-2, freeze=2)]).run()
    monkeypatch.setattr(prefixes, "READ", 1e6)
    _trainer(toys, tmp_path, [Phase(epochs=9, lr=1e-2, freeze=2)]).run()
    assert not list(tmp_path.glob("*/arrays.bin"))


def test_a_full_store_is_said_and_the_training_goes_on(toys: SimpleNamespace, tmp_path: Path) -> None:
    made = _trainer(toys, tmp_path, [Phase(epochs=3, lr=1e-2, freeze=2)], most=1000)
    made.run()
    assert made.prefix() is None
    assert any("trained without stored activations" in n for n in made.notes)
    assert made.best is not None


def test_a_cut_that_fails_its_check_is_said_and_the_training_goes_on(toys: SimpleNamespace, tmp_path: Path) -> None:
    made = _trainer(toys, tmp_path, [Phase(epochs=3, lr=1e-2, freeze=2)], backbone=toys.made(toys.Skip))
    made.run()
    assert any("the cut after two" in n for n in made.notes)
    # One stage before it there is a cut that is right.
    assert made.prefix() is not None
    assert made.prefix().cut.after == 1


@pytest.mark.parametrize("phase", [Phase(epochs=3, freeze=0), Phase(epochs=3, freeze=2, augment="light")])
def test_nothing_frozen_or_augmented_rows_run_the_whole_network(
    toys: SimpleNamespace, tmp_path: Path, phase: Phase
) -> None:
    made = _trainer(toys, tmp_path, [phase])
    made.run(until=1)
    assert made.prefix() is None


def test_views_from_the_store_give_what_the_whole_network_gives_on_them(toys: SimpleNamespace, tmp_path: Path) -> None:
    phases = [Phase(epochs=6, lr=1e-3, freeze=1, augment="views")]
    whole, stored = (_trainer(toys, folder, phases, half=False) for folder in (None, tmp_path))
    for one in (whole, stored):
        one.run()
        assert "each row is seen in 3 fixed views, one drawn for each epoch" in one.notes
    assert whole.prefix() is None
    assert stored.prefix() is not None
    assert [len(v) for v in stored.prefix().entries.values()] == [3, 1]  # evaluation is always of rows as they are
    for a, b in zip(stored.curve, whole.curve, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, abs=1e-3)
        assert a.objective == pytest.approx(b.objective, abs=0.09)
    plain = _trainer(toys, None, [Phase(epochs=6, lr=1e-3, freeze=1)])
    plain.run()
    assert abs(plain.curve[0].train_loss - whole.curve[0].train_loss) > 1e-3


def test_each_epoch_draws_its_views_from_the_seed(toys: SimpleNamespace, tmp_path: Path) -> None:
    phases = [Phase(epochs=6, lr=1e-3, freeze=1, augment="views")]
    one, two, other = (_trainer(toys, None, phases, seed=s) for s in (0, 0, 1))
    drawn = []
    for made in (one, two, other):
        made.run(until=1)
        first = made.views().copy()
        made.run(until=2)
        drawn.append((first, made.views().copy()))
    assert set(drawn[0][0].tolist()) == {0, 1, 2}
    assert all((a == b).all() for a, b in zip(drawn[0], drawn[1], strict=True))
    assert (drawn[0][0] != drawn[0][1]).any()
    assert (drawn[0][0] != drawn[2][0]).any()


def test_the_view_as_it_is_is_shared_with_trainings_without_augmentation(toys: SimpleNamespace, tmp_path: Path) -> None:
    _trainer(toys, tmp_path, [Phase(epochs=6, lr=1e-3, freeze=1)]).run(until=1)
    assert len(list(tmp_path.glob("*/arrays.bin"))) == 2
    _trainer(toys, tmp_path, [Phase(epochs=6, lr=1e-3, freeze=1, augment="views")]).run(until=1)
    assert len(list(tmp_path.glob("*/arrays.bin"))) == 4


@pytest.mark.parametrize(("epochs", "views"), [(1, 1), (2, 1), (3, 2), (4, 3), (9, 3)])
def test_a_view_is_kept_where_it_is_read_often_enough(toys: SimpleNamespace, epochs: int, views: int) -> None:
    stages = toys.stages_of(toys.made(toys.Conv))
    assert prefixes.affordable_views(stages, 1, epochs, 3) == views
    assert prefixes.affordable_views(stages, 0, epochs, 3) == 1


def test_views_that_would_not_pay_are_left_out_and_said(
    toys: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefixes, "READ", 1e6)
    made = _trainer(toys, tmp_path, [Phase(epochs=9, lr=1e-3, freeze=1, augment="views")])
    made.run(until=1)
    assert made.augment == "none"
    assert any("trained without views" in n for n in made.notes)


def test_augmentation_begins_where_the_phase_says(toys: SimpleNamespace, tmp_path: Path) -> None:
    made = _trainer(toys, tmp_path, [Phase(epochs=4, lr=1e-3, freeze=1, augment="light", augment_from=2)])
    plain = _trainer(toys, tmp_path, [Phase(epochs=4, lr=1e-3, freeze=1)])
    for one in (made, plain):
        one.run(until=2)
    assert made.curve == plain.curve
    assert made.augment == "light"  # of the step to come
    for one in (made, plain):
        one.run()
    assert made.prefix() is None
    assert made.curve[2].train_loss != plain.curve[2].train_loss
