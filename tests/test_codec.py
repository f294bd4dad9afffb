"""JSON for dataclasses: both ways, one form for one value, unknown and wrong fields refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest

from autotransfer.codec import Scalar, digest, dumps, from_json, to_json
from autotransfer.errors import ModelError


@dataclass(frozen=True)
class Round:
    radius: float
    kind: ClassVar[str] = "round"


@dataclass(frozen=True)
class Square:
    side: int
    kind: ClassVar[str] = "square"


@dataclass(frozen=True)
class Drawing:
    name: str
    shapes: tuple[Round | Square, ...] = ()
    scale: float | None = None
    count: int | None = None
    pair: tuple[int, str] = (0, "")
    values: Mapping[str, Scalar] = field(default_factory=dict)
    done: bool = False


FULL = Drawing(
    "a",
    shapes=(Round(1.5), Square(2)),
    scale=0.5,
    count=3,
    pair=(1, "b"),
    values={"lr": 0.1, "epochs": 3, "name": "x", "on": True, "none": None},
    done=True,
)


def test_round_trip_keeps_values_and_types() -> None:
    back = from_json(Drawing, json.loads(json.dumps(to_json(FULL))))
    assert back == FULL
    assert [type(v) for v in back.values.values()] == [float, int, str, bool, type(None)]
    assert [type(s) for s in back.shapes] == [Round, Square]


def test_tagged_classes_carry_their_kind() -> None:
    assert to_json(Round(1.0)) == {"kind": "round", "radius": 1.0}
    assert "kind" not in to_json(FULL)


def test_defaults_may_be_left_out() -> None:
    assert from_json(Drawing, {"name": "a"}) == Drawing("a")


@pytest.mark.parametrize("whole", [2, 2.0])
def test_a_whole_number_in_a_float_field_has_one_form(whole: float) -> None:
    drawing = Drawing("a", shapes=(Round(whole),), scale=whole)
    assert digest(drawing) == digest(Drawing("a", shapes=(Round(2.0),), scale=2.0))
    back = from_json(Drawing, {"name": "a", "scale": whole})
    assert back.scale == 2.0
    assert type(back.scale) is float


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"name": "a", "scal": 1.0}, "unknown field 'scal'; did you mean scale?"),
        ({}, "Drawing lacks name"),
        ({"name": 3}, "Drawing.name is 3; wanted str"),
        ({"name": "a", "done": 1}, "Drawing.done is 1; wanted bool"),
        ({"name": "a", "count": True}, "Drawing.count is True; wanted one of: int"),
        ({"name": "a", "count": 1.5}, "Drawing.count is 1.5; wanted one of: int"),
        ({"name": "a", "scale": "big"}, "Drawing.scale is 'big'; wanted one of: float"),
        ({"name": "a", "scale": True}, "Drawing.scale is True; wanted one of: float"),
        ({"name": "a", "pair": [1]}, "Drawing.pair is [1]; wanted 2 items"),
        ({"name": "a", "pair": 1}, "Drawing.pair is 1; wanted a list"),
        ({"name": "a", "values": []}, "Drawing.values is []; wanted an object"),
        ({"name": "a", "values": {"x": [1]}}, "Drawing.values.x is [1]; wanted one of"),
        ({"name": "a", "shapes": [{"kind": "round", "side": 1}]}, "Drawing.shapes[0] has an unknown field 'side'"),
        ({"name": "a", "shapes": [{"kind": "star", "points": 5}]}, "wanted one of: Round, Square"),
        ([], "Drawing is []; wanted an object"),
        ({"name": "a", "shapes": [{"kind": "round", "radius": "1"}]}, "radius is '1'; wanted a number"),
    ],
)
def test_wrong_bodies_are_refused_by_place(body: Any, text: str) -> None:
    with pytest.raises(ModelError) as caught:
        from_json(Drawing, body)
    assert text in str(caught.value)


def test_dumps_is_canonical() -> None:
    assert dumps({"b": 1, "a": [1, (2, 3)], "ü": None}) == '{"a":[1,[2,3]],"b":1,"ü":null}'
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})
    assert len(digest({})) == 16
    assert len(digest({}, 8)) == 8


def test_numpy_scalars_become_plain_ones() -> None:
    assert to_json({"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True)}) == {"a": 0.5, "b": 3, "c": True}


def test_what_has_no_json_form_is_named() -> None:
    with pytest.raises(TypeError, match="set has no JSON form"):
        to_json({"a": {1, 2}})
