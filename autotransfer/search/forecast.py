"""Forecasts: what a run will cost, before anything is downloaded or trained."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from autotransfer.budget import Budget
from autotransfer.profiles import Profile
from autotransfer.recipes import spec_id
from autotransfer.schema import Candidate, Forecast, Plan
from autotransfer.search.costs import BACKWARD, EPOCHS
from autotransfer.spec import BackboneSpec

BASE_BYTES = 700_000_000
"""Memory of a worker before it holds a network: the interpreter, torch, rows of a batch."""
COPIES = 5
"""Of the weights while they are trained: themselves, gradients, AdamW's two moments, the best so far."""
DEPTHS = 1.24
"""Cost of a survey pass in forward passes: features are pooled at every cut."""
FEATURES = 8000
"""Bytes of pooled features that a row leaves, all depths together, where nothing is known."""
FIRST_RUNG = 0.2
"""Share of a full training after which recipes are first compared."""
SECONDS = 0.3
"""How long the speed of this machine is measured."""


def multiply_rate() -> float:
    """Return the multiply-accumulates a second of one thread on this machine, on a convolution of middling size."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        inputs, layer = torch.zeros(4, 64, 28, 28), torch.nn.Conv2d(64, 64, 3, padding=1)
        with torch.no_grad():
            layer(inputs)
            began, count = time.process_time(), 0
            while time.process_time() - began < SECONDS:
                layer(inputs)
                count += 1
        return count * 4 * 28 * 28 * 64 * 64 * 9 / max(1e-6, time.process_time() - began)
    finally:
        torch.set_num_threads(threads)


def forecasts(
    profile: Profile, specs: Sequence[BackboneSpec], measured: Mapping[str, float], rate: float
) -> tuple[Forecast, ...]:
    """Return what each transferring backbone will cost on one worker.

    Args:
        profile: of the data.
        specs: the pool.
        measured: seconds of one row's forward pass by backbone, where an earlier run on this machine tells them.
        rate: multiply-accumulates a second, for the others; those whose card has no cost have no forecast in seconds.
    """
    found = []
    for spec in (s for s in specs if s.transfer):
        row = measured.get(spec.id, spec.macs / rate if spec.macs else None)
        seen = profile.train + profile.validation
        found.append(
            Forecast(
                backbone=spec.id,
                survey_seconds=None if row is None else DEPTHS * row * seen,
                training_seconds=None if row is None else (1 + BACKWARD) * EPOCHS * row * profile.train,
                memory_bytes=BASE_BYTES + COPIES * 4 * (spec.params or 0),
                disk_bytes=seen * (FEATURES + spec.input.row_bytes),
                measured=spec.id in measured,
            )
        )
    return tuple(found)


def foretold(plan: Plan, found: tuple[Forecast, ...], budget: Budget, workers: int) -> Plan:
    """Return a plan with its forecasts: seconds of the whole run, and the trials that the budget holds."""
    by = {f.backbone: f for f in found}
    survey = sum(f.survey_seconds or 0.0 for f in found)
    first = [seconds for c in plan.candidates if (seconds := _first(c, by)) is not None]
    whole = (survey + sum(first)) / workers
    trials = float(budget.trials) if budget.trials is not None else None
    if budget.seconds is not None:
        whole = budget.seconds
        mean = sum(first) / len(first) if first else 0.0
        left = max(0.0, 0.9 * budget.seconds * workers - survey)
        trials = left / mean if mean else None
    return replace(plan, forecasts=found, seconds=whole or None, expected_trials=trials)


def _first(candidate: Candidate, by: Mapping[str, Forecast]) -> float | None:
    """Return the seconds of a candidate's first rung: heads cost next to nothing."""
    known = by.get(spec_id(candidate.recipe))
    if known is None or known.training_seconds is None or "lr_ratio" not in candidate.recipe.values:
        return None
    return FIRST_RUNG * known.training_seconds
