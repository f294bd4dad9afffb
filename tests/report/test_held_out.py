"""What is told of the held-out rows: from given outputs, on rows of every modality."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from autotransfer.data import prepare
from autotransfer.data.modalities import modality
from autotransfer.report.held_out import CASES, held_out

RNG = np.random.default_rng(0)


def pictures(labels: Any) -> Any:
    return prepare((RNG.integers(0, 255, (len(labels), 8, 12, 3), dtype=np.uint8), labels), metric=None)


def test_classes_are_told_from_the_outputs_alone() -> None:
    prepared = pictures(np.array(["a", "b", "c"])[np.arange(60) % 3])
    truth = prepared.targets[torch.from_numpy(prepared.test)]
    outputs = torch.nn.functional.one_hot(truth, 3) * 4.0
    outputs[0] = torch.tensor([0.0, 9.0, 0.0]) if truth[0] != 1 else torch.tensor([9.0, 0.0, 0.0])
    outputs[1] = torch.tensor([1.0, 1.0, 1.0]) + outputs[1] * 1e-3
    told = held_out(prepared, outputs)
    assert told is not None
    assert told.rows == len(prepared.test)
    assert told.confusion is not None
    assert told.confusion.trace() == told.rows - 1
    assert told.confusion.sum(1).tolist() == np.bincount(truth.numpy(), minlength=3).tolist()
    worst = told.worst[0]
    assert (worst.name, worst.right) == (prepared.dataset.row_name(int(prepared.test[0])), False)
    assert worst.truth == "abc"[truth[0]]
    assert worst.answer == worst.chances[0][0] == "abc"[outputs[0].argmax()]
    assert worst.loss == pytest.approx(9.0, abs=1e-3)
    assert told.worst[1].name == prepared.dataset.row_name(int(prepared.test[1]))
    names = [c.name for c in (*told.worst, *told.uncertain)]
    assert len(names) == len(set(names)) == min(told.rows, 2 * CASES)


def test_labels_are_told_each_for_itself() -> None:
    prepared = pictures([["x"], ["y"], ["x", "y"], ["y"]] * 15)
    truth = prepared.targets[torch.from_numpy(prepared.test)]
    told = held_out(prepared, (truth - 0.5) * 6)
    assert told is not None
    assert told.confusion is None
    assert [p.f1 for p in told.per_class] == [1.0, 1.0]
    assert told.calibration is not None
    assert sum(b.count for b in told.calibration.bins) == 2 * told.rows
    assert told.calibration.error == pytest.approx(1 / (1 + np.exp(3)))
    assert {c.truth for c in told.worst} <= {"x", "y", "x, y"}
    none = held_out(prepared, torch.full_like(truth, -5.0))
    assert none is not None
    assert {c.answer for c in none.worst} == {"no label"}


def test_numbers_are_told_in_their_own_unit() -> None:
    prepared = pictures(np.linspace(100.0, 200.5, 60))
    outputs = prepared.targets[torch.from_numpy(prepared.test)].clone()
    outputs[3] += 1.0
    told = held_out(prepared, outputs)
    assert told is not None
    assert told.actual is not None
    assert told.predicted is not None
    off = told.predicted - told.actual
    assert off.argmax() == 3
    assert told.worst[0].loss == pytest.approx(prepared.task.scale, rel=1e-4)
    assert told.worst[0].right is None
    assert (told.calibration, told.uncertain) == (None, ())


def test_a_row_that_cannot_be_shown_says_why_and_costs_nothing_else() -> None:
    prepared = pictures(np.array(["a", "b"])[np.arange(40) % 2])
    load = prepared.dataset.load

    def broken(index: int) -> Any:
        if index == prepared.test[0]:
            raise RuntimeError("the disk is <gone>")
        return load(index)

    prepared.dataset.load = broken
    told = held_out(prepared, torch.zeros(len(prepared.test), 2))
    assert told is not None
    shown = {c.name: c.shown for c in (*told.worst, *told.uncertain)}
    first = shown.pop(prepared.dataset.row_name(int(prepared.test[0])))
    assert (first.media, first.text) == ("", "not shown: RuntimeError: the disk is <gone>")
    assert {s.media for s in shown.values()} == {"image/jpeg"}


def test_without_held_out_rows_nothing_is_told() -> None:
    prepared = pictures(np.array(["a", "b"])[np.arange(40) % 2])
    prepared.test = prepared.test[:0]
    assert held_out(prepared, torch.zeros(0, 2)) is None


def test_every_modality_shows_its_rows_small() -> None:
    image = modality("image").shown(RNG.integers(0, 255, (900, 600, 3), dtype=np.uint8))
    assert image.text == "600 x 900"
    with Image.open(io.BytesIO(image.body)) as small:
        assert (small.format, small.size) == ("JPEG", (107, 160))
    assert len(image.body) < 20_000
    text = modality("text").shown("word " * 1000)
    assert text.text.endswith("... (5,000 characters)")
    assert len(text.text) < 650
    assert modality("text").shown("short").text == "short"
    wave = np.sin(np.arange(44_100 * 20) / 20).astype(np.float32)
    clip = modality("audio").shown((wave, 44_100))
    assert (clip.text, clip.media) == ("20.00 s, 44100 Hz", "audio/mpeg")
    heard, rate = soundfile.read(io.BytesIO(clip.body))
    assert rate == 16_000
    assert len(heard) / rate == pytest.approx(6.0, abs=0.2)
    assert len(clip.body) < 40_000


@pytest.mark.parametrize("kind", ["image", "text", "audio"])
def test_odd_rows_are_shown_too(kind: str) -> None:
    for odd in modality(kind).odd().values():
        shown = modality(kind).shown(odd)
        assert shown.body or kind == "text"
