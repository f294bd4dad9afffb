"""Every estimate at once, on every task and in every corner."""

from __future__ import annotations

import math
import resource
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from autotransfer.errors import PluginContractError
from autotransfer.search.transferability import Judgement, judge
from autotransfer.tasks import make_task
from autotransfer.tasks.multiclass import Multiclass


def sound(found: Judgement, rows: int) -> None:
    """Every number is one."""
    assert found.loss_per_row.shape == (rows,)
    for values in (found.loss_per_row, found.ridge.left_out, found.ridge.weight, found.ridge.logits):
        assert values.isfinite().all()
    head = found.ridge.head()
    assert head.weight.isfinite().all()
    assert head.bias.isfinite().all()
    assert all(map(math.isfinite, (found.score, found.hscore, found.knn, found.linear, found.ridge.temperature)))
    assert found.logme is None or math.isfinite(found.logme)


def _values(name: str, x: Tensor) -> list[Any]:
    return {
        "binary": (x[:, 0] > 0).long().tolist(),
        "multiclass": x[:, :3].argmax(1).tolist(),
        "multilabel": [[c for c, v in zip("abc", row, strict=True) if v > 0.3] for row in x[:, :3].tolist()],
        "regression": (x[:, 0] - x[:, 1]).double().tolist(),
    }[name]


@pytest.mark.parametrize("name", ["binary", "multiclass", "multilabel", "regression"])
def test_good_features_beat_noise_in_every_estimate(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    # Mixed, for an H-score of white features is 0.
    mix = torch.eye(6) + 0.5
    x, noise = (torch.randn(150, 6, generator=generator) @ mix for _ in range(2))
    task = make_task(name, _values(name, x))
    targets = task.encode(_values(name, x))
    good, bad = judge(x, targets, task), judge(noise, targets, task)
    for found in (good, bad):
        sound(found, 150)
        assert float(found.loss_per_row.mean()) == pytest.approx(
            float(task.loss(found.ridge.logits.float(), targets)), rel=1e-5
        )
    assert good.score > bad.score
    assert good.loss_per_row.mean() < bad.loss_per_row.mean()
    assert good.logme is not None
    assert bad.logme is not None
    assert good.logme > bad.logme
    assert good.hscore > bad.hscore
    assert good.knn > bad.knn
    assert good.linear > bad.linear


def test_where_classes_count_alike_the_score_is_that_of_even_logits() -> None:
    draws = torch.Generator().manual_seed(0)
    targets = (torch.arange(600) % 20 == 0).long()
    features = 1.5 * targets[:, None] + torch.randn(600, 4, generator=draws)
    even, plain = (make_task("binary", ["a", "b"], m) for m in ("balanced_accuracy", "accuracy"))
    found, same = judge(features, targets, even), judge(features, targets, plain)
    adjusted = found.ridge.logits.float() - torch.tensor([0.95, 0.05]).log()
    assert found.score == even.scores(adjusted, targets)["balanced_accuracy"]
    assert found.score > even.scores(found.ridge.logits.float(), targets)["balanced_accuracy"] + 0.05
    assert same.score == plain.scores(same.ridge.logits.float(), targets)["accuracy"]
    assert torch.equal(found.loss_per_row, same.loss_per_row)


def _noise(rows: int, width: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(rows + width))


CORNERS: dict[str, Tensor] = {
    "constant": torch.ones(24, 5),
    "zero": torch.zeros(24, 5),
    "one constant column": torch.cat([torch.ones(24, 1), _noise(24, 4)], 1),
    "duplicated rows": _noise(2, 5).repeat(12, 1),
    "wide": _noise(24, 300),
    "huge": _noise(24, 5) * 1e30,
    "small": _noise(24, 5) * 1e-25,
    "mixed scales": _noise(24, 5) * torch.tensor([1e-20, 1e-3, 1.0, 1e6, 1e20]),
    "float16": _noise(24, 5).half(),
    "float16 near its end": (_noise(24, 5) * 1e4).half(),
    "bfloat16": _noise(24, 5).bfloat16(),
}


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("name", ["binary", "multiclass", "multilabel", "regression"])
def test_corners_of_the_features_give_numbers(corner: str, name: str) -> None:
    values = _values(name, torch.randn(24, 5, generator=torch.Generator().manual_seed(1)))
    task = make_task(name, values)
    sound(judge(CORNERS[corner], task.encode(values), task), 24)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_the_unit_of_the_features_does_not_change_the_judgement(scale: float) -> None:
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(2))
    values = _values("multiclass", x)
    task = make_task("multiclass", values)
    targets = task.encode(values)
    one, other = judge(x, targets, task), judge(x * scale, targets, task)
    assert other.score == one.score
    torch.testing.assert_close(other.loss_per_row, one.loss_per_row, rtol=1e-4, atol=1e-5)
    assert (other.logme, other.hscore) == pytest.approx((one.logme, one.hscore), rel=1e-4)


@pytest.mark.parametrize(
    "labels",
    [
        [0, 1, 2],
        [0, 0, 1],
        [2, 2, 2],
        [0, 0, 0, 0, 0, 0, 0, 1],
        [2, 2, 2, 2, 1, 1, 1, 2],
    ],
    ids=["three rows, three classes", "three rows", "one class", "one row in a class", "the first class is absent"],
)
@pytest.mark.parametrize("width", [2, 20])
def test_corners_of_the_classes_give_numbers(labels: list[int], width: int) -> None:
    task = Multiclass([0, 1, 2])
    x = torch.randn(len(labels), width, generator=torch.Generator().manual_seed(3))
    found = judge(x, torch.tensor(labels), task)
    sound(found, len(labels))
    assert (found.logme is None) == (len(set(labels)) == 1)


def test_a_label_that_no_row_has_and_one_that_all_have() -> None:
    task = make_task("multilabel", [["a", "b", "c"]])
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(4))
    targets = torch.stack([torch.zeros(12), torch.ones(12), torch.arange(12) % 2], 1)
    sound(judge(x, targets, task), 12)


def test_thousands_of_classes_are_judged_in_bounded_time_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(6000) % 5000
    centres = torch.randn(5000, 24, generator=generator)
    x = centres[labels] + 0.05 * torch.randn(6000, 24, generator=generator)
    task = Multiclass(range(5000))
    # The metrics of 5,000 classes are the task's own affair; here its accuracy will do.
    monkeypatch.setattr(
        task, "scores", lambda outputs, targets: {"accuracy": float((outputs.argmax(1) == targets).double().mean())}
    )
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = judge(x, labels, task)
    assert time.process_time() - began < 30
    # 240 MB a matrix; the targets, the predictions and the logits are three.
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 7 * 6000 * 5000 * 8
    sound(found, 6000)
    assert float(found.loss_per_row.mean()) < math.log(5000)


def test_what_cannot_be_judged_is_refused() -> None:
    task = Multiclass([0, 1])
    with pytest.raises(ValueError, match="3 rows of features and 2 targets"):
        judge(torch.zeros(3, 2), torch.tensor([0, 1]), task)
    with pytest.raises(ValueError, match="two or more rows"):
        judge(torch.zeros(1, 2), torch.tensor([0]), task)
    with pytest.raises(PluginContractError, match="not finite"):
        judge(torch.tensor([[1.0], [float("inf")]]), torch.tensor([0, 1]), task)


def test_a_judge_of_groups_predicts_each_from_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(20).repeat_interleave(6)
    x = torch.randn(20, 12, generator=generator)[groups] * 3 + 0.1 * torch.randn(120, 12, generator=generator)
    values = [int(v) for v in groups % 2]
    task = make_task("binary", values)
    alone, whole = (judge(x, task.encode(values), task, g) for g in (None, groups))
    sound(whole, 120)
    assert alone.score - whole.score > 0.2
    assert alone.knn - whole.knn > 0.2
