"""Tasks: encoding, loss and decoding of each, guessing one, and JSON both ways."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from autotransfer.errors import ConfigError, DataError, ModelError
from autotransfer.protocols import Task
from autotransfer.tasks import METRICS, TASKS, from_json, guess_task, label_sets, make_task, plain

VALUES: dict[str, list[Any]] = {
    "binary": ["no", "yes", "no"],
    "multiclass": [3, 1, 2, 1],
    "multilabel": [["a", "b"], [], ["c"]],
    "regression": [10.0, 20.0, 60.0],
}


def perfect(task: Task, values: list[Any]) -> torch.Tensor:
    """Outputs that decode to the values."""
    target = task.survey_target(task.encode(values)).float()
    return target if task.name == "regression" else 20 * target - 10


@pytest.mark.parametrize("name", TASKS)
class TestEveryTask:
    def test_json_gives_the_same_task(self, name: str) -> None:
        task = make_task(name, VALUES[name], METRICS[name][-1])
        again = from_json(json.loads(json.dumps(task.to_json())))
        assert type(again) is type(task)
        assert again.to_json() == task.to_json()
        assert again.metric == METRICS[name][-1]
        assert again.classes == task.classes
        assert torch.equal(again.encode(VALUES[name]), task.encode(VALUES[name]))

    def test_decoding_undoes_encoding(self, name: str) -> None:
        task = make_task(name, VALUES[name])
        decoded = task.decode(perfect(task, VALUES[name])).tolist()
        assert decoded == (pytest.approx(VALUES[name], rel=1e-5) if name == "regression" else VALUES[name])

    def test_nothing_to_encode_or_decode(self, name: str) -> None:
        task = make_task(name, VALUES[name])
        whole, none = task.encode(VALUES[name]), task.encode([])
        assert none.shape == (0, *whole.shape[1:])
        assert none.dtype == whole.dtype
        assert len(task.decode(torch.zeros(0, task.outputs))) == 0
        assert task.scores(torch.zeros(0, task.outputs), none) == {}

    def test_perfect_outputs_score_best(self, name: str) -> None:
        task = make_task(name, VALUES[name])
        targets, outputs = task.encode(VALUES[name]), perfect(task, VALUES[name])
        best = task.objective(task.scores(outputs, targets))
        assert best == pytest.approx(1.0 if name != "regression" else 0.0, abs=1e-5)
        assert task.objective(task.scores(-outputs, targets)) < best
        assert task.loss(outputs, targets) < task.loss(-outputs, targets)

    def test_survey_target_is_a_double_matrix(self, name: str) -> None:
        task = make_task(name, VALUES[name])
        target = task.survey_target(task.encode(VALUES[name]))
        assert target.dtype == torch.float64
        assert target.shape == (len(VALUES[name]), task.outputs)

    def test_loss_is_a_scalar_with_gradients(self, name: str) -> None:
        task = make_task(name, VALUES[name])
        outputs = torch.zeros(len(VALUES[name]), task.outputs, dtype=torch.bfloat16, requires_grad=True)
        loss = task.loss(outputs, task.encode(VALUES[name]), 0.1)
        loss.backward()
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        assert outputs.grad is not None

    def test_head_has_the_outputs(self, name: str) -> None:
        task = make_task(name, VALUES[name])
        head = task.head("map", 5, dropout=0.3)
        assert head.eval()(torch.randn(2, 5, 3, 3)).shape == (2, task.outputs)

    def test_unknown_metrics_are_refused_with_a_suggestion(self, name: str) -> None:
        known = METRICS[name][0]
        with pytest.raises(ConfigError, match=f"no metric of {name} is called '{known}x'; did you mean .*{known}"):
            make_task(name, VALUES[name], f"{known}x")

    def test_an_altered_description_is_refused(self, name: str) -> None:
        body = make_task(name, VALUES[name]).to_json()
        for altered in ({**body, "metric": "elegance"}, {**body, "extra": 1}, {"task": name}):
            with pytest.raises(ModelError, match=name):
                from_json(altered)


class TestClasses:
    @pytest.mark.parametrize(
        ("values", "classes", "kind"),
        [
            (["b", "a"], ["a", "b"], "U"),
            ([10, 9, 2], [2, 9, 10], "i"),
            ([True, False], [False, True], "b"),
            ([0.5, 1.0], [0.5, 1.0], "f"),
            ([2, "a", 1], [1, 2, "a"], "O"),
        ],
    )
    def test_labels_keep_their_type(self, values: list[Any], classes: list[Any], kind: str) -> None:
        task: Any = make_task("multiclass", values)
        assert list(task.labels) == classes
        assert task.classes == tuple(map(str, classes))
        task = from_json(json.loads(json.dumps(task.to_json())))
        decoded = task.decode(torch.eye(len(classes)))
        assert decoded.dtype.kind == kind
        assert [(v, type(v)) for v in decoded.tolist()] == [(v, type(v)) for v in classes]

    @pytest.mark.parametrize("dtype", [np.int8, np.int64, np.str_, np.bool_, np.float32])
    def test_numpy_scalars_are_labels(self, dtype: Any) -> None:
        values = np.array([0, 1, 1]).astype(dtype)
        task = make_task("binary", list(values))
        assert task.encode(list(values)).tolist() == [0, 1, 1]
        assert task.encode(values.tolist()).tolist() == [0, 1, 1]
        assert json.loads(json.dumps(task.to_json()))["labels"] == values[:2].tolist()

    def test_unknown_classes_are_named_and_counted(self) -> None:
        task = make_task("multiclass", ["a", "b"])
        with pytest.raises(DataError, match=r"3 of 4 labels .*'x' \(2 rows\), \['a'\] \(1 row\); classes: 'a', 'b'"):
            task.encode(["x", "a", ["a"], "x"])

    @pytest.mark.parametrize(("values", "text"), [([], "0 class;"), (["cat", "cat"], r"1 class \('cat'\)")])
    def test_one_class_is_no_task(self, values: list[Any], text: str) -> None:
        with pytest.raises(DataError, match=text):
            make_task("multiclass", values)

    def test_binary_wants_two(self) -> None:
        with pytest.raises(DataError, match="the target has 3; use task='multiclass'"):
            make_task("binary", [1, 2, 3])
        with pytest.raises(ModelError, match="two labels, got 3"):
            from_json({"task": "binary", "labels": [1, 2, 3], "metric": "accuracy"})

    @pytest.mark.parametrize("value", [None, math.nan, math.inf, b"a", {"a": 1}, ["a"]])
    def test_what_cannot_be_a_label_is_named(self, value: Any) -> None:
        with pytest.raises(DataError, match="1 of 3 labels are neither text nor"):
            make_task("multiclass", ["a", "b", value])

    def test_probabilities_are_the_softmax(self) -> None:
        outputs = torch.randn(5, 3, generator=torch.manual_seed(0))
        chances = make_task("multiclass", ["a", "b", "c"]).probabilities(outputs)
        assert chances.dtype == np.float64
        assert chances.sum(1) == pytest.approx(np.ones(5))
        assert chances == pytest.approx(functional.softmax(outputs.double(), 1).numpy())

    def test_smoothing_makes_certainty_cost(self) -> None:
        task = make_task("binary", ["a", "b"])
        outputs, targets = torch.tensor([[30.0, -30.0]]), torch.tensor([0])
        assert task.loss(outputs, targets) < 1e-6
        assert task.loss(outputs, targets, 0.1) == pytest.approx(0.05 * 60)

    @pytest.mark.parametrize("labels", [["b", "a"], ["a", "a"], ["a"], [["a"], "b"]])
    def test_altered_labels_are_refused(self, labels: list[Any]) -> None:
        with pytest.raises(ModelError, match="labels"):
            from_json({"task": "multiclass", "labels": labels, "metric": "accuracy"})


class TestLabelSets:
    @pytest.mark.parametrize(
        ("values", "labels", "rows"),
        [
            ([["b", "a"], [], ("c",)], ["a", "b", "c"], [["a", "b"], [], ["c"]]),
            ([{"a"}, frozenset({"b", "a"})], ["a", "b"], [["a"], ["a", "b"]]),
            (["b|a", "", " c "], ["a", "b", "c"], ["a|b", "", "c"]),
            ([np.array([3, 1]), np.array([1])], [1, 3], [[1, 3], [1]]),
            ([[1, 0, 1], [0, 0, 1]], [0, 1, 2], [[1, 0, 1], [0, 0, 1]]),
            (list(np.array([[1.0, 0.0], [0.0, 0.0]])), [0, 1], [[1, 0], [0, 0]]),
            (list(torch.tensor([[True, False]])), [0, 1], [[1, 0]]),
        ],
    )
    def test_rows_come_back_in_their_form(self, values: list[Any], labels: list[Any], rows: list[Any]) -> None:
        task: Any = make_task("multilabel", values)
        assert list(task.labels) == labels
        encoded = task.encode(values)
        assert encoded.shape == (len(values), len(labels))
        assert encoded.dtype == torch.float32
        task = from_json(json.loads(json.dumps(task.to_json())))
        assert task.decode(2 * encoded - 1).tolist() == rows

    def test_lists_of_zero_and_one_stay_lists(self) -> None:
        task = make_task("multilabel", [[0, 1], [1], [0, 2]])
        assert task.encode([[0, 1], [1, 0]]).tolist() == [[1, 1, 0], [1, 1, 0]]

    def test_unknown_labels_are_named(self) -> None:
        task = make_task("multilabel", [[1, 2], [2]])
        with pytest.raises(DataError, match=r"'1' \(2 rows\), 3 \(1 row\); known: 1, 2"):
            task.encode([["1"], [3, "1"]])

    @pytest.mark.parametrize("row", [[1], [1, 0, 1], [0, 2], "a", [0, None]])
    def test_odd_indicator_rows_are_refused(self, row: Any) -> None:
        task = make_task("multilabel", [[1, 0], [0, 1]])
        with pytest.raises(DataError, match="1 of 2 rows are not 2 zeros and ones"):
            task.encode([[1, 1], row])

    def test_no_label_at_all(self) -> None:
        with pytest.raises(DataError, match="no label at all"):
            make_task("multilabel", [[], []])

    def test_several_numbers_a_row_are_no_labels(self) -> None:
        with pytest.raises(DataError, match="several numbers a row"):
            make_task("multilabel", [[0.5, 1.5], [2.5, 0.1]])

    def test_sets_of_indicator_rows_are_their_columns(self) -> None:
        assert label_sets([np.array([1, 0, 1]), np.array([0, 0, 0])]) == [(0, 2), ()]
        assert label_sets(["a|b", "c"]) == [("a", "b"), ("c",)]

    def test_smoothing_draws_towards_a_half(self) -> None:
        task = make_task("multilabel", [["a"], ["b"]])
        outputs, targets = torch.tensor([[1.0, -2.0]]), torch.tensor([[1.0, 0.0]])
        wanted = functional.binary_cross_entropy_with_logits(outputs, torch.tensor([[0.9, 0.1]]))
        assert task.loss(outputs, targets, 0.2) == pytest.approx(float(wanted))

    def test_an_unknown_form_is_refused(self) -> None:
        with pytest.raises(ModelError, match="form of label sets"):
            from_json({"task": "multilabel", "labels": ["a"], "metric": "f1", "form": "pickle"})


class TestNumbers:
    def test_targets_have_mean_zero_and_variance_one(self) -> None:
        values = [1e6, 1e6 + 1, 1e6 + 5]
        encoded = make_task("regression", values).encode(values)
        assert float(encoded.mean()) == pytest.approx(0, abs=1e-6)
        assert float(encoded.std(correction=0)) == pytest.approx(1)

    def test_scores_are_in_the_targets_unit(self) -> None:
        task = make_task("regression", VALUES["regression"])
        targets = task.encode([10, 20])
        outputs = task.encode([13, 16])
        assert task.scores(outputs, targets) == pytest.approx(
            {"rmse": 12.5**0.5, "mae": 3.5, "r2": 1 - 25 / 50}, rel=1e-5
        )

    def test_texts_and_numpy_are_numbers(self) -> None:
        task = make_task("regression", ["1.5", np.float32(2.5), 3, True])
        assert task.decode(task.encode(["2"])).tolist() == pytest.approx([2.0])

    def test_what_is_no_number_is_named_and_counted(self) -> None:
        with pytest.raises(DataError, match=r"4 of 6 target values are no finite number: 'cheap' \(2 rows\), nan"):
            make_task("regression", [1.0, "cheap", "cheap", math.nan, None, 2])

    @pytest.mark.parametrize(("values", "text"), [([0.1] * 7, "is 0.1 in every row"), ([], "no value at all")])
    def test_nothing_to_predict(self, values: list[Any], text: str) -> None:
        with pytest.raises(DataError, match=text):
            make_task("regression", values)

    def test_there_are_no_probabilities(self) -> None:
        with pytest.raises(DataError, match="no probabilities; use predict"):
            make_task("regression", [1, 2]).probabilities(torch.zeros(1, 1))

    @pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, "1"])
    def test_an_altered_scale_is_refused(self, scale: Any) -> None:
        with pytest.raises(ModelError, match="regression"):
            from_json({"task": "regression", "mean": 0.0, "scale": scale, "metric": "rmse"})


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (["cat", "dog", "cat"], "binary"),
        ([True, False, True], "binary"),
        ([0, 1, 1, 0], "binary"),
        (np.array([0.0, 1.0, 2.0] * 3), "multiclass"),
        (["a", "b", "c"], "multiclass"),
        ([f"name {i}" for i in range(100)], "multiclass"),
        ([*range(20)] * 2, "multiclass"),
        ([*range(100)] * 10, "multiclass"),
        ([*range(1000)], "regression"),
        ([*range(30), 1, 2, 3], "regression"),
        ([1.5, 2.5, 1.5], "regression"),
        (np.linspace(0, 1, 50), "regression"),
        ([["a"], ["b", "c"]], "multilabel"),
        (["a|b", "c"], "multilabel"),
        ([{"a"}, set()], "multilabel"),
        (list(np.eye(3)), "multilabel"),
    ],
)
def test_guesses(values: Any, name: str) -> None:
    assert guess_task(list(values)) == name


@pytest.mark.parametrize("values", [[*range(40)] * 3, [*range(100)] * 9, [3, 5, 8, 13, 21]])
def test_whole_numbers_that_could_be_either_are_not_guessed(values: list[int]) -> None:
    with pytest.raises(DataError, match="choose with task='multiclass' or task='regression'"):
        guess_task(values)
    assert make_task("regression", values).outputs == 1
    assert make_task("multiclass", values).outputs == len(set(values))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("segmentation", r"no task is called 'segmentation' \(segmentation is planned\)"),
        ("token labels", "token labels is planned"),
        ("multi-class", "did you mean multiclass?"),
        ("ranking", "known: binary, multiclass, multilabel, regression"),
        ("multi-task", r"it is what several targets make together: target=\[...\]"),
        (["binary", "regression"], "the task of one target is"),
    ],
)
def test_unknown_tasks_are_refused_by_name(name: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make_task(name, ["a", "b"])


def test_an_unknown_task_in_a_file_is_refused() -> None:
    with pytest.raises(ModelError, match=r"names the task 'os\.system'"):
        from_json({"task": "os.system"})


def test_plain_values() -> None:
    assert plain(torch.tensor([1, 0])) == [1, 0]
    assert type(plain(np.bool_(True))) is bool
    assert plain("a") == "a"
    assert plain(None) is None
