"""Which job a worker takes: one whose data lie near."""

from __future__ import annotations

import pytest

from autotransfer.schema import Recipe
from autotransfer.search import desk as desk_module
from autotransfer.search.desk import Desk, Offer, offer_of
from autotransfer.search.jobs import RungJob, SurveyJob


def _offers(*backbones: str, rung: int = 0) -> list[Offer]:
    recipes = [Recipe(backbone=b, strategy="c/d") for b in backbones]
    return [offer_of(RungJob(id=f"t{n}", recipe=r, rung=rung), f"{r.backbone} {n}") for n, r in enumerate(recipes)]


def _surveyed(*places: tuple[str, str]) -> Desk:
    """Return a desk at which nodes have surveyed backbones."""
    desk = Desk()
    jobs = [SurveyJob(backbone=backbone, rows=1) for backbone, _ in places]
    for number, (job, (_, node)) in enumerate(zip(jobs, places, strict=True)):
        desk.offer([offer_of(job, job.backbone)], [f"s{number}"])
        assert desk.take(f"s{number}", node, f"worker on {node}") == job.backbone
    return desk


def test_a_worker_takes_the_first_job_whose_backbone_its_node_has() -> None:
    desk = _surveyed(("a/one", "north"), ("a/two", "south"))
    desk.offer(_offers("a/one", "a/two", "a/two"), ["x", "y", "z"])
    assert desk.take("x", "south", "s") == "a/two 1"
    assert desk.take("y", "north", "n") == "a/one 0"
    assert desk.take("z", "north", "n") == "a/two 2"  # better than to wait for its own node


def test_what_no_node_has_comes_before_what_another_has() -> None:
    desk = _surveyed(("a/one", "north"))
    desk.offer(_offers("a/one", "a/new"), ["x"])
    assert desk.take("x", "south", "s") == "a/new 1"


def test_a_trial_goes_on_in_the_worker_that_has_it_in_memory() -> None:
    desk = _surveyed(("a/one", "north"))
    desk.offer(_offers("a/one", "a/one"), ["x", "y"])
    assert [desk.take("x", "north", "first"), desk.take("y", "north", "second")] == ["a/one 0", "a/one 1"]
    desk.offer(_offers("a/one", "a/one", rung=1), ["v", "w"])
    assert desk.take("v", "north", "second") == "a/one 1"
    assert desk.take("w", "north", "first") == "a/one 0"


def test_a_ticket_has_one_job_and_a_job_one_ticket() -> None:
    desk = Desk()
    first, second = _offers("a/one", "a/two")
    desk.offer([first, second], ["x", "y"])
    assert desk.take("x") == desk.take("x") == first.text
    assert desk.take("y") == second.text
    assert desk.take("z") is None
    assert (desk.taken("x"), desk.taken("z")) == (first.key, None)
    assert desk.offer([first, second], ["y"]) == {"y": second.key}  # the worker with x died
    assert desk.take("z") == first.text


def test_it_tells_who_keeps_an_entry() -> None:
    desk = Desk()
    desk.keep("key", "north", "/store")
    assert desk.keeper("key") == ("north", "/store")
    assert desk.keeper("other") is None


def test_a_job_that_takes_too_long_is_tried_by_an_idle_worker_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(desk_module.time, "monotonic", lambda: now[0])
    slow = RungJob(id="t1", recipe=Recipe(backbone="a/one", strategy="c/d"), until=5, passed=(2,), row_seconds=0.01)
    other = RungJob(id="t2", recipe=Recipe(backbone="a/two", strategy="c/d", values={"epochs": 10}), row_seconds=0.001)
    patience = [offer_of(j, j.id, rows=1000).patience for j in (slow, other)]
    assert patience == pytest.approx([3 * 4 * 3 * 1000 * 0.01, 3 * 4 * 10 * 1000 * 0.005])
    assert offer_of(slow, "", rows=10).patience == 120.0
    assert offer_of(SurveyJob(backbone="a/one", rows=9), "", rows=9).patience == float("inf")

    desk, offers = Desk(), [offer_of(j, j.id, rows=1000) for j in (slow, other)]
    desk.offer(offers, ["x", "y", "z", "w"])
    assert [desk.take("x", "north", "n"), desk.take("y", "south", "s")] == ["t1", "t2"]
    now[0] = patience[0]
    assert desk.take("z", "east", "e") is None
    now[0] += 1.0
    assert desk.take("z", "east", "e") == "t1"
    assert desk.take("w", "west", "w") is None  # two are enough
    assert desk.offer(offers[1:], ["x", "y", "w"]) == {"y": other.key}  # the backup was first
    assert desk.taken("x") is None
