"""What the Searcher does with jobs whose worker died or hung, and with results that nobody waits for any more."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from autotransfer.schema import Recipe, TrialRecord
from autotransfer.search import desk as desk_module
from autotransfer.search.desk import Desk
from autotransfer.search.jobs import Context, Job, Record, RungJob
from autotransfer.search.ledger import Ledger, read_ledger

RECIPE = Recipe(backbone="a/b", strategy="c/d")


def _record(id: str, objective: float = 0.5) -> TrialRecord:
    return TrialRecord(id=id, recipe=RECIPE, status="done", objective=objective)


class _LateDesk(Desk):
    """A desk whose workers take their jobs themselves."""

    late = True


class _Handed:
    """A Searcher of two jobs, as Tune drives it, and of generations of one job each after them."""

    def __init__(self, work: Path, desk: Desk | None = None, later: int = 0) -> None:
        from autotransfer.search.ray_tune import PolicySearcher

        self.later = [RungJob(id=f"later{n}", recipe=RECIPE) for n in range(later)]
        self.jobs = [RungJob(id=f"t{n}", recipe=RECIPE) for n in (1, 2)]
        self.got: list[list[Record]] = []
        self.told: list[str] = []
        context = Context(
            prepared=cast("Any", SimpleNamespace(train=range(9))), manifest=[], specs={}, weights={}, work=str(work)
        )
        self.context = context
        self.ledger = Ledger(work / "trials.jsonl", work)
        self.searcher = PolicySearcher(self._policy(), context, self.ledger, self._tell, desk)

    def _policy(self) -> Any:
        batch: list[Job] = [*self.jobs]
        self.got.append((yield batch))
        for job in self.later:
            self.got.append((yield [job]))

    def _tell(self, event: str, **facts: Any) -> None:
        self.told.append(facts.get("text", event))

    def ask(self, trial_id: str) -> str:
        """Return the id of the job that a Tune trial is given."""
        return str(json.loads(self.searcher.suggest(trial_id)["job"])["body"]["id"])

    def answer(self, trial_id: str, record: TrialRecord) -> None:
        from autotransfer.codec import to_json

        self.searcher.on_trial_complete(trial_id, {"record": json.dumps(to_json(record))})

    def wait(self, trial_id: str) -> bool:
        """Return whether a Tune trial begins, with no job yet."""
        given = self.searcher.suggest(trial_id)
        assert given in (None, {"job": "", "ticket": trial_id})
        return given is not None

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


def test_a_worker_keeps_a_ticket_while_there_is_less_to_do(tmp_path: Path) -> None:
    desk = _LateDesk()
    one = _Handed(tmp_path, desk, later=2)
    assert [one.wait(i) for i in "abc"] == [True, True, False]  # there was work for two
    assert desk.take("a")
    assert desk.take("b")
    one.answer("a", _record("t1"))
    assert one.wait("c")
    assert desk.take("c") is None  # the other one is still at work
    one.answer("b", _record("t2"))
    assert "later0" in str(desk.take("c"))  # laid there when the generation began, with no new ticket
    assert one.wait("d")
    one.answer("c", _record("later0"))
    assert "later1" in str(desk.take("d"))
    assert one.wait("e")
    one.answer("d", _record("later1"))
    assert one.searcher.over
    assert desk.take("e") is None
    assert len(one.got) == 3


def test_a_worker_that_dies_with_nothing_to_do_is_not_started_for_ever(tmp_path: Path) -> None:
    from ray.tune.search import Searcher

    desk = _LateDesk()
    one = _Handed(tmp_path, desk, later=1)
    for trial, job in (("a", "t1"), ("b", "t2")):
        assert one.wait(trial)
        assert desk.take(trial)
        one.answer(trial, _record(job))
    assert one.wait("c")
    assert desk.take("c")
    assert one.wait("idle")
    one.searcher.on_trial_complete("idle", error=True)
    assert not one.wait("idle again")
    one.searcher.on_trial_complete("c", error=True)  # it had a job: another one takes its place
    assert one.wait("d")
    assert desk.take("d")
    one.answer("d", _record("later0"))
    assert one.searcher.suggest("last") == Searcher.FINISHED
    assert one.searcher.error is None


def test_a_straggler_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autotransfer.search.ray_tune import Ended

    monkeypatch.setattr(desk_module, "_patience", lambda job, rows: 0.0 if job.id == "t1" else 1e9)
    desk = _LateDesk()
    one = _Handed(tmp_path, desk)
    assert [one.wait(i) for i in "ab"] == [True, True]
    assert ["t1" in str(desk.take("a")), "t2" in str(desk.take("b"))] == [True, True]
    one.answer("b", _record("t2"))
    assert one.wait("c")
    assert "t1" in str(desk.take("c"))  # nothing else is left, and its worker takes too long
    assert not Ended(one.searcher).stop_all()
    one.answer("c", _record("t1", 0.6))
    assert one.got == [[_record("t1", 0.6), _record("t2")]]
    assert Ended(one.searcher).stop_all()
    one.answer("a", _record("t1", 0.6))
    assert len(read_ledger(tmp_path / "trials.jsonl")) == 2
