"""What passes and trainings are predicted to cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autotransfer.gap import Unlabeled
from autotransfer.profiles import Profile
from autotransfer.schema import AUGMENTATIONS, STORED, CutReport, Phase, SurveyRecord
from autotransfer.search.costs import LOOKS, Costs, prefix_share, stretches
from autotransfer.strategy import FinishContext, ObjectiveContext, Strategy

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


def test_costs_follow_the_pace_that_was_measured() -> None:
    costs, full, top = _costs(clock=True), [Phase(epochs=10, freeze=0)], [Phase(epochs=10, freeze=3)]
    before = costs.training("m/a", full, 0, None)
    costs.learn("m/a", full, 0.0, 2, 2 * 3 * 100 * 0.5)  # an epoch took twice as long as three passes over 100 rows
    assert costs.pace("m/a") == pytest.approx(2.0)
    assert costs.training("m/a", full, 0, None) == pytest.approx(2 * before)
    assert costs.unit("m/a") == pytest.approx(2 * 3 * 10 * 100 * 0.5)
    costs.passed("m/a", top)
    costs.learn("m/a", top, 0.0, 2, 3 * 0.2 * 100 * 0.5)  # from the store, as fast as foretold
    assert costs.pace("m/a") == pytest.approx((6 + 0.6) / (3 + 0.6))
    assert costs.pace("m/other") == costs.pace("m/a")


def test_no_time_has_a_say_under_a_trial_budget() -> None:
    costs, full = _costs(), [Phase(epochs=10, freeze=0)]
    costs.learn("m/a", full, 0.0, 2, 1000.0)
    assert costs.pace("m/a") == 1.0


def test_heads_trained_together_cost_seconds_by_rows_width_outputs_and_number() -> None:
    costs = _costs(clock=True)
    costs.survey = lambda: [SurveyRecord(backbone="m/a", status="done", rows=50_000, width=384)]
    costs.profile = replace(costs.profile, train=50_000, validation=0, classes=tuple(str(i) for i in range(100)))
    seconds = costs.heads("m/a", 40, 64, 24)
    assert 441 < seconds < 700  # 441 s were measured on one core
    assert costs.heads("m/a", 40, 64, 12) < 0.6 * seconds
    assert costs.heads("m/a", 20, 64, 24) == pytest.approx(seconds / 2)
    costs.learn_heads("m/a", 10, 64, 24, seconds / 8)  # half of what was told for these epochs
    assert costs.heads("m/a", 40, 64, 24) == pytest.approx(seconds / 2)
    costs.clock = False
    assert costs.heads("m/a", 40, 64, 24) == 0.0


def test_epochs_that_train_only_a_head_say_nothing() -> None:
    costs = _costs(clock=True)
    costs.learn("m/a", [Phase(epochs=10, freeze=4)], 0.0, None, 3.0)
    costs.learn("m/a", [Phase(epochs=10, freeze=0)], 0.0, None, 0.0)
    assert costs.pace("m/a") == 1.0


class Penalised(Strategy):
    id = "toy/penalised"

    def objective(self, context: ObjectiveContext) -> None:
        return None


def test_a_loss_term_of_its_own_runs_the_whole_network_in_every_pass() -> None:
    costs, phases = _costs(), [Phase(epochs=2, freeze=4), Phase(epochs=3, freeze=2)]
    plain, penalised = (costs.training("m/a", phases, 0, None, s) for s in (Strategy(), Penalised()))
    assert penalised - plain == pytest.approx(2 * 100 * 100.0)  # the frozen phase reads no stored features
    costs.passed("m/a", phases, Penalised())
    assert costs.stored == {}
    costs.passed("m/a", phases, Strategy())
    assert costs.stored == {"m/a": {2}}
    assert costs.training("m/a", phases, 0, None, Penalised()) == penalised
    assert costs.training("m/a", phases, 0, None, Strategy()) < plain


def test_a_last_touch_looks_at_the_validation_rows_at_the_end() -> None:
    class Touching(Strategy):
        id = "toy/touching"

        def finish(self, context: FinishContext) -> None:
            return None

    costs, phases = _costs(), [Phase(epochs=3, freeze=0)]
    for stop, looks in ((None, LOOKS), (2.0, 0)):
        plain, touching = (costs.training("m/a", phases, 0, stop, s) for s in (Strategy(), Touching()))
        assert touching - plain == pytest.approx(looks * 50 * 100.0)
    assert costs.training("m/a", [Phase(epochs=3, freeze=4)], 0, None, Touching()) == 0.0


def test_a_head_on_all_depths_leaves_and_uses_no_stored_activations() -> None:
    deep, costs, phases = Strategy(), _costs(), [Phase(epochs=2, freeze=4), Phase(epochs=3, freeze=2)]
    deep.depths = True
    before = costs.training("m/a", phases, 0, None, deep)
    assert costs.training("m/a", phases[:1], 0, None, deep) == 0.0
    costs.passed("m/a", phases)
    assert costs.training("m/a", phases, 0, None, deep) == before


@pytest.mark.parametrize(
    ("phases", "epochs"),
    [
        ([], 0),
        ([Phase(epochs=3, freeze=0)], 0),
        ([Phase(epochs=3.3, freeze=4), Phase(epochs=2, freeze=1)], 4),
        (
            [
                Phase(epochs=1, freeze=4),
                Phase(epochs=1, stages=()),
                Phase(epochs=1, freeze=3),
                Phase(epochs=9, freeze=4),
            ],
            2,
        ),
    ],
)
def test_epochs_of_the_head_alone(phases: list[Phase], epochs: int) -> None:
    assert _costs().alone("m/a", phases) == epochs


def test_a_pattern_within_stages_leaves_the_prefix_frozen() -> None:
    assert prefix_share(Phase(epochs=1, freeze=2, parameters="bias$"), MACS) == pytest.approx(0.4)


class _Paired(Strategy):
    """A loss term that sees unlabeled rows."""

    id, unlabeled = "toy/paired", True

    def objective(self, context: ObjectiveContext) -> None:
        return None


class _Moved(Strategy):
    """A backbone that is adapted before a head in closed form."""

    id, unlabeled = "toy/moved", True

    def adapt(self, backbone: object, values: object, rows: object) -> None:
        pass


class _Seen(Strategy):
    """A head in closed form that sees unlabeled rows."""

    id, unlabeled = "toy/seen", True


def test_unlabeled_rows_are_paid_for_by_what_reads_them() -> None:
    costs = _costs()
    costs.profile = replace(costs.profile, unlabeled=Unlabeled(name="there", rows=70, fingerprint="f"))
    phases = [Phase(epochs=2, freeze=2)]
    plain = costs.training("m/a", phases, 0, None)
    paired = costs.training("m/a", phases, 0, None, _Paired())
    assert paired - plain == pytest.approx(2 * 100 * 100 * (0.4 + 3 * 0.6))  # as many rows again, in each step
    assert costs.adapting("m/a", _Seen()) == 70 * 100
    assert costs.adapting("m/a", _Moved()) == (70 + 2 * 100 + 50) * 100
    assert costs.adapting("m/a", _Paired()) == 0.0
    assert costs.adapting("m/a", Strategy()) == 0.0
    assert _costs().adapting("m/a", _Seen()) == 0.0
