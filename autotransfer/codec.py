"""JSON for frozen dataclasses: the same field names both ways, unknown fields refused."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from autotransfer.errors import ModelError, suggestion

T = TypeVar("T")
Scalar = str | int | float | bool | None


def to_json(value: Any) -> Any:
    """Return ``value`` as JSON-ready lists, dicts and scalars.

    Dataclasses become dicts of their fields; one with a ``kind`` class attribute carries it, so that a
    union of dataclasses can be read back.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        floats = _floats(type(value))  # 1 and 1.0 are one value of such a field, so they have one form and one hash
        body = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        body |= {n: float(body[n]) for n in floats if type(body[n]) is int}
        return {"kind": getattr(value, "kind", ""), **body} if _tagged(type(value)) else body
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if hasattr(value, "item"):  # a numpy scalar
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def from_json(cls: type[T], body: Any) -> T:
    """Return an instance of ``cls`` built from what :func:`to_json` gave.

    Raises:
        ModelError: a field is unknown, missing or of the wrong type.
    """
    return cast(T, _read(cls, body, cls.__name__))


def dumps(value: Any) -> str:
    """Return ``value`` as one canonical line of JSON: sorted keys, no spaces."""
    return json.dumps(to_json(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any, length: int = 16) -> str:
    """Return the first ``length`` hexadecimal digits of the SHA-256 of ``value``'s canonical JSON."""
    return hashlib.sha256(dumps(value).encode()).hexdigest()[:length]


@functools.cache
def _floats(cls: type) -> frozenset[str]:
    """Return the fields that hold a float, or a float or None."""
    hints = typing.get_type_hints(cls)
    return frozenset(n for n, h in hints.items() if h is float or set(typing.get_args(h)) == {float, type(None)})


def _tagged(cls: type) -> bool:
    return isinstance(getattr(cls, "kind", None), str) and "kind" not in {f.name for f in dataclasses.fields(cls)}


def _read(kind: Any, body: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or isinstance(kind, TypeVar):
        return body
    if origin in (typing.Union, types.UnionType):
        return _read_union(args, body, where)
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(cast(type, kind), body, where)
    if origin is tuple:
        _expect(isinstance(body, (list, tuple)), body, "a list", where)
        item = args[0] if args else Any
        kinds = [item] * len(body) if len(args) == 2 and args[1] is Ellipsis else list(args)
        _expect(len(kinds) == len(body), body, f"{len(kinds)} items", where)
        return tuple(_read(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, body, strict=True)))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        _expect(isinstance(body, Mapping), body, "an object", where)
        return {k: _read(args[1], v, f"{where}.{k}") for k, v in body.items()}
    if kind is float:
        _expect(isinstance(body, (int, float)) and not isinstance(body, bool), body, "a number", where)
        return float(body)
    wanted = type(None) if kind is None else kind
    _expect(
        isinstance(body, wanted) and not (wanted is int and isinstance(body, bool)),
        body,
        wanted.__name__,
        where,
    )
    return body


def _read_union(args: tuple[Any, ...], body: Any, where: str) -> Any:
    if body is None and type(None) in args:
        return None
    options = [a for a in args if a is not type(None)]
    if isinstance(body, Mapping) and "kind" in body:
        for option in options:
            if dataclasses.is_dataclass(option) and getattr(option, "kind", None) == body["kind"]:
                return _read_dataclass(cast(type, option), body, where)
    # A kind that is none of these must not pass for one whose fields all have defaults.
    kinds = isinstance(body, Mapping) and "kind" in body and any(_tagged(o) for o in options if isinstance(o, type))
    for option in () if kinds else options:
        try:
            exact = option in (str, bool, int, float)
            whole = option is float and int not in options and type(body) is int
            if exact and type(body) is not option and not whole:
                continue
            return _read(option, body, where)
        except ModelError:
            continue
    names = ", ".join(getattr(o, "__name__", str(o)) for o in options)
    raise ModelError(f"{where} is {body!r:.80}; wanted one of: {names}")


def _read_dataclass(cls: type, body: Any, where: str) -> Any:
    _expect(isinstance(body, Mapping), body, "an object", where)
    given = dict(body)
    if _tagged(cls):
        given.pop("kind", None)
    hints, known = typing.get_type_hints(cls), {f.name: f for f in dataclasses.fields(cls)}
    for name in given:
        if name not in known:
            raise ModelError(f"{where} has an unknown field {name!r}{suggestion(name, known)}")
    missing = [
        n
        for n, f in known.items()
        if n not in given and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ModelError(f"{where} lacks {', '.join(missing)}")
    return cls(**{n: _read(hints[n], v, f"{where}.{n}") for n, v in given.items()})


def _expect(ok: bool, body: Any, wanted: str, where: str) -> None:
    if not ok:
        raise ModelError(f"{where} is {body!r:.80}; wanted {wanted}")
