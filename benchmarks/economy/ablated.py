"""``autotransfer`` with one idea taken out, for the ablations; the rest is the product's own command line.

    python -m benchmarks.economy.ablated NAME fit data ...

Store and head start are switched off by the product's own arguments. The others are decided on the driver, where the
policy runs, so it is enough to change them in this process.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from unittest.mock import patch

from autotransfer.cli import main
from autotransfer.search import policy, rounds

ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "store": ("--resources", "{disk_gb: 0}"),
    "head_start": ("--space", "{head_start: [false]}"),
}


def no_pruning() -> None:
    """Let every backbone read all rows."""
    rounds.HOPELESS = -1.0


def single_score() -> None:
    """Order backbones by the leave-one-out score of the ridge head alone."""
    rounds.WEIGHTS = {"score": 1.0}


def random_order() -> None:
    """Take whatever comes first in place of what is expected to improve most for its cost."""
    draws = random.Random(0)
    # Where policy has no such name any more this raises, while an assignment would change nothing.
    patch.object(policy, "improvement", lambda *_: draws.random() * 0.05).start()


CHANGES: Mapping[str, Callable[[], None]] = {
    "pruning": no_pruning,
    "single_score": single_score,
    "random_order": random_order,
}

if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    CHANGES.get(name, lambda: None)()
    sys.argv = ["autotransfer", *arguments, *ARGUMENTS.get(name, ())]
    main()
