"""The rounds of a survey, with made-up records in place of workers."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from autotransfer.profiles import Profile
from autotransfer.registry import Registry
from autotransfer.schema import CutReport, SurveyRecord
from autotransfer.search.jobs import Context, SurveyJob, slug
from autotransfer.search.rounds import FIRST_CHUNK, SHARE, SLACK, SLICE, Rounds
from autotransfer.search.survey import LOSSES
from autotransfer.spec import BackboneSpec

SCORES = {"m/a": 0.9, "m/b": 0.8, "m/c": 0.7, "m/d": 0.6, "m/e": 0.5}


def _profile(train: int, validation: int = 50) -> Profile:
    return Profile(
        name="d",
        modality="image",
        task="multiclass",
        metric="accuracy",
        rows=train,
        train=train,
        validation=validation,
        test=50,
    )


def _rounds(train: int, deadline: float, workers: int = 1, work: Path | None = None) -> Rounds:
    specs = {i: BackboneSpec(id=i, factory="m:f") for i in SCORES}
    context = Context(prepared=None, manifest=[], specs=specs, weights={}, work=str(work))  # type: ignore[arg-type]
    return Rounds(context, _profile(train), Registry([]), deadline, workers)


def _drive(rounds: Rounds, train: int, seconds_per_row: float, most: dict[str, int] | None = None) -> list[list[Any]]:
    """Answer every job as a worker would, reading no more rows than ``most`` in a first visit."""
    jobs, told = rounds.jobs(), []
    try:
        batch = next(jobs)
        while True:
            told.append([(j.backbone, j.rows, j.last) for j in batch if isinstance(j, SurveyJob)])
            answers = []
            for j in batch:
                assert isinstance(j, SurveyJob)
                rows = min(j.rows, (most or {}).pop(j.backbone, j.rows))
                answers.append(
                    SurveyRecord(
                        backbone=j.backbone,
                        status="done" if rows == train and j.last else "partial",
                        rows=rows,
                        params=5 if j.backbone == "m/e" else 1,
                        score=SCORES[j.backbone],
                        seconds_per_row=seconds_per_row,
                        features=f"{slug(j.backbone)}.safetensors" if rounds.context.work != "None" else "",
                    )
                )
            batch = jobs.send(answers)  # type: ignore[arg-type]
    except StopIteration:
        return told


def test_without_a_clock_small_data_are_read_whole_in_one_round() -> None:
    told = _drive(_rounds(900, float("inf")), 900, 1.0)
    assert told == [[(i, 900, True) for i in SCORES]]


def test_without_a_clock_only_the_hopeless_read_no_further(tmp_path: Path) -> None:
    rounds = _rounds(9000, float("inf"), work=tmp_path)
    rng = np.random.default_rng(0)
    hard = rng.exponential(size=9000)  # the same rows are hard for all
    for place, id in enumerate(SCORES):
        losses = hard + rng.normal(0, 0.1, 9000) + (1.0 if place > 2 else 0.0)
        save_file({LOSSES: torch.tensor(losses)}, tmp_path / f"{slug(id)}.safetensors")
    told = _drive(rounds, 9000, 1.0)
    assert told[0] == [(i, FIRST_CHUNK, False) for i in SCORES]
    # m/d has no chance; m/e has none either, but it is the one that size alone would pick.
    assert {i for i, _, _ in told[1]} == {"m/a", "m/b", "m/c", "m/e"}
    assert {(i, last) for i, _, last in told[-1]} >= {("m/e", True)}
    notes = {r.backbone: r.notes for r in rounds.records}
    assert "the chance that it is the best is 0.0%" in notes["m/d"][0]


def test_without_pruning_all_read_on(tmp_path: Path) -> None:
    rounds = _rounds(9000, float("inf"), work=tmp_path)
    rounds.prune = False
    for place, id in enumerate(SCORES):
        save_file({LOSSES: torch.full((9000,), float(place))}, tmp_path / f"{slug(id)}.safetensors")
    assert {i for i, _, _ in _drive(rounds, 9000, 1.0)[-1]} == set(SCORES)


def test_estimates_are_merged_by_rank_and_unknown_ones_come_last() -> None:
    rounds = _rounds(300, float("inf"))
    _drive(rounds, 300, 1.0)
    cut = CutReport(after="x", ok=True, loss=0.1, logme=5.0, hscore=9.0, knn=0.99)
    rounds.records = [replace(r, cuts=(cut,)) if r.backbone == "m/b" else r for r in rounds.records]
    assert rounds.order()[:2] == ["m/b", "m/a"]
    rounds.weights = {"score": 1.0}
    assert rounds.order() == list(SCORES)


def test_a_short_clock_drops_the_worst_and_the_best_reads_on() -> None:
    rounds = _rounds(2000, time.time() + 100.0)
    told = _drive(rounds, 2000, 0.02)
    assert told[-1] == [("m/a", 2000, True)]
    assert rounds.record("m/a").status == "done"


def test_what_the_clock_cut_short_is_read_on_even_with_few_rows() -> None:
    rounds = _rounds(400, time.time() + 1000.0)
    told = _drive(rounds, 400, 0.01, most={"m/a": 64, "m/b": 64})
    assert told[1] == [("m/a", 400, True), ("m/b", 400, True)]
    assert {r.status for r in rounds.records} == {"done"}


def test_nothing_reads_on_when_there_is_no_time_for_it() -> None:
    told = _drive(_rounds(100_000, time.time() + 10.0), 100_000, 0.05)
    assert len(told) == 1


def test_validation_rows_that_the_time_does_not_reach_for_are_not_begun() -> None:
    rounds = _rounds(400, time.time() + 600.0)
    rounds.profile = _profile(400, validation=50_000)
    assert _drive(rounds, 400, 0.02) == [[(i, 400, False) for i in SCORES]]  # 1000 s each
    assert rounds.record("m/a").notes == ("it read no further: the time does not reach",)
    rounds = _rounds(400, time.time() + 600.0)
    rounds.profile = _profile(400, validation=50_000)
    told = _drive(rounds, 400, 0.001)  # 50 s each, of 240
    assert told[1:] == [[(i, 400, True) for i in SCORES if i != "m/e"]]
    untimed = _rounds(400, float("inf"))
    untimed.profile = _profile(400, validation=50_000)
    assert _drive(untimed, 400, 0.02) == [[(i, 400, True) for i in SCORES]]


class Clock:
    """A clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("autotransfer.search.rounds.time.time", lambda: self.now)

    def drive(self, rounds: Rounds, seconds: float) -> list[list[SurveyJob]]:
        """Answer every job after so many seconds, with all its rows; they say that a row takes a hundredth of one."""
        jobs, told, answers = rounds.jobs(), list[list[SurveyJob]](), None
        try:
            while True:
                batch: Any = jobs.send(answers)  # type: ignore[arg-type]
                told.append(batch)
                self.now += seconds * len(batch)
                answers = [
                    SurveyRecord(
                        backbone=j.backbone,
                        status="done" if j.last else "partial",
                        rows=j.rows,
                        params=1,
                        score=0.5,
                        seconds_per_row=0.01,
                    )
                    for j in batch
                ]
        except StopIteration:
            return told


def test_every_job_under_a_clock_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *later = Clock(monkeypatch).drive(_rounds(2000, 1000.0), 1.0)
    assert {j.deadline for j in first} == {SHARE * 1000.0}
    assert len(later) == 2
    assert {j.deadline for batch in later for j in batch} == {SHARE * 1000.0}
    _, *later = Clock(monkeypatch).drive(_rounds(2000, 100.0), 3.0)
    assert [[j.backbone for j in batch] for batch in later] == [["m/a", "m/b", "m/c", "m/d"], ["m/a"]]
    # The best one may take more than the survey's share, but not for ever: it reads 976 training rows and 50 others.
    assert later[-1][0].deadline == pytest.approx(27.0 + SLACK * 0.01 * (976 + 50))
    jobs = [j for batch in Clock(monkeypatch).drive(_rounds(2000, float("inf")), 1.0) for j in batch]
    assert {(j.seconds, j.deadline) for j in jobs} == {(float("inf"), float("inf"))}


@pytest.mark.parametrize("workers", [1, 2])
def test_many_backbones_are_opened_as_the_time_allows(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    ids = [f"m/{n:02}" for n in range(40)]

    def rounds(deadline: float) -> Rounds:
        made = _rounds(300, deadline, workers)
        specs = {i: BackboneSpec(id=i, factory="m:f", params=9 if i == "m/33" else 3) for i in ids}
        made.context = replace(made.context, specs=specs)
        return made

    short, size = rounds(100.0), SLICE * workers
    told = Clock(monkeypatch).drive(short, 10.0)
    assert [[j.backbone for j in batch] for batch in told] == [[*ids[:size], "m/33"]]
    skipped = [r for r in short.records if r.status == "skipped"]
    assert [r.backbone for r in skipped] == [i for i in ids[size:] if i != "m/33"]
    assert {r.reason for r in skipped} == {
        f"the survey's share of the time was over before its turn, after {size + 1} backbones"
    }
    assert set(short.order()) == {*ids[:size], "m/33"}
    long = rounds(10_000.0)
    told = Clock(monkeypatch).drive(long, 10.0)
    assert [j.backbone for batch in told for j in batch] == [
        *ids[:size],
        "m/33",
        *(i for i in ids[size:] if i != "m/33"),
    ]
    assert max(len(batch) for batch in told) == size + 1
    assert [r.backbone for r in long.records] == ids
    untimed = Clock(monkeypatch).drive(rounds(float("inf")), 10.0)
    assert [[j.backbone for j in batch] for batch in untimed] == [ids]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_order_is_by_score(workers: int) -> None:
    rounds = _rounds(300, float("inf"), workers)
    _drive(rounds, 300, 1.0)
    assert rounds.order() == list(SCORES)
    assert rounds.static() == "m/e"
