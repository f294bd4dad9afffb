"""Numbers as users write them in YAML."""

from __future__ import annotations

from typing import Any

import pytest

from autotransfer import yaml12
from autotransfer.cli import flags
from autotransfer.space import parse_domain


@pytest.mark.parametrize("text", ["1e-4", "1E4", "-1e-05", "1.5e3", ".5e1", "+1.e2"])
def test_numbers_with_an_exponent_are_numbers(text: str) -> None:
    assert yaml12.load(f"lr: {text}") == {"lr": float(text)}


@pytest.mark.parametrize(
    "body", [{"target": "1e5"}, {"target": "1e-4"}, {"a": 1e-5, "b": [1e22, 3, True, None, "x: y"]}, {"name": "0x1e"}]
)
def test_what_is_written_is_read_back(body: Any) -> None:
    assert yaml12.load(yaml12.dump(body)) == body


def test_nothing_in_it_names_code_to_run() -> None:
    with pytest.raises(yaml12.yaml.YAMLError):
        yaml12.load("!!python/object/apply:os.getcwd []")


def test_the_example_of_the_help_is_a_domain() -> None:
    example = flags._MAPPINGS["space"].split("'")[1]
    domain = parse_domain("lr", flags._mapping("space", example)["lr"])
    assert (domain.low, domain.high) == (1e-4, 1e-2)  # type: ignore[union-attr]
