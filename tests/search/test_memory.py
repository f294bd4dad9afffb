"""Memory between runs: what is kept, what is found again, and that damage is no harm."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from autotransfer.profiles import Profile
from autotransfer.schema import Recipe, SurveyRecord, TrialRecord
from autotransfer.search import memory
from autotransfer.search.memory import Memory

PROFILE = Profile(
    name="d",
    modality="image",
    task="multiclass",
    metric="accuracy",
    rows=10,
    train=6,
    validation=2,
    test=2,
    fingerprint="one",
)

SURVEY = [SurveyRecord(backbone="m/a", status="done", seconds_per_row=0.25)]


def _trials(*lrs: float) -> list[TrialRecord]:
    return [
        TrialRecord(id=f"t{i}", status="done", recipe=Recipe(backbone="m/a", strategy="core/full", values={"lr": lr}))
        for i, lr in enumerate(lrs)
    ]


def _filled(path: Path, lr: float = 0.1, profile: Profile = PROFILE) -> Memory:
    kept = Memory(path)
    kept.remember(profile, SURVEY, _trials(lr, 0.2), {"t0": 0.5})
    return kept


def test_what_is_remembered_is_recalled_without_what_was_left_out(tmp_path: Path) -> None:
    (found,) = _filled(tmp_path / "m.jsonl").recall(PROFILE)
    assert (found.recipe, found.gain, found.here) == (_trials(0.1)[0].recipe, 0.5, True)


def test_the_same_data_come_first_and_count_more_then_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    _filled(path, 0.1)
    _filled(path, 0.3, replace(PROFILE, fingerprint="two"))
    _filled(path, 0.4, replace(PROFILE, fingerprint="three"))
    _filled(path, 0.5, replace(PROFILE, modality="text"))
    found = Memory(path).recall(PROFILE)
    assert [o.recipe.values["lr"] for o in found] == [0.1, 0.4, 0.3]
    assert [o.here for o in found] == [True, False, False]
    assert found[0].noise < found[1].noise


def test_the_latest_speeds_are_told(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    _filled(path)
    later = [SurveyRecord(backbone="m/a", status="done", seconds_per_row=0.5)]
    Memory(path).remember(PROFILE, later, _trials(0.1), {"t0": 0.1})
    assert Memory(path).speeds() == {"m/a": 0.5}


def test_no_memory_and_nothing_to_remember_are_nothing(tmp_path: Path) -> None:
    kept = Memory(tmp_path / "none" / "m.jsonl")
    assert kept.recall(PROFILE) == []
    kept.remember(PROFILE, SURVEY, _trials(0.1), {})
    assert not (tmp_path / "none").exists()


def test_damaged_lines_are_counted_and_other_versions_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m.jsonl"
    _filled(path, 0.1)
    with path.open("a") as file:
        file.write('{"format": 99, "tried": "of tomorrow"}\n{"format": 1, "fingerprint": 3}\n\x00\x01 torn li')
    with caplog.at_level(logging.WARNING):
        found = Memory(path).recall(PROFILE)
    assert len(found) == 1
    assert "2 damaged lines" in caplog.text


def test_it_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST_RUNS", 3)
    path = tmp_path / "m.jsonl"
    for lr in (0.1, 0.2, 0.3, 0.4, 0.5):
        _filled(path, lr)
    assert [o.recipe.values["lr"] for o in Memory(path).recall(PROFILE)] == [0.5, 0.4, 0.3]
    assert len(path.read_text().splitlines()) == 3


def test_runs_that_end_at_once_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda lr: _filled(path, lr), [i / 100 for i in range(1, 41)]))
    assert len(Memory(path).recall(PROFILE)) == 40


def test_a_folder_that_cannot_be_written_is_said_and_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        _filled(tmp_path / "file" / "m.jsonl")
    assert "not remembered" in caplog.text
