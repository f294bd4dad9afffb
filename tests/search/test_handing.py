"""What the Searcher does with jobs whose worker died or hung, and with results that nobody waits for any more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from autotransfer.schema import Recipe, TrialRecord
from autotransfer.search.jobs import Context, Job, Record, RungJob
from autotransfer.search.ledger import Ledger, read_ledger

RECIPE = Recipe(backbone="a/b", strategy="c/d")


def _record(id: str, objective: float = 0.5) -> TrialRecord:
    return TrialRecord(id=id, recipe=RECIPE, status="done", objective=objective)


class _Handed:
    """A Searcher of two jobs, as Tune drives it."""

    def __init__(self, work: Path) -> None:
        from autotransfer.search.ray_tune import PolicySearcher

        self.jobs = [RungJob(id=f"t{n}", recipe=RECIPE) for n in (1, 2)]
        self.got: list[list[Record]] = []
        self.told: list[str] = []
        context = Context(prepared=cast("Any", None), manifest=[], specs={}, weights={}, work=str(work))
        self.context = context
        self.ledger = Ledger(work / "trials.jsonl", work)
        self.searcher = PolicySearcher(self._policy(), context, self.ledger, self._tell)

    def _policy(self) -> Any:
        batch: list[Job] = [*self.jobs]
        self.got.append((yield batch))

    def _tell(self, event: str, **facts: Any) -> None:
        self.told.append(facts.get("text", event))

    def ask(self, trial_id: str) -> str:
        """Return the id of the job that a Tune trial is given."""
        return str(json.loads(self.searcher.suggest(trial_id)["job"])["body"]["id"])

    def answer(self, trial_id: str, record: TrialRecord) -> None:
        from autotransfer.codec import to_json

        self.searcher.on_trial_complete(trial_id, {"record": json.dumps(to_json(record))})

    def die(self, trial_id: str, job: Job, note: str | None) -> None:
        from autotransfer.search.ray_tune import note_of

        if note is not None:
            note_of(self.context, job).write_text(note)
        self.searcher.on_trial_complete(trial_id, error=True)


def test_a_result_that_comes_late_or_twice_counts_once(tmp_path: Path) -> None:
    one = _Handed(tmp_path)
    assert [one.ask(i) for i in ("a", "b")] == ["t1", "t2"]
    one.die("a", one.jobs[0], "")
    assert one.ask("c") == "t1"
    one.answer("a", _record("t1", 0.9))  # the worker that was taken for dead: nobody waits for it any more
    one.answer("c", _record("t1", 0.5))
    one.answer("c", _record("t1", 0.7))
    assert one.got == []
    one.answer("b", _record("t2"))
    assert one.got == [[_record("t1", 0.5), _record("t2")]]
    one.answer("b", _record("t2", 0.8))
    assert read_ledger(tmp_path / "trials.jsonl") == [_record("t1", 0.5), _record("t2")]


@pytest.mark.parametrize(("note", "tries", "said"), [("", 3, "died 3 times"), (None, 8, "no worker began it in 8")])
def test_a_job_is_given_away_a_limited_number_of_times(tmp_path: Path, note: str | None, tries: int, said: str) -> None:
    one = _Handed(tmp_path)
    for number in range(tries):
        assert one.ask(f"trial {number}") == "t1"
        one.die(f"trial {number}", one.jobs[0], note)
    failed = one.ledger.records[one.jobs[0].key]
    assert failed.status == "failed"
    assert said in failed.reason
    assert one.ask("next") == "t2"


def test_a_job_that_hung_is_not_given_to_another_worker(tmp_path: Path) -> None:
    one = _Handed(tmp_path)
    one.ask("a")
    one.die("a", one.jobs[0], 'Timeout (0:00:08)!\nThread 0x1:\n  File "mine.py", line 3 in forward\n')
    assert (
        one.ledger.records[one.jobs[0].key].reason
    ) == 'it hung: nothing came for 300 s, so its worker was killed (File "mine.py", line 3 in forward)'
