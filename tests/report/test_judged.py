"""Confusions, calibration, label scores and losses against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from autotransfer import tasks
from autotransfer.report.judged import HeldOut, calibration, confusion, label_scores, thinned


def held(name, values, outputs):
    task = tasks.make_task(name, values)
    return HeldOut(task, None, np.arange(len(values)), torch.tensor(outputs), task.encode(values))


def test_the_confusion_counts_true_classes_by_row():
    found = confusion(np.array([0, 1, 1, 2, 0]), np.array([0, 1, 0, 2, 0]), ("a", "b", "c"))
    assert found.counts.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert (found.names, found.folded) == (("a", "b", "c"), 0)


def test_of_many_classes_those_with_mistakes_are_shown_and_the_rest_is_one():
    truth = np.array([0, 1, 2, 3, 4, 4, 4])
    predicted = np.array([0, 1, 2, 3, 4, 2, 0])
    found = confusion(predicted, truth, "abcde", most=3)
    assert found.names == ("a", "e", "others")
    assert found.folded == 3
    # rows: a, e, the rest (b, c, d, each rightly told)
    assert found.counts.tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 3]]
    assert found.counts.sum() == len(truth)


def test_the_calibration_error_is_the_mean_distance_of_its_bins():
    chances = np.array([0.95, 0.91, 0.55, 0.6, 0.6])
    right = np.array([True, True, False, True, False])
    found = calibration(chances, right)
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 3, 0, 0, 0, 2]  # 0.6 lies in (0.5, 0.6]
    assert found.accuracy[[5, 9]].tolist() == pytest.approx([1 / 3, 1.0])
    assert found.confidence[[5, 9]].tolist() == pytest.approx([1.75 / 3, 0.93])
    assert found.error == pytest.approx((3 * abs(1 / 3 - 1.75 / 3) + 2 * 0.07) / 5)


def test_probabilities_at_the_ends_have_a_bin_and_no_rows_have_no_error():
    assert calibration(np.array([0.0, 1.0]), np.array([False, True])).counts.tolist() == [1, *[0] * 8, 1]
    assert calibration(np.zeros(0), np.zeros(0, bool)).error == 0.0


def test_the_scores_of_a_label_are_left_open_where_they_divide_by_zero():
    chosen = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 0]], bool)
    truth = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0]], bool)
    first, second, third = label_scores(chosen, truth, ("a", "b", "c"))
    assert (first.rows, first.predicted, first.precision, first.recall, first.f1) == (2, 2, 0.5, 0.5, 0.5)
    assert (second.precision, second.recall, second.f1) == (None, 0.0, 0.0)
    assert (third.precision, third.recall, third.f1) == (None, None, None)


def test_the_loss_of_a_row_is_the_tasks_own():
    of_classes = held("multiclass", ["a", "b", "c"], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    assert of_classes.losses()[:2] == pytest.approx([math.log(3)] * 2)
    assert of_classes.losses()[2] < 0.001
    of_numbers = held("regression", [1.0, 3.0], [[-1.0], [0.0]])
    assert of_numbers.losses() == pytest.approx([0.0, 1.0])
    of_labels = held("multilabel", [["a"], ["a", "b"]], [[0.0, 0.0], [20.0, -20.0]])
    assert of_labels.losses() == pytest.approx([math.log(2), 10.0], rel=1e-4)


def test_the_doubt_of_a_row_is_the_entropy_of_its_answer():
    of_classes = held("multiclass", ["a", "b"], [[0.0, 0.0], [80.0, 0.0]])
    assert of_classes.doubts() == pytest.approx([math.log(2), 0.0])
    of_labels = held("multilabel", [["a"], ["a", "b"]], [[0.0, 0.0], [0.0, 90.0]])
    assert of_labels.doubts() == pytest.approx([math.log(2), math.log(2) / 2])
    assert held("regression", [1.0, 3.0], [[0.0], [0.0]]).doubts() is None


def test_rows_are_thinned_evenly_from_first_to_last():
    assert thinned(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert thinned(101, 3).tolist() == [0, 50, 100]
    assert thinned(0, 3).tolist() == []
