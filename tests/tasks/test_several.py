"""Several targets as one task: encoding with missing labels, losses, skill, intervals, JSON."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from autotransfer.errors import DataError, ModelError
from autotransfer.tasks import Several, from_json, make_task
from autotransfer.tasks.answers import first, told_rows
from autotransfer.tasks.judged import deciding, evaluation, scores_of
from autotransfer.tasks.several import constant

KIND = ["cat", "dog", "dog", "owl"]
AGE = [1.0, 2.0, 3.0, 6.0]
TAGS = ["a|b", "b", "", "a"]
ROWS: list[Any] = [("cat", 1.0, "a|b"), ("dog", None, "b"), (None, 3.0, None), ("owl", 6.0, "a")]


def several(**metrics: str) -> Several:
    kinds = {"kind": ("multiclass", KIND), "age": ("regression", AGE), "tags": ("multilabel", TAGS)}
    return Several({n: make_task(kind, values, metrics.get(n)) for n, (kind, values) in kinds.items()})


@pytest.fixture
def task() -> Several:
    return several()


@pytest.fixture
def outputs() -> Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def test_targets_are_one_matrix_with_nan_for_missing_labels(task: Several) -> None:
    encoded = task.encode(ROWS)
    assert encoded.dtype == torch.float32
    assert encoded.shape == (4, 4)
    scale, mean = np.std(AGE), np.mean(AGE)
    wanted = [
        [0, (1 - mean) / scale, 1, 1],
        [1, math.nan, 0, 1],
        [math.nan, (3 - mean) / scale, math.nan, math.nan],
        [2, (6 - mean) / scale, 1, 0],
    ]
    assert torch.allclose(encoded, torch.tensor(wanted, dtype=torch.float32), equal_nan=True)
    kind, age, tags = task.parts
    assert [p.labelled(encoded)[0].tolist() for p in task.parts] == [[0, 1, 3], [0, 2, 3], [0, 1, 3]]
    assert kind.labelled(encoded)[1].tolist() == [0, 1, 2]
    assert kind.labelled(encoded)[1].dtype == torch.int64
    assert age.labelled(encoded)[1].shape == (3, 1)
    assert tags.labelled(encoded)[1].tolist() == [[1, 1], [0, 1], [1, 0]]
    assert (task.outputs, [p.outputs for p in task.parts]) == (6, [slice(0, 3), slice(3, 4), slice(4, 6)])


def test_the_loss_is_the_sum_of_means_over_the_labelled_rows(task: Several, outputs: Tensor) -> None:
    encoded = task.encode(ROWS)
    logits = outputs.double().numpy()
    kind = [0, 1, 3]
    entropy = np.mean(
        [np.log(np.exp(logits[r, :3]).sum()) - logits[r, c] for r, c in zip(kind, (0, 1, 2), strict=True)]
    )
    squares = np.mean([(logits[r, 3] - float(encoded[r, 1])) ** 2 for r in (0, 2, 3)])
    truth = np.array([[1, 1], [0, 1], [1, 0]])
    chance = 1 / (1 + np.exp(-logits[kind, 4:]))
    binary = -np.mean(truth * np.log(chance) + (1 - truth) * np.log(1 - chance))
    assert [float(v) for v in task.losses(outputs, encoded)] == pytest.approx([entropy, squares, binary], rel=1e-5)
    assert float(task.loss(outputs, encoded)) == pytest.approx(entropy + squares + binary, rel=1e-5)


def test_rows_without_a_label_get_no_gradient_from_it(task: Several, outputs: Tensor) -> None:
    leaf = outputs.clone().requires_grad_()
    task.loss(leaf, task.encode(ROWS)).backward()
    assert leaf.grad is not None
    there = (leaf.grad != 0).tolist()
    assert there[1][3] is False
    assert there[2] == [False, False, False, True, False, False]
    assert all(there[0])


def test_a_batch_without_any_label_of_a_target_has_no_loss_for_it(task: Several, outputs: Tensor) -> None:
    encoded = task.encode([(None, 1.0, None), (None, 2.0, None)])
    losses = task.losses(outputs[:2].clone().requires_grad_(), encoded)
    assert [v.item() for v in losses][0::2] == [0.0, 0.0]
    assert losses[1].item() > 0
    losses[0].backward()  # it can be gone through all the same


def test_scores_are_those_of_each_task_on_its_rows(task: Several, outputs: Tensor) -> None:
    encoded = task.encode(ROWS)
    each = scores_of(task, outputs, encoded)
    single = make_task("multiclass", KIND)
    assert each["kind"] == single.scores(outputs[[0, 1, 3], :3], torch.tensor([0, 1, 2]))
    flat = task.scores(outputs, encoded)
    assert flat["age.rmse"] == each["age"]["rmse"]
    assert task.objective(flat) == deciding(task, outputs, encoded) == flat["skill"]
    assert evaluation(task, outputs, encoded).value == flat["skill"]


@pytest.mark.parametrize(
    ("kind", "values", "metric", "wanted"),
    [
        ("multiclass", list("aaab"), "accuracy", 0.75),
        ("multiclass", list("aaab"), "balanced_accuracy", 0.5),
        ("multiclass", list("aabb"), "log_loss", -math.log(2)),
        ("multiclass", list("aaab"), "roc_auc", 0.5),
        ("regression", [0.0, 2.0], "rmse", -1.0),
        ("regression", [0.0, 2.0, 4.0, 6.0], "mae", -2.0),
        ("regression", [0.0, 2.0], "r2", 0.0),
        ("multilabel", [["a"], ["a", "b"], ["a"]], "f1", 0.5),
    ],
)
def test_the_constant_predictor_of_each_metric(kind: str, values: list[Any], metric: str, wanted: float) -> None:
    made = make_task(kind, values, metric)
    assert constant(made, made.encode(values)) == pytest.approx(wanted, abs=1e-6)


def test_skill_is_0_for_the_constant_and_1_for_the_best() -> None:
    task = several(age="mae")
    rows = [(k, a, t) for k, a, t in zip(KIND, AGE, TAGS, strict=True)]
    judged = task.judged(task.encode(rows))
    perfect = torch.full((4, 6), -30.0)
    encoded = judged.encode(rows)
    for i, label in enumerate((0, 1, 1, 2)):
        perfect[i, label] = 30.0
    perfect[:, 3] = encoded[:, 1]
    perfect[:, 4:] = 60 * encoded[:, 2:] - 30
    assert deciding(judged, perfect, encoded) == pytest.approx(1.0, abs=1e-6)
    plain = torch.tensor([0.0, 5.0, 0.0, 0.0, 0.1, 0.1]).expand(4, 6)
    assert deciding(judged, plain, encoded) == pytest.approx(0.0, abs=1e-6)


def test_a_target_without_labels_has_no_say(task: Several, outputs: Tensor) -> None:
    encoded = task.encode([(None, None, "a"), (None, None, "b"), (None, None, "a|b"), (None, None, "a")])
    alone = make_task("multilabel", TAGS)
    assert task.scores(outputs, encoded)["skill"] == alone.scores(outputs[:, 4:], encoded[:, 2:])["f1"]
    found = evaluation(task, outputs.repeat(2, 1), encoded.repeat(2, 1))
    assert found.low <= found.value <= found.high
    assert math.isnan(found.each["age"].value)
    assert found.each["age"].rows == 0
    none = task.encode([(None, None, None)])
    assert task.objective(task.scores(outputs[:1], none)) == float("-inf")


def test_the_interval_holds_the_skill_and_narrows_with_rows() -> None:
    rng = np.random.default_rng(0)
    task = Several({"kind": make_task("binary", list("ab")), "size": make_task("regression", [-1.0, 1.0])})
    widths = []
    for count in (40, 640):
        kind, size = rng.integers(0, 2, count), rng.normal(size=count)
        rows = [("ab"[k], s if i % 3 else None) for i, (k, s) in enumerate(zip(kind, size, strict=True))]
        encoded = task.encode(rows)
        judged = task.judged(encoded)
        logits = torch.tensor(np.stack([-kind, kind, size], 1) + rng.normal(size=(count, 3)), dtype=torch.float32)
        found = evaluation(judged, logits, encoded)
        assert found.low < found.value < found.high
        assert found.each["size"].rows == int(encoded[:, 1].isfinite().sum())
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 2


def test_the_survey_fits_a_mean_where_a_label_is_missing(task: Several) -> None:
    wanted = task.survey_target(task.encode(ROWS))
    assert wanted.shape == (4, 6)
    assert wanted[2, :3].tolist() == pytest.approx([1 / 3] * 3)
    assert wanted[0].tolist()[:3] == [1, 0, 0]
    assert float(wanted[1, 3]) == pytest.approx(float(wanted[[0, 2, 3], 3].mean()))


def test_answers_are_a_column_a_target(task: Several, outputs: Tensor) -> None:
    found = task.decode(outputs)
    assert isinstance(found, pd.DataFrame)
    assert list(found.columns) == ["kind", "age", "tags"]
    assert found["kind"].tolist() == [["cat", "dog", "owl"][i] for i in outputs[:, :3].argmax(1)]
    assert found["age"].to_numpy() == pytest.approx(outputs[:, 3].numpy() * np.std(AGE) + np.mean(AGE), rel=1e-6)
    chances = task.probabilities(outputs)
    assert {n: c.shape for n, c in chances.items()} == {"kind": (4, 3), "tags": (4, 2)}
    told = told_rows(task, outputs)
    assert told[0]["prediction"] == first(found)
    assert set(told[0]["probability"]) == {"kind"}
    assert set(told[0]["probabilities"]["tags"]) == {"a", "b"}


def test_numbers_alone_have_no_probabilities() -> None:
    task = Several({n: make_task("regression", AGE) for n in "ab"})
    with pytest.raises(DataError, match="numbers have no probabilities"):
        task.probabilities(torch.zeros(2, 2))


def test_labels_json_both_ways(task: Several) -> None:
    judged = task.judged(task.encode(ROWS))
    again = from_json(judged.to_json())
    assert isinstance(again, Several)
    assert again.to_json() == judged.to_json()
    assert [p.floor for p in again.parts] == [p.floor for p in judged.parts]
    assert torch.equal(again.encode(ROWS).nan_to_num(9), task.encode(ROWS).nan_to_num(9))


@pytest.mark.parametrize(
    "change",
    [
        {"targets": []},
        {"targets": [{"target": "kind"}]},
        {"targets": 3},
        {"metric": "skill"},
        {"targets": [{"target": "kind", "floor": math.nan, "labels": make_task("binary", ["a", "b"]).to_json()}]},
    ],
)
def test_altered_labels_are_refused(task: Several, change: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="not what several targets wrote"):
        from_json({**task.to_json(), **change})


def test_unknown_labels_of_all_targets_at_once(task: Several) -> None:
    with pytest.raises(DataError) as caught:
        task.encode([("fox", "old", "a"), ("cat", 1.0, "z")])
    assert all(text in str(caught.value) for text in ("kind: 1 of 2 labels", "'fox'", "age: 1 of 2", "tags: ", "'z'"))
