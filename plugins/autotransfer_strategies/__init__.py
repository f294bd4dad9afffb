"""The strategies that autotransfer searches by default."""

from __future__ import annotations

from autotransfer.plugin import Strategy, hookimpl
from autotransfer_strategies.full import Full
from autotransfer_strategies.partial import Partial
from autotransfer_strategies.probe import Probe
from autotransfer_strategies.ridge import Depths, Ridge


@hookimpl
def autotransfer_strategies() -> list[Strategy]:
    """Return probe, partial and full fine-tuning, and the heads in closed form."""
    return [Probe(), Partial(), Full(), Ridge(), Depths()]
