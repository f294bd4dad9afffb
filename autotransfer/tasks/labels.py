"""Raw target values: plain Python ones, in a fixed order, and why some cannot be labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from autotransfer.errors import DataError

Label = str | int | float | bool


def plain(value: Any) -> Any:
    """Return a numpy or torch value as the Python scalar or list that it holds, anything else as it is.

    >>> import numpy as np
    >>> plain(np.int64(3)), plain(np.array([0, 1])), plain("a")
    (3, [0, 1], 'a')
    """
    return value.tolist() if hasattr(value, "tolist") else value


def ordered(values: Iterable[Any]) -> list[Label]:
    """Return the distinct labels, sorted: by value, or by type and text where they are of several types.

    Raises:
        DataError: a value cannot be a label.
    """
    found = [plain(v) for v in values]
    wrong = [v for v in found if not _fit(v)]
    if wrong:
        raise DataError(
            f"{len(wrong)} of {len(found)} labels are neither text nor finite number nor bool: {shown(wrong)}; "
            "turn them into text, or leave these rows out"
        )
    distinct = set(found)
    try:
        return sorted(distinct)
    except TypeError:
        return sorted(distinct, key=lambda v: (type(v).__name__, str(v)))


def shown(values: Sequence[Any], most: int = 5) -> str:
    """Return the most frequent values as text, with how often each occurs.

    >>> shown(["a", "b", "b"])
    "'b' (2 rows), 'a' (1 row)"
    """
    counts = Counter(map(repr, values)).most_common()
    parts = [f"{text:.60} ({n} row{'s' * (n > 1)})" for text, n in counts[:most]]
    more = [f"{len(counts) - most} more"] if len(counts) > most else []
    return ", ".join([*parts, *more])


def _fit(value: Any) -> bool:
    return isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value))
