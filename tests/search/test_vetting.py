"""Strategies of plugins that raise, and values that no training can take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autotransfer import engine
from autotransfer.config import Settings
from autotransfer.errors import ConfigError, PluginContractError

PLUGIN = """
from autotransfer.plugin import Phase, Strategy, Verdict, hookimpl


class Odd(Strategy):
    id = "odd/{name}"
    summary, needs, when = "odd", "nothing", "never"

    def applies(self, profile, card):
        {applies}
        return Verdict(True)

    def space(self, profile, card):
        {space}
        return {{}}

    def phases(self, profile, card, recipe):
        {phases}
        return [Phase(epochs=1, lr=1e-3)]


@hookimpl
def autotransfer_strategies():
    return [Odd()]
"""


def _plugin(folder: Path, name: str, where: str) -> str:
    bodies = {n: 'raise KeyError("boom")' if n == where else "pass" for n in ("applies", "space", "phases")}
    file = folder / f"{name}.py"
    file.write_text(PLUGIN.format(name=name, **bodies), encoding="utf-8")
    return str(file)


def _ready(data: Any, toynet: str, *plugins: str, **given: Any) -> Any:
    own = {"backbones": "toynet/small", "executor": "serial", "trials": 1, **given}
    return engine.make_ready(Settings(data=data, plugins=[toynet, *plugins], **own), engine.silent)


@pytest.mark.parametrize("where", ["applies", "space", "phases"])
def test_a_strategy_that_raises_is_left_out_with_its_reason(
    stripes: Any, toynet: str, tmp_path: Path, where: str
) -> None:
    ready = _ready(stripes, toynet, _plugin(tmp_path, "odd", where))
    told = {r.name: r.reason for r in ready.refusals}
    assert told["odd/odd"].startswith("its plugin raised KeyError: 'boom' (odd.py, line")
    assert "odd/odd" not in {s.id for s in ready.space.strategies}
    assert "core/probe" in {s.id for s in ready.space.strategies}


def test_where_no_other_is_asked_for_it_is_one_error(stripes: Any, toynet: str, tmp_path: Path) -> None:
    plugin = _plugin(tmp_path, "odd", "space")
    with pytest.raises(PluginContractError, match="no strategy can be used: odd/odd: its plugin raised KeyError"):
        _ready(stripes, toynet, plugin, strategies=["odd/odd"])


def test_a_sound_one_stays_and_so_do_all_of_ours(stripes: Any, toynet: str, tmp_path: Path) -> None:
    ready = _ready(stripes, toynet, _plugin(tmp_path, "odd", "nowhere"))
    assert "odd/odd" in {s.id for s in ready.space.strategies}
    assert not [r for r in ready.refusals if "its plugin raised" in r.reason]


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("lr", -1, "numbers above 0"),
        ("lr", [1e-3, "fast"], "numbers above 0"),
        ("lr", True, "numbers above 0"),
        ("epochs", -3, "numbers above 0"),
        ("batch_size", 2.5, "whole numbers, 1 or more"),
        ("freeze_fraction", 2, "numbers from 0 to 1"),
        ("freeze_fraction", {"uniform": [0.5, 1.5]}, "numbers from 0 to 1"),
        ("head_start", "maybe", "true or false"),
        ("dropout", 1.0, "numbers from 0 to below 1"),
    ],
)
def test_values_that_no_training_can_take_are_refused(
    stripes: Any, toynet: str, name: str, value: Any, wanted: str
) -> None:
    with pytest.raises(ConfigError, match=f"space cannot be used: {name} holds .*; wanted {wanted}"):
        _ready(stripes, toynet, space={name: value})


def test_all_of_them_at_once_and_good_ones_pass(stripes: Any, toynet: str) -> None:
    with pytest.raises(ConfigError, match=r"(?s)lr holds -1.*epochs holds 0"):
        _ready(stripes, toynet, space={"lr": -1, "epochs": 0})
    good = {"lr": {"log": [1e-4, 1e-2]}, "epochs": 2.5, "batch_size": {"int": [8, 16]}, "dropout": [0, 0.5]}
    assert _ready(stripes, toynet, space=good).space.given.keys() == good.keys()
