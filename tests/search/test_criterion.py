"""What recipes are compared by where the rows that count have no labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from autotransfer.gap import Gap, Unlabeled
from autotransfer.profiles import Profile
from autotransfer.schema import Recipe, TrialRecord
from autotransfer.search.board import Board
from autotransfer.search.criterion import Criterion, choose, copies, information, lines_of

PROFILE = Profile(
    name="toy", modality="image", task="multiclass", metric="accuracy", rows=500, train=300, validation=100, test=100
)
GIVEN = replace(PROFILE, unlabeled=Unlabeled(name="there", rows=200, fingerprint="f"))
GAP = Gap(
    backbone="m/a",
    rows=200,
    accuracy=0.9,
    low=0.85,
    high=0.94,
    auc=0.95,
    p_value=1e-9,
    mmd=0.1,
    mmd_p_value=0.001,
    effective=3.0,
    validation=100,
    shares={"a": 0.9, "b": 0.1},
)


@pytest.mark.parametrize(
    ("changes", "task", "kind", "said"),
    [
        ({"p_value": 0.4, "mmd_p_value": 0.3}, "multiclass", "validation", "look like the unlabeled ones as far as"),
        ({"alike": 0.9}, "multiclass", "validation", "about 90 % of them look like the unlabeled rows"),
        ({"effective": 60.0}, "multiclass", "weighted", "leave as much as 60 of 100 rows"),
        ({"effective": 60.0}, "regression", "weighted", "importance-weighted validation"),
        ({}, "binary", "information", "a model can be sure and wrong"),
        ({}, "regression", "validation", "for regression nothing better is known without labels"),
    ],
)
def test_the_gap_decides(changes: dict[str, Any], task: str, kind: str, said: str) -> None:
    found = choose(replace(GIVEN, task=task), replace(GAP, **changes))
    assert found.kind == kind
    assert said in found.text


def test_without_unlabeled_rows_nothing_is_said() -> None:
    assert choose(PROFILE, None) == Criterion(rows=PROFILE.validation)
    assert choose(replace(PROFILE, task="regression"), None) == Criterion()
    assert "the budget leaves no time" in choose(GIVEN, None, "the budget leaves no time for it").text
    assert lines_of(None) == []


def test_the_report_says_whether_adapting_is_worth_trying() -> None:
    differs, classes = lines_of(GAP)
    assert "accuracy 0.900 (95 %: 0.850 to 0.940" in differs
    assert differs.endswith("adapting to them is worth trying")
    assert "a 90 %, b 10 % (an estimate; wrong where" in classes
    (same,) = lines_of(replace(GAP, p_value=0.5, mmd_p_value=0.5))
    assert same.endswith("adapting to them is not worth trying")


def test_mutual_information_by_hand() -> None:
    assert information(torch.eye(4)) == pytest.approx(1.0)
    assert information(torch.tensor([[1.0, 0.0]] * 5)) == pytest.approx(0.0)  # sure, and all the same
    assert information(torch.full((5, 3), 1 / 3)) == pytest.approx(0.0)  # not sure
    half = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    mean = -(0.75 * torch.tensor(0.75).log2() + 0.25 * torch.tensor(0.25).log2())
    assert information(half) == pytest.approx(float(mean) - 0.5, rel=1e-5)


def test_copies_stand_for_weights() -> None:
    rows = copies(torch.tensor([0.0, 0.5, 2.5]))
    assert rows.bincount(minlength=3).tolist() == [0, 10, 50]
    assert copies(torch.ones(3)).bincount().tolist() == [20, 20, 20]
    assert copies(torch.full((3,), 0.001)).tolist() == [0, 1, 2]


def test_about_as_good_is_two_standard_errors() -> None:
    informed = Criterion(kind="information", rows=100)
    assert informed.slack(0.8) == pytest.approx(0.08)
    assert informed.slack(1.0) == pytest.approx(0.02)
    assert informed.slack(-3.5) == 0.0


def test_about_as_good_is_one_standard_error_where_the_rows_are_those_that_count() -> None:
    assert Criterion(rows=100).slack(0.8) == pytest.approx(0.04)
    assert Criterion(rows=100).slack(1.0) == 0.0
    assert Criterion(rows=100).slack(-3.5) == 0.0
    assert Criterion().slack(0.8) == 0.0


def record(id: str, objective: float | None, told: float | None) -> TrialRecord:
    scores = {"multiclass": {"accuracy": 0.0}} | ({} if told is None else {"unlabeled": {"information": told}})
    status = "failed" if objective is None else "done"
    recipe = Recipe(backbone="m/a", strategy="core/full")
    return TrialRecord(id=id, recipe=recipe, status=status, objective=objective, scores=scores)


def test_answers_on_unlabeled_rows_decide_among_trials_that_are_about_as_good(tmp_path: Any) -> None:
    board = Board(None, None)  # type: ignore[arg-type]
    found = {"t1": (0.90, 0.2), "t2": (0.87, 0.6), "t3": (0.60, 0.9), "t4": (None, None), "t5": (0.88, None)}
    found["b6"] = (0.89, 0.9)
    for id, (objective, told) in found.items():
        trial = board.begin(_candidate(), (), (None,), moves=False, letter="t")
        trial.id, trial.record = id, record(id, objective, told)
    assert board.leading().id == "t1"  # type: ignore[union-attr]
    board.criterion = Criterion(kind="information", rows=100)
    assert board.leading().id == "t2"  # type: ignore[union-attr]
    assert board.criterion.eligible([t.record for t in board.trials]) == {"t1", "t2", "t5", "b6"}


def _candidate() -> Any:
    from autotransfer.schema import Candidate

    return Candidate(recipe=Recipe(backbone="m/a", strategy="core/full"), reason="")
