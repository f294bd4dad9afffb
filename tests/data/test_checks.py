"""The one pass over all rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autotransfer.data import checks
from autotransfer.data.dataset import ItemDataset


def _rows(count: int, broken: int) -> ItemDataset:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (4, 4, 3), dtype=np.uint8) if i != broken else b"no picture" for i in range(count)]
    return ItemDataset("some", pictures, {"label": list("ab" * count)[:count]})


@pytest.mark.parametrize("at_once", [1, 3, 7])
def test_rows_that_are_read_a_few_at_a_time_are_all_read_in_order(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    rows = _rows(7, broken=4)
    whole = checks.check(rows, rows.targets["label"])
    monkeypatch.setattr(checks, "AT_ONCE", at_once)
    sliced = checks.check(rows, rows.targets["label"])
    assert sliced.usable == whole.usable == [0, 1, 2, 3, 5, 6]
    assert sliced.hashes == whole.hashes
    assert sliced.issues == whole.issues
    np.testing.assert_array_equal(sliced.measures, whole.measures)


def test_no_more_rows_are_asked_for_at_once_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, look, seen = _rows(9, broken=0), checks._look, list[int]()

    def stumbles(*given: Any) -> Any:
        seen.append(given[2])
        if given[2] == 3:
            raise RuntimeError("a reader's own fault")
        return look(*given)

    monkeypatch.setattr(checks, "AT_ONCE", 2)
    monkeypatch.setattr(checks, "_look", stumbles)
    with pytest.raises(RuntimeError, match="a reader's own fault"):
        checks.check(rows, rows.targets["label"])
    assert max(seen) <= 3
