"""How fast a training goes: what the cost model learns from, beside the frozen pass of the survey."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Pace:
    """Seconds of the steps that trained a part of the backbone."""

    steps: int = 0
    seconds: float = 0.0
    phase: int = -1

    def took(self, phase: int, seconds: float) -> None:
        """Count a step; a phase's first one here is left out: it may write activations and warms up."""
        if phase == self.phase:
            self.steps += 1
            self.seconds += seconds
        self.phase = phase

    def of(self, steps: int) -> float:
        """Return the seconds of so many steps; 0 where none was counted."""
        return steps * self.seconds / self.steps if self.steps else 0.0
