"""One model that answers several threads at once."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from autotransfer import engine
from autotransfer.config import Settings
from autotransfer.train import depths


def test_each_thread_gets_the_answers_for_its_own_rows(
    stripes: Any, toynet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")  # no baseline may win
    given: dict[str, Any] = {"backbones": "toynet/small", "plugins": [toynet], "executor": "serial", "trials": 1}
    model = engine.fit(Settings(data=stripes, strategies=["core/depths"], **given))
    assert model.recipe.strategy == "core/depths"
    halves = stripes[0][:8], stripes[0][8:16]
    own = depths.call

    def slowly(*given: Any) -> Any:
        result = own(*given)
        time.sleep(0.005)  # another thread's pass ends within this one's hooks
        return result

    monkeypatch.setattr(depths, "call", slowly)
    alone = [model.predict_proba(half) for half in halves]
    wrong: list[int] = []

    def ask(number: int) -> None:
        for _ in range(20):
            if not np.array_equal(model.predict_proba(halves[number]), alone[number]):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in (0, 1)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong
