"""Hugging Face datasets and torch Datasets, known by what they can do: neither library is imported."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from autotransfer.data.dataset import ItemDataset, Lazy, groups_of, joined
from autotransfer.data.modalities import modalities, modality
from autotransfer.data.readers.columns import SAMPLED, Found, by_target, find_columns, lost, named
from autotransfer.errors import DataError, faults

_LABELS = ("label", "labels", "target", "class")
_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}


def read(source: Any, options: Mapping[str, Any]) -> ItemDataset | None:
    """Return a Hugging Face Dataset or DatasetDict, or a torch Dataset of (item, label); None for others.

    Raises:
        DataError: the columns are not clear, or a row is no pair.
    """
    if isinstance(source, Mapping):
        whole = source and all(hasattr(v, "column_names") for v in source.values())
        return _dictionary(source, options) if whole else None
    if hasattr(source, "column_names") and hasattr(source, "features"):
        return _hugging_face(source, options)
    indexable = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    plain = isinstance(source, (str, bytes, tuple)) or type(source).__module__.split(".")[0] in ("numpy", "pandas")
    if not indexable or plain or hasattr(source, "detach") or (isinstance(source, list) and not _pairs(source)):
        return None
    return _torch(source, options)


def _dictionary(source: Mapping[str, Any], options: Mapping[str, Any]) -> ItemDataset:
    known = {k: v for k, v in source.items() if k in _SPLITS}
    if not known:
        raise DataError(f"the dataset has the splits {', '.join(map(str, source))}; wanted train, validation or test")
    if options.get("groups") is not None and not isinstance(options["groups"], str):
        raise DataError("groups of a dataset with splits must be a column's name")
    made = joined([_hugging_face(v, options) for v in known.values()], [_SPLITS[k] for k in known])
    left = [str(k) for k in source if k not in known]
    made.notes += [f"splits that are neither train, validation nor test were left aside: {', '.join(left)}"] * bool(
        left
    )
    return made


def _hugging_face(source: Any, options: Mapping[str, Any]) -> ItemDataset:
    if not hasattr(source, "__len__"):
        raise DataError("the dataset is streamed, and its rows are needed more than once; load it without streaming")
    columns, kinds = list(source.column_names), dict(source.features or {})
    wrong, groups = list[str](), options.get("groups")
    targets = _targets(columns, kinds, options.get("target"), wrong) if options.get("labelled", True) else []
    try:
        found = _items(source, columns, kinds, options, {*targets, *([groups] if isinstance(groups, str) else [])})
    except DataError as error:
        wrong.append(str(error))
    if isinstance(groups, str) and groups in columns:
        groups = list(source[groups])
    try:
        held = groups_of(groups, len(source), "the dataset", columns)
    except DataError as error:
        wrong.append(str(error))
    if wrong:
        raise DataError(faults("the dataset cannot be used", wrong))
    values = {target: _named(list(source[target]), kinds.get(target)) for target in targets}
    single = len(found.columns) == 1 and found.kind.feature
    items = Lazy(source, found.columns[0]) if single else Lazy(source, found.columns, found.kind.name)
    notes = [] if len(found.columns) == 1 else [f"{found.kind.many} are joined from: {', '.join(found.columns)}"]
    return ItemDataset(
        "dataset", items, values, modality=found.kind.name, columns=found.columns, groups=held, notes=notes
    )


def _items(
    source: Any, columns: list[str], kinds: Mapping[str, Any], options: Mapping[str, Any], skip: set[str]
) -> Found:
    """Return the columns of the items: by their types where these tell, else by what they hold."""
    typed: dict[str, list[str]] = {}
    for kind in modalities(options.get("modality")):
        of = [c for c in columns if kind.feature and type(kinds.get(c)).__name__ == kind.feature]
        named = [c for c in of if c in kind.names]
        if of:
            typed[kind.name] = named[:1] if len(of) > 1 and named else of
    if len(typed) > 1:
        raise DataError(f"columns hold {' and '.join(typed)}; say which with modality=")
    for name, of in typed.items():
        if len(of) > 1:
            raise DataError(f"several columns hold {name}s ({', '.join(of)}); call one of them {name!r}")
        return Found(modality(name), tuple(of))
    first = [source[i] for i in range(min(SAMPLED, len(source)))]
    return find_columns(columns, lambda c: [r[c] for r in first if r[c] is not None], options, skip)


def _targets(columns: list[str], kinds: Mapping[str, Any], given: Any, wrong: list[str]) -> list[str]:
    """Return the columns of labels; what is wrong is added to a list."""
    shown, asked = ", ".join(columns), named(given, columns)
    wrong += [f"{text}; columns: {shown}" for text in lost(asked, columns)]
    if asked:
        return asked
    found = [c for c in _LABELS if c in columns][:1] or [c for c in columns if hasattr(kinds.get(c), "names")]
    if len(found) == 1:
        return found
    wrong.append(f"which column is the target? Say target=...; columns: {shown}")
    return []


def _named(values: list[Any], kind: Any) -> list[Any]:
    """Return class numbers by their names where the column's type has some, in lists too; -1 is no label."""
    names, inner = getattr(kind, "names", None), getattr(getattr(kind, "feature", None), "names", None)
    if names:
        return [None if v is None or v < 0 else names[int(v)] for v in values]
    return [None if v is None else [inner[int(n)] for n in v] for v in values] if inner else values


def _pairs(source: list[Any]) -> bool:
    return bool(source) and all(isinstance(r, (tuple, list)) and len(r) == 2 for r in source[:5])


def _torch(source: Any, options: Mapping[str, Any]) -> ItemDataset:
    if not len(source):
        raise DataError("the dataset has no rows")
    try:
        first = source[0]
    except Exception as error:  # a foreign dataset may raise anything
        first = error
    pairs = isinstance(first, (tuple, list)) and len(first) == 2
    if not options.get("labelled", True):
        item = first[0] if pairs else first
        return ItemDataset("dataset", Lazy(source, 0 if pairs else None), {}, modality=_kind(item, options))
    if not pairs and not isinstance(first, Exception):
        raise DataError(f"rows of the {type(source).__name__} are {type(first).__name__}; wanted pairs (item, label)")
    groups = groups_of(options.get("groups"), len(source), "the dataset")
    values, unreadable = _torch_labels(source, first)
    asked = options.get("target")
    targets = by_target(values, asked) if isinstance(asked, (list, tuple)) else {str(asked or "label"): values}
    kind = _kind(_first_item(source, first), options)
    return ItemDataset("dataset", Lazy(source, 0), targets, modality=kind, groups=groups, unreadable=unreadable)


def _first_item(source: Any, first: Any) -> Any:
    """Return the item of the first row that can be had, of some; None where none can."""
    if not isinstance(first, Exception):
        return first[0]
    for i in range(1, min(SAMPLED, len(source))):
        with contextlib.suppress(Exception):  # a foreign dataset may raise anything
            return source[i][0]
    return None


def _kind(item: Any, options: Mapping[str, Any]) -> str:
    """Return the modality of a dataset by one of its items: the first that owns it, or the first of all."""
    asked = options.get("modality")
    owners = [k.name for k in modalities(asked) if asked is not None or k.owns([item])]
    return owners[0] if owners else modalities()[0].name


def _torch_labels(source: Any, first: Any) -> tuple[list[Any], dict[int, str]]:
    """Return labels, and why rows gave none; items are decoded only where the labels cannot be had alone."""
    values, unreadable = list[Any](), dict[int, str]()
    known = getattr(source, "targets", None)
    if known is not None and len(known) == len(source) and _same(known[0], first):
        values = list(known)
    else:
        for i in range(len(source)):
            try:
                values.append(source[i][1])
            except Exception as error:  # a foreign dataset may raise anything
                values.append(None)
                unreadable[i] = f"its source raised {type(error).__name__}: {error}"
    values = [v.tolist() if hasattr(v, "tolist") else v for v in values]
    classes = getattr(source, "classes", None)
    there = [v for v in values if v is not None]
    if classes is not None and all(type(v) is int and 0 <= v < len(classes) for v in there):
        values = [None if v is None else str(classes[v]) for v in values]
    return values, unreadable


def _same(known: Any, first: Any) -> bool:
    """Return whether ``targets`` holds what rows give: a dataset may transform its labels."""
    if isinstance(first, Exception):
        return True
    return bool(
        repr(getattr(known, "tolist", lambda: known)()) == repr(getattr(first[1], "tolist", lambda: first[1])())
    )
