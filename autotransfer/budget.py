"""How long a search may go on."""

from __future__ import annotations

import re
from dataclasses import dataclass

from autotransfer.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a search may go on: seconds of wall clock, or a number of trials, or neither."""

    seconds: float | None = None
    trials: int | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None and not self.seconds > 0:
            raise ConfigError(f"budget is {self.seconds:g} seconds; wanted more than 0, such as 90, '10m' or '2h'")
        if self.trials is not None and self.trials < 1:
            raise ConfigError(f"trials is {self.trials}; wanted 1 or more")
        if self.seconds is not None and self.trials is not None:
            raise ConfigError(
                "both budget and trials were given; give one: budget for time, trials for reproducible runs"
            )

    @classmethod
    def parse(cls, budget: str | float | None, trials: int | None = None) -> Budget:
        """Return a budget from ``90``, ``"90"``, ``"90s"``, ``"10m"``, ``"1h30m"`` or None.

        Raises:
            ConfigError: the text is none of these, or not positive.
        """
        if budget is None or isinstance(budget, (int, float)):
            return cls(seconds=None if budget is None else float(budget), trials=trials)
        text = budget.strip().lower()
        found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text)
        if not text or not found:
            raise ConfigError(f"budget is {budget!r}; wanted seconds, or a text such as '90s', '10m', '1h30m'")
        hours, minutes, seconds = (float(part or 0) for part in found.groups())
        return cls(seconds=hours * 3600 + minutes * 60 + seconds, trials=trials)
