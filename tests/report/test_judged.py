"""Confusion, calibration and losses against numbers made by hand."""

import math

import numpy as np
import pytest

from autotransfer.report import judged


def test_confusion_counts_truth_by_answer():
    truth, answers = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 1, 1, 1, 0, 2])
    assert judged.confusion(truth, answers, 3).tolist() == [[1, 2, 0], [0, 1, 0], [1, 0, 1]]


def test_a_class_without_rows_or_answers_is_there_all_the_same():
    assert judged.confusion(np.array([0]), np.array([1]), 3).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_each_class_has_its_precision_recall_and_f1():
    there = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], bool)
    given = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0]], bool)
    one, two, none = judged.per_class(there, given, ("one", "two", "none"))
    assert (one.rows, one.answered, one.right) == (3, 2, 2)
    assert (one.precision, one.recall, one.f1) == (1.0, pytest.approx(2 / 3), pytest.approx(0.8))
    assert (two.precision, two.recall, two.f1) == (pytest.approx(1 / 3), 0.5, pytest.approx(0.4))
    assert all(math.isnan(v) for v in (none.precision, none.recall, none.f1))


def test_the_calibration_error_is_that_of_the_paper():
    # Two answers of .65 (one right), two of .95 (both right), one of .2, on the edge of its bin (wrong).
    chances, came = np.array([0.65, 0.65, 0.95, 0.95, 0.2]), np.array([True, False, True, True, False])
    found = judged.calibration(chances, came)
    assert [(b.low, b.high, b.count, b.right) for b in found.bins] == [
        (0.1, 0.2, 1, 0.0),
        (0.6, 0.7, 2, 0.5),
        (0.9, 1.0, 2, 1.0),
    ]
    assert found.error == pytest.approx((1 * 0.2 + 2 * 0.15 + 2 * 0.05) / 5)
    assert found.overall == pytest.approx(0.68 - 0.6)


def test_what_says_the_truth_has_no_calibration_error():
    came = np.array([True] * 3 + [False])
    assert judged.calibration(np.full(4, 0.75), came).error == pytest.approx(0)
    assert judged.calibration(np.array([0.0, 1.0]), np.array([False, True])).error == 0


def test_losses_and_entropies_of_rows():
    chances = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    assert judged.class_losses(chances, np.array([1, 0])) == pytest.approx([math.log(4), 0])
    assert np.isfinite(judged.class_losses(chances, np.array([0, 2]))).all()
    assert judged.entropies(chances, sets=False) == pytest.approx([1.5 * math.log(2), 0], abs=1e-9)
    labels, there = np.array([[0.5, 0.25]]), np.array([[True, False]])
    assert judged.label_losses(labels, there) == pytest.approx([(math.log(2) - math.log(0.75)) / 2])
    quarter = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert judged.entropies(labels, sets=True) == pytest.approx([(math.log(2) + quarter) / 2])
