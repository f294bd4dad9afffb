"""Texts augmented for training: some tokens are hidden, alone or in spans; special ones never are."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

DROPPED = 0.1
"""Chance of each token to be hidden."""
SPANNED = 0.15
"""Share of the tokens that spans hide."""
END, LONGEST = 0.2, 10
"""Chance of a span to end after each token, and tokens of the longest one."""
Array = np.ndarray[Any, Any]


def hidden(tokens: Array, special: Collection[Any], mask: Any, kind: str, rng: np.random.Generator) -> Array:
    """Return a text's tokens with some of them hidden, at least one of them not.

    ``light`` hides tokens one by one, a tenth of them (word dropout: Iyyer et al. 2015, section 3.2); ``strong``
    hides spans beside them, of geometric length, 15 % of the tokens (Joshi et al. 2020, SpanBERT, section 3.1).

    Args:
        tokens: [T], ids or words.
        special: those that are never hidden.
        mask: stands in place of a hidden token; None: hidden ones are left out.
        kind: ``light`` or ``strong``.
        rng: random numbers.
    """
    free = np.flatnonzero(~np.isin(tokens, list(special))) if special else np.arange(len(tokens))
    if len(free) < 2:
        return tokens
    chosen = rng.random(len(free)) < DROPPED
    if kind == "strong":
        chosen |= _spans(len(free), rng)
    if chosen.all():
        chosen[rng.integers(len(free))] = False
    if mask is None:
        return np.delete(tokens, free[chosen])
    made = tokens.copy()
    made[free[chosen]] = mask
    return made


def _spans(count: int, rng: np.random.Generator) -> Array:
    """Return which of so many tokens lie in a span, ``bool`` [count]: 15 % of them, rounded up."""
    inside, wanted = np.zeros(count, dtype=bool), int(np.ceil(SPANNED * count))
    while (left := wanted - int(inside.sum())) > 0:
        length = min(int(rng.geometric(END)), LONGEST, left)
        start = int(rng.integers(count - length + 1))
        inside[start : start + length] = True
    return inside
