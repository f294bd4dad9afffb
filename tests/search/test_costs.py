"""What passes and trainings are predicted to cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autotransfer.schema import AUGMENTATIONS, STORED, CutReport, Phase, Profile, SurveyRecord
from autotransfer.search.costs import Costs, prefix_share, stretches

MACS = (10.0, 40.0, 80.0, 100.0)


def _costs(clock: bool = False, status: str = "done") -> Costs:
    profile = Profile(
        name="d", modality="image", task="multiclass", metric="accuracy", rows=200, train=100, validation=50, test=50
    )
    record = SurveyRecord(
        backbone="m/a",
        status=status,
        rows=60,
        macs=100.0,
        seconds_per_row=0.5,
        cuts=tuple(CutReport(after=f"s{i}", ok=True, macs=m) for i, m in enumerate(MACS)),
    )
    return Costs(profile, lambda: [record], clock=clock)


@pytest.mark.parametrize(
    ("phase", "share"),
    [
        (Phase(epochs=1, freeze=0), 0.0),
        (Phase(epochs=1, freeze=2), 0.4),
        (Phase(epochs=1, freeze=4), 1.0),
        (Phase(epochs=1, stages=(1, 3)), 0.1),
        (Phase(epochs=1, stages=()), 1.0),
        (Phase(epochs=1, parameters="bias$"), 0.0),
        (Phase(epochs=1), 0.0),
    ],
)
def test_the_frozen_prefix_of_a_phase(phase: Phase, share: float) -> None:
    assert prefix_share(phase, MACS) == pytest.approx(share)
    assert prefix_share(phase, ()) in (0.0, 1.0)


def test_a_full_training_is_the_unit_and_validation_on_top() -> None:
    costs = _costs()
    unit = costs.unit("m/a", "m/unknown")
    assert unit == 3 * 10 * 100 * 100.0
    whole = costs.training("m/a", [Phase(epochs=10, freeze=0)], 0, None)
    assert whole == pytest.approx(unit + 10 * 50 * 100.0)
    assert _costs(clock=True).unit("m/a") == 3 * 10 * 100 * 0.5


def test_stored_activations_spare_the_prefix_and_frozen_backbones_cost_nothing() -> None:
    costs, phases = _costs(), [Phase(epochs=2, freeze=2)]
    before = costs.training("m/a", phases, 0, None)
    costs.passed("m/a", phases)
    after = costs.training("m/a", phases, 0, None)
    assert before - after == pytest.approx(2 * 0.4 * (1 + 0.5) * 100 * 100.0)
    assert costs.training("m/a", [Phase(epochs=2, freeze=4)], 0, None) == 0.0
    assert not costs.moves("m/a", [Phase(epochs=2, freeze=4), Phase(epochs=0, freeze=0)])
    assert costs.moves("m/a", phases)


def test_a_rung_pays_for_its_own_epochs() -> None:
    costs, phases = _costs(), [Phase(epochs=2, freeze=4), Phase(epochs=3, freeze=0)]
    parts = [costs.training("m/a", phases, a, b) for a, b in ((0, 2), (2, 4), (4, None))]
    assert parts[0] == 0.0
    assert sum(parts) == pytest.approx(costs.training("m/a", phases, 0, None))
    assert [e for _, e in stretches(phases, 1, 4.5)] == [1, 2.5]


def test_what_is_left_to_read_is_priced() -> None:
    assert _costs().remaining("m/a") == 0.0
    assert _costs(status="partial").remaining("m/a") == (100 - 60 + 50) * 100.0
    assert _costs().row("m/unknown") == 0.0


def test_rows_augmented_anew_use_no_stored_activations_and_views_are_written_once() -> None:
    costs, plain = _costs(), [Phase(epochs=10, freeze=2)]
    light, views = ([replace(plain[0], augment=kind, augment_from=5)] for kind in ("light", "views"))
    costs.passed("m/a", plain)
    last = {
        name: costs.training("m/a", p, 5, None) for name, p in (("plain", plain), ("light", light), ("views", views))
    }
    assert costs.training("m/a", light, 0, 5) == costs.training("m/a", plain, 0, 5)
    assert last["light"] - last["plain"] == pytest.approx(5 * 0.4 * (1 + 0.5) * 100 * 100.0)
    assert last["views"] - last["plain"] == pytest.approx(3 * 0.4 * 100 * 100.0)
    full = [Phase(epochs=10, freeze=0)]
    assert costs.training("m/a", [replace(full[0], augment="light")], 0, None) == costs.training("m/a", full, 0, None)


@pytest.mark.parametrize("kind", [k for k in AUGMENTATIONS if k not in STORED])
def test_what_was_augmented_throughout_leaves_nothing_in_the_store(kind: str) -> None:
    costs = _costs()
    costs.passed("m/a", [Phase(epochs=5, freeze=2, augment=kind)])
    assert costs.stored["m/a"] == set()
    one, light = ([Phase(epochs=5, freeze=2, augment=k)] for k in (kind, "light"))
    assert costs.training("m/a", one, 0, None) == costs.training("m/a", light, 0, None)
