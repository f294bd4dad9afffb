"""The strategies that autotransfer searches by default."""

from __future__ import annotations

from autotransfer.plugin import Strategy, hookimpl
from autotransfer_strategies.full import Full
from autotransfer_strategies.partial import Partial
from autotransfer_strategies.probe import Probe


@hookimpl
def autotransfer_strategies() -> list[Strategy]:
    """Return probe, partial and full fine-tuning."""
    return [Probe(), Partial(), Full()]
