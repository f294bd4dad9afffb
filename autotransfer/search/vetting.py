"""Strategies and values that cannot work, found before anything is trained."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from autotransfer.errors import ConfigError, PluginContractError, faults
from autotransfer.search.candidates import HEAD_START, UNKNOWN_STAGES, Space
from autotransfer.space import Choice, Domain
from autotransfer.spec import BackboneSpec, with_stages
from autotransfer.strategy import Strategy


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_Fits = tuple[Callable[[Any], bool], str]
_ABOVE: _Fits = (lambda v: _number(v) and v > 0, "numbers above 0")
_FROM: _Fits = (lambda v: _number(v) and v >= 0, "numbers, 0 or more")
_SHARE: _Fits = (lambda v: _number(v) and 0 <= v < 1, "numbers from 0 to below 1")
_SWITCH: _Fits = (lambda v: isinstance(v, bool), "true or false")
WANTED: Mapping[str, _Fits] = {
    "epochs": _ABOVE,
    "lr": _ABOVE,
    "lr_ratio": _FROM,
    "freeze_fraction": (lambda v: _number(v) and 0 <= v <= 1, "numbers from 0 to 1"),
    "layer_decay": (lambda v: _number(v) and 0 < v <= 1, "numbers above 0, up to 1"),
    "batch_size": (lambda v: _whole(v) and v >= 1, "whole numbers, 1 or more"),
    "patience": (lambda v: _whole(v) and v >= 0, "whole numbers, 0 or more"),
    "weight_decay": _FROM,
    "clip": _FROM,
    "label_smoothing": _SHARE,
    "dropout": _SHARE,
    "warmup": _SHARE,
    HEAD_START: _SWITCH,
}
"""What values of a name may be, as a test and in words; of other names the strategies that have them know."""


def check_values(given: Mapping[str, Domain]) -> None:
    """Refuse values of the caller's space that no training can take.

    Raises:
        ConfigError: all of them.
    """
    wrong = []
    for name, domain in given.items():
        fits, wanted = WANTED.get(name, (lambda v: True, ""))
        ends = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
        odd = [v for v in ends if not fits(v)]
        if odd:
            wrong.append(f"{name} holds {', '.join(map(repr, odd))}; wanted {wanted}")
    if wrong:
        raise ConfigError(faults("space cannot be used", wrong))


def vet(space: Space) -> None:
    """Leave out strategies whose own code raises, each with the reason; the others are searched without them.

    Each is asked for a recipe on one backbone of each kind, with values of its own space.

    Raises:
        PluginContractError: none is left that trains a pretrained backbone.
    """
    plain, faulty = replace(space, given={}, refused={}), dict[str, str]()
    kinds = {(type(s.input), s.transfer, s.fitted): s for s in reversed(list(space.specs.values()))}
    for strategy in space.strategies:
        for spec in kinds.values():
            try:
                _recipe(plain, strategy, spec)
            except Exception as error:  # a plugin may raise anything
                faulty[strategy.id] = f"its plugin raised {type(error).__name__}: {error} {_where(error)}"
                break
    own = [s for s in space.strategies if not s.baseline]
    if own and all(s.id in faulty for s in own):
        raise PluginContractError(faults("no strategy can be used", [f"{n}: {why}" for n, why in faulty.items()]))
    for name, why in faulty.items():
        space.refuse(name, why)
    space.strategies = [s for s in space.strategies if s.id not in faulty]


def _recipe(space: Space, strategy: Strategy, spec: BackboneSpec) -> None:
    known = spec if spec.stages else with_stages(spec, UNKNOWN_STAGES)
    if strategy.applies(space.known, known).ok:
        rng, domains = Random(0), space.domains(strategy, known)
        space.recipe(known, strategy, {name: domain.sample(rng) for name, domain in sorted(domains.items())})


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
