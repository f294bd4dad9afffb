"""Numbers and tables as a user reads them."""

import doctest

import pytest

from autotransfer.report import words
from autotransfer.schema import Recipe


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(words).failed == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, ".000"),
        (0.9994, ".999"),
        (0.9996, "1.00"),
        (1.0, "1.00"),
        (-1.5, "-1.50"),
        (99.96, "100.0"),
        (123.4, "123"),
        (12345.6, "12346"),
        (2.5e9, "2.5e+09"),
        (float("nan"), "-"),
        (float("-inf"), "-inf"),
        (10.04, "10.0"),
    ],
)
def test_scores_have_three_digits(value, text):
    assert words.score(value) == text


def test_times_never_are_negative():
    assert words.clock(-3) == "0:00"
    assert words.clock(59.6) == "1:00"
    assert words.clock(3599.7) == "1:00:00"


def test_tables_cut_nothing_off():
    rows = [{"a": "x" * 90, "b": None, "c": 0.12345678}, {"a": 1, "b": True, "c": float("nan")}]
    head, first, second = words.columns(rows)
    assert head.split() == ["a", "b", "c"]
    assert first.split() == ["x" * 90, "-", "0.1235"]
    assert second.split() == ["1", "yes", "-"]
    assert first.index("0.1235") == head.index("c") == len(second) - 1
    assert words.columns([]) == []
    assert words.columns(rows, ["c"])[1] == "0.1235"


def test_a_recipe_in_one_line_has_every_value_and_the_stages_frozen():
    recipe = Recipe(
        backbone="a/b", strategy="core/partial", freeze=2, stages=("x", "y", "z"), values={"lr": 0.001, "epochs": 10}
    )
    assert words.recipe_line(recipe) == "a/b, strategy core/partial, freeze 2/3, lr 0.001, epochs 10"


def test_lower_is_better_is_known():
    assert words.metric_of(-3.0, "rmse") == 3.0
    assert words.metric_of(0.5, "accuracy") == 0.5
    assert words.metric_of(None, "rmse") is None
    assert words.better(1.0, 2.0, "rmse")
    assert words.better(2.0, 1.0, "accuracy")
    assert not words.better(1.0, 1.0, "accuracy")
