"""One head on all depths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autotransfer.search.transferability import concatenated, judge, multi_depth
from autotransfer.tasks import make_task


def _depths(rows: int = 120) -> tuple[list[Tensor], Tensor]:
    """Three depths, of very different size; the first and the last tell the two halves of the class apart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (rows,), generator=generator)
    noise = [torch.randn(rows, w, generator=generator) for w in (12, 30, 8)]
    noise[0][:, 3] += 3.0 * (labels % 2)
    noise[2][:, 5] += 3.0 * (labels // 2)
    return [noise[0] * 1e-3, noise[1], noise[2].mul(1e3).half()], labels


def test_rows_have_unit_length_at_each_depth() -> None:
    depths, _ = _depths()
    joined = concatenated(depths)
    assert joined.shape == (120, 50)
    assert joined.dtype == torch.float32
    for part in joined.split([12, 30, 8], 1):
        torch.testing.assert_close(part.norm(dim=1), torch.ones(120))
    assert not concatenated([torch.zeros(2, 3)]).any()
    torch.testing.assert_close(concatenated([torch.full((1, 4), 1e38)]), torch.full((1, 4), 0.5))


def test_all_depths_together_beat_each_alone() -> None:
    depths, labels = _depths()
    task = make_task("multiclass", labels.tolist())
    found = multi_depth(depths, labels, task)
    assert found.score > max(judge(f, labels, task).score for f in depths) + 0.1


def test_the_head_is_on_all_features_and_0_on_those_left_out() -> None:
    depths, labels = _depths()
    task = make_task("multiclass", labels.tolist())
    found = multi_depth(depths, labels, task, keep=(0.1,))
    assert found.head.weight.shape == (4, 50)
    assert len(found.chosen) == 5
    assert {3, 47} <= set(found.chosen.tolist())
    out = torch.ones(50, dtype=torch.bool)
    out[found.chosen] = False
    assert not found.head.weight[:, out].any()
    outputs = concatenated(depths) @ found.head.weight.T + found.head.bias
    assert task.objective(task.scores(outputs, labels)) > 0.75  # chance is 0.25


def test_features_chosen_by_chance_do_not_look_good() -> None:
    generator = torch.Generator().manual_seed(1)
    noise = [torch.randn(60, 400, generator=generator)]
    labels = torch.arange(60) % 2
    task = make_task("binary", labels.tolist())
    found = multi_depth(noise, labels, task, keep=(0.05,))
    own = task.objective(task.scores(found.ridge.logits.float(), labels))
    assert own > 0.8  # what a careless estimate would say
    assert found.score < 0.7


def test_all_features_are_scored_by_plain_leave_one_out() -> None:
    depths, labels = _depths()
    task = make_task("multiclass", labels.tolist())
    found = multi_depth(depths, labels, task, keep=(1.0,))
    assert found.chosen.tolist() == list(range(50))
    assert found.score == judge(concatenated(depths), labels, task).score


def test_numbers_and_labels_work_too() -> None:
    depths, labels = _depths()
    sets = [["a"] * int(v % 2) + ["b"] * int(v // 2) for v in labels.tolist()]
    for name, values in (("multilabel", sets), ("regression", labels.double().tolist())):
        task = make_task(name, values)
        found = multi_depth(depths, task.encode(values), task)
        assert found.head.weight.shape == (task.outputs, 50)
        assert found.score > (0.8 if name == "multilabel" else -0.9)


def test_what_cannot_be_joined_is_refused() -> None:
    depths, labels = _depths()
    task = make_task("multiclass", labels.tolist())
    with pytest.raises(ValueError, match=r"\[2, 3\] rows"):
        concatenated([torch.zeros(2, 1), torch.zeros(3, 1)])
    with pytest.raises(ValueError, match=r"\[\] rows"):
        concatenated([])
    for keep in ((), (0.0,), (1.0, 1.5)):
        with pytest.raises(ValueError, match="shares"):
            multi_depth(depths, labels, task, keep=keep)
    with pytest.raises(ValueError, match="3 rows"):
        multi_depth([f[:3] for f in depths], labels[:3], task)
