"""The order of rows in an epoch."""

from __future__ import annotations

import numpy as np
import pytest

from autotransfer.train.pace import Pace
from autotransfer.train.sampling import alike, batches, steps_per_epoch


@pytest.mark.parametrize("rows", [1, 7, 33, 200, 1001])
def test_batches_of_like_length_hold_each_row_once_and_are_as_many(rows: int) -> None:
    rng = np.random.default_rng(0)
    order, lengths = rng.permutation(rows), rng.integers(1, 64, rows)
    found = alike(order, lengths, 8, seed=1)
    assert sorted(np.concatenate(found).tolist()) == list(range(rows))
    assert len(found) == steps_per_epoch(rows, 8)
    again = alike(order, lengths, 8, seed=1)
    assert all((a == b).all() for a, b in zip(found, again, strict=True))


def test_batches_of_like_length_pad_less_and_meet_others_in_the_next_epoch() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 64, 400)

    def padded(found: list[np.ndarray]) -> int:
        return int(sum(len(b) * lengths[b].max() for b in found) - lengths.sum())

    first, second = rng.permutation(400), rng.permutation(400)
    assert padded(alike(first, lengths, 8, 0)) < 0.3 * padded(list(batches(first, 8)))
    sets = [{frozenset(b.tolist()) for b in alike(o, lengths, 8, 0)} for o in (first, second)]
    assert not sets[0] & sets[1]


def test_long_and_short_batches_alternate() -> None:
    lengths = np.arange(80)
    longest = [lengths[b].max() for b in alike(np.arange(80), lengths, 8, seed=0)]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_the_pace_leaves_out_the_first_step_of_a_phase() -> None:
    pace = Pace()
    for phase, seconds in [(0, 9.0), (0, 1.0), (0, 3.0), (1, 9.0), (1, 2.0)]:
        pace.took(phase, seconds)
    assert pace.of(10) == pytest.approx(20.0)
    assert Pace().of(10) == 0.0
