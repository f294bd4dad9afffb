"""YAML as its version 1.2 and JSON have it: ``1e-4`` is a number, which PyYAML, of version 1.1, reads as text."""

from __future__ import annotations

import re
from typing import Any

import yaml

_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    """Quotes texts that the loader would read as numbers."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def load(text: str) -> Any:
    """Return what a text of YAML or JSON holds: plain values, lists and mappings.

    Raises:
        yaml.YAMLError: it is neither.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def dump(body: Any) -> str:
    """Return plain values as YAML that :func:`load` reads as the same values."""
    return yaml.dump(body, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
