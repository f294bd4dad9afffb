"""Charts: ranges, round ticks, places of points, escaped names."""

import doctest
import re

import numpy as np
import pytest

from autotransfer.report import charts
from autotransfer.report.judged import calibration


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(charts).failed == 0
    assert doctest.testmod(charts).attempted > 0


@pytest.mark.parametrize(
    "values", [[0.0], [5.0] * 3, [float("nan")], [1e9, 1e9 + 1], [-3.0, 1e-9], [float("inf"), 2.0]]
)
def test_every_range_has_room_and_ticks_in_it(values):
    low, high = charts.span(values)
    assert low < high
    found = charts.ticks(low, high)
    assert 2 <= len(found) <= 12
    assert all(low <= t <= high for t in found)


def test_points_lie_where_their_values_are():
    axes = charts.Axes((0.0, 10.0), (0.0, 1.0), "x", "y")
    assert axes.across(0) < axes.across(5) < axes.across(10)
    assert axes.across(5) == (axes.across(0) + axes.across(10)) / 2
    assert axes.down(1) < axes.down(0)  # upwards


def test_a_point_on_the_diagonal_lies_on_the_line():
    text = charts.scatter(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 4.0]), "x", "y", diagonal=True)
    guide = re.search(r'class="guide" x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="([\d.]+)"', text)
    x1, y1, x2, y2 = (float(v) for v in guide.groups())
    points = re.findall(r'class="point" cx="([\d.]+)" cy="([\d.]+)"', text)
    assert len(points) == 3
    for x, y in points:
        assert float(y) == pytest.approx(y1 + (float(x) - x1) * (y2 - y1) / (x2 - x1), abs=0.2)


def test_a_bar_is_as_high_as_its_share():
    text = charts.reliability(calibration(np.array([0.95, 0.95, 0.15]), np.array([True, False, True])), "x", "y")
    heights = [float(h) for h in re.findall(r'class="bar"[^>]* height="([\d.]+)"', text)]
    assert len(heights) == 2
    assert heights[1] == pytest.approx(heights[0] / 2, abs=0.1)


def test_names_are_escaped_and_what_is_not_finite_is_left_out():
    line = charts.Line("<b>", [(1.0, 0.5), (2.0, float("-inf")), (3.0, 0.7)])
    text = charts.curves([line], "<x>", "y")
    assert "&lt;b&gt;" in text
    assert "&lt;x&gt;" in text
    assert "<b>" not in text
    assert text.count("<circle") == 2
    assert "nan" not in text
    assert "inf" not in text
