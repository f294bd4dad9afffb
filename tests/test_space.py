"""Domains: what a caller may write, what is drawn, what belongs."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest

from autotransfer.codec import from_json, to_json
from autotransfer.errors import ConfigError
from autotransfer.space import Choice, Domain, Integer, LogUniform, Uniform, number, parse_domain

DOMAINS: list[Domain] = [Choice(("a", 1, None, True)), Integer(2, 5), Uniform(-1.0, 1.0), LogUniform(1e-4, 1e-1)]


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda d: d.kind)
def test_draws_belong_and_repeat_with_the_seed(domain: Domain) -> None:
    drawn = [domain.sample(Random(seed)) for seed in range(300)]
    assert all(value in domain for value in drawn)
    assert drawn == [domain.sample(Random(seed)) for seed in range(300)]
    assert len(set(drawn)) >= 3


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda d: d.kind)
def test_json_both_ways(domain: Domain) -> None:
    assert from_json(type(domain), to_json(domain)) == domain
    assert to_json(domain)["kind"] == domain.kind


def test_integer_draws_both_ends() -> None:
    assert {Integer(2, 4).sample(Random(s)) for s in range(50)} == {2, 3, 4}


def test_log_draws_evenly_on_the_logarithm() -> None:
    drawn = [LogUniform(1e-4, 1.0).sample(Random(s)) for s in range(2000)]
    below = sum(isinstance(v, float) and v < 1e-2 for v in drawn) / len(drawn)
    assert 0.45 < below < 0.55
    assert all(float(f"{v:.3g}") == v for v in drawn)


@pytest.mark.parametrize(
    ("value", "domain"),
    [
        ("b", DOMAINS[0]),
        (1, DOMAINS[1]),
        (True, Integer(0, 1)),
        (2.5, DOMAINS[1]),
        ("0", DOMAINS[2]),
        (1.01, DOMAINS[2]),
        (True, Uniform(0, 2)),
        (0.2, DOMAINS[3]),
        (math.nan, DOMAINS[3]),
    ],
)
def test_what_does_not_belong(value: Any, domain: Domain) -> None:
    assert value not in domain


@pytest.mark.parametrize(
    ("given", "domain"),
    [
        (3, Choice((3,))),
        (None, Choice((None,))),
        ("x", Choice(("x",))),
        ([1, 2], Choice((1, 2))),
        ({"log": [0.01, 1]}, LogUniform(0.01, 1)),
        ({"uniform": (0, 1)}, Uniform(0, 1)),
        ({"int": [1, 4]}, Integer(1, 4)),
        (Integer(1, 2), Integer(1, 2)),
    ],
)
def test_what_a_caller_may_write(given: Any, domain: Domain) -> None:
    assert parse_domain("lr", given) == domain


@pytest.mark.parametrize(
    "given",
    [
        {"log": [0.1]},
        {"logs": [0.1, 1]},
        {"log": [0.1, "1"]},
        {"log": [0.1, True]},
        {"log": [0.1, 1], "int": [1, 2]},
        {},
        object(),
        [[1, 2]],
        [{"log": [1, 2]}],
    ],
)
def test_other_forms_name_the_value_and_the_forms(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"the space of 'lr' .* wanted a value, a list"):
        parse_domain("lr", given)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([], "at least one value"),
        ({"log": [0, 1]}, "low > 0, got 0"),
        ({"uniform": [2, 1]}, "low <= high, got 2 and 1"),
        ({"int": [2, 1]}, "low <= high"),
        ({"int": [1.5, 3]}, "whole ends, got 1.5 and 3"),
        ({"uniform": [math.nan, 1]}, "low <= high"),
    ],
)
def test_impossible_domains_are_refused(given: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        parse_domain("lr", given)


def test_number() -> None:
    assert number({"lr": 1}, "lr") == 1.0
    for values in ({}, {"lr": "1"}, {"lr": None}, {"lr": True}):
        with pytest.raises(ConfigError, match=r"the value 'lr' is .* wanted a number"):
            number(values, "lr")
