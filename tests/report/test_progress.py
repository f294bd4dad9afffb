"""Progress: lines where the stream is no terminal, a live part where it is one."""

import io
import re

import pytest

from autotransfer.report.progress import Lines, Live, Progress, progress


class Clock:
    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


class Terminal(io.StringIO):
    def isatty(self):
        return True


def tell(shown, run, clock):
    shown("profile", profile=run.profile)
    shown("pool", ids=["acme/net", "acme/late"], refusals=run.plan.refusals[:1])
    shown("download", id="acme/net", bytes=17_000_000)
    clock.time += 100
    shown("survey", record=run.survey[0], done=1, total=2)
    shown("survey", record=run.survey[2], done=2, total=2)
    clock.time += 5
    shown("running", jobs=["t002 acme/net core/partial"])
    for done, record in enumerate(run.trials, 1):
        shown("trial", record=record, done=done, total=4)


def test_lines_tell_every_event(run):
    stream, clock = io.StringIO(), Clock()
    with Lines(stream, budget=60, now=clock) as shown:
        tell(shown, run, clock)
        shown("finish", text="scoring 310 held-out rows")
        shown("saved", path="runs/pets/model")
    text = stream.getvalue()
    for part in (
        "data     pets: 1,240 images",
        "3 images cannot be read",
        "pool     2 backbones: acme/net, acme/late",
        "without hub/gone: its weights are not in the cache",
        "fetch    acme/net, 17 MB",
        "survey   1/2   acme/net closed-form probe .850",
        "survey   2/2   acme/late failed: it hangs",
        "trial    1/4   b001 base/pixels base/logistic accuracy .512 (best so far)",
        "trial    2/4   t002 acme/net core/partial freeze 1/3 accuracy .912 (best so far)",
        "trial    3/4   t003 acme/net core/probe accuracy .861\n",
        "trial    4/4   t004 acme/nan core/full failed: the loss is not finite",
        "finish   scoring 310 held-out rows",
        "saved    runs/pets/model",
    ):
        assert part in text


def test_the_status_has_stage_time_left_best_and_what_runs(run):
    clock = Clock()
    shown = Progress(budget=60, now=clock)
    tell(shown, run, clock)
    first, best, running = shown.status().splitlines()
    assert first == "search 4/4   used 0:05, left 0:55"
    assert best == "best     .912 t002 acme/net core/partial freeze 1/3"
    assert running == "running  t002 acme/net core/partial"


def test_downloads_are_no_part_of_the_time_used(run):
    clock = Clock()
    shown = Progress(now=clock)
    shown("download", id="a/b")
    clock.time = 50
    assert shown.used() == 0
    shown("pool", ids=[], refusals=[])
    clock.time = 57
    assert shown.used() == 7
    assert "left" not in shown.status()


def test_a_trial_without_a_known_total_is_counted_alone(run):
    stream = io.StringIO()
    Lines(stream)("trial", record=run.trials[0], done=1)
    assert "trial    1   b001" in stream.getvalue()


def test_errors_are_shown_in_the_metrics_own_sign(of_numbers):
    stream = io.StringIO()
    shown = Lines(stream)
    shown("profile", profile=of_numbers.profile)
    shown("trial", record=of_numbers.trials[1], done=1, total=1)
    assert "rmse .088 (best so far)" in stream.getvalue()


def test_an_unknown_event_is_an_error():
    with pytest.raises(AttributeError, match="on_trail"):
        Progress()("trail")


def test_a_live_display_keeps_lines_and_shows_the_status(run, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream, clock = Terminal(), Clock()
    shown = Live(stream, budget=60, now=clock)
    with shown:
        tell(shown, run, clock)
        shown.display.refresh()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "trial    2/4   t002 acme/net core/partial freeze 1/3 accuracy .912 (best so far)" in text
    assert "used 0:05, left 0:55" in text
    assert "running  t002 acme/net core/partial" in text


def test_the_kind_follows_the_stream():
    assert isinstance(progress(Terminal()), Live)
    assert isinstance(progress(io.StringIO()), Lines)
    quiet = progress(io.StringIO(), plain=False)
    assert type(quiet) is Progress
