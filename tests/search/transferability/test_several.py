"""What features say of several targets: each judged alone on the rows with its label, then merged."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from autotransfer.search.transferability import judge
from autotransfer.tasks import Several, make_task


def made(rows: int = 80) -> tuple[Tensor, list[Any], Several]:
    """Features, labels of which some lack, and the task."""
    x = torch.randn(rows, 5, generator=torch.Generator().manual_seed(0))
    kinds = ["abc"[i] for i in x[:, :3].argmax(1)]
    sizes = (x[:, 3] - x[:, 4]).tolist()
    labels = [(k if i % 3 else None, s if i % 4 else None) for i, (k, s) in enumerate(zip(kinds, sizes, strict=True))]
    task = Several({"kind": make_task("multiclass", list("abc")), "size": make_task("regression", sizes)})
    return x, labels, task.judged(task.encode(labels))


def test_each_target_is_judged_on_the_rows_with_its_label() -> None:
    x, labels, task = made()
    targets, parts = task.encode(labels), []
    for part in task.parts:
        rows, own = part.labelled(targets)
        parts.append((part, rows, judge(x[rows], own, part.task)))
    found = judge(x, targets, task)
    assert found.score == pytest.approx(sum(p.skill(j.score) for p, _, j in parts) / 2)
    assert found.hscore == pytest.approx(sum(j.hscore for _, _, j in parts) / 2)
    assert found.knn == pytest.approx(sum(j.knn for _, _, j in parts) / 2)
    assert torch.equal(found.head.weight, torch.cat([j.head.weight for _, _, j in parts]))
    losses = torch.zeros(80, dtype=torch.float64)
    for _, rows, own in parts:
        losses[rows] += own.loss_per_row * 80 / len(rows)
    assert torch.allclose(found.loss_per_row, losses)
    assert float(found.loss_per_row.mean()) == pytest.approx(sum(float(j.loss_per_row.mean()) for _, _, j in parts))


def test_with_all_labels_one_target_of_several_is_that_target() -> None:
    x, _, _ = made()
    values = [float(v) for v in x[:, 0] * 2]
    alone = make_task("regression", values)
    task = Several({"size": alone}).judged(Several({"size": alone}).encode([(v,) for v in values]))
    found, wanted = judge(x, task.encode([(v,) for v in values]), task), judge(x, alone.encode(values), alone)
    assert torch.equal(found.head.weight, wanted.head.weight)
    assert torch.equal(found.loss_per_row, wanted.loss_per_row)
    assert found.logme == wanted.logme


def test_groups_are_those_of_the_labelled_rows() -> None:
    x, labels, task = made()
    targets, groups = task.encode(labels), torch.arange(80) // 8
    found = judge(x, targets, task, groups)
    rows, own = task.parts[0].labelled(targets)
    assert torch.equal(found.head.weight[:3], judge(x[rows], own, task.parts[0].task, groups[rows]).head.weight)


def test_a_target_with_next_to_no_labels_has_no_say() -> None:
    x, labels, task = made()
    few = [(k, s if i in (1, 2) else None) for i, (k, s) in enumerate(labels)]
    found = judge(x, task.encode(few), task)
    kind = task.parts[0]
    rows, own = kind.labelled(task.encode(few))
    assert found.score == pytest.approx(kind.skill(judge(x[rows], own, kind.task).score))
    assert not found.head.weight[3].any()
    none = judge(x, task.encode([(None, None)] * 80), task)
    assert none.score == -math.inf
    assert none.logme is None
    assert not none.head.weight.any()


def test_good_features_beat_noise() -> None:
    x, labels, task = made()
    targets = task.encode(labels)
    noise = torch.randn(80, 5, generator=torch.Generator().manual_seed(1))
    good, bad = judge(x, targets, task), judge(noise, targets, task)
    assert good.score > 0.4 > bad.score
    assert good.logme is not None
    assert bad.logme is not None
    assert good.logme > bad.logme
    assert good.loss_per_row.mean() < bad.loss_per_row.mean()
