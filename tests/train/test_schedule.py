from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from autotransfer.schema import Phase
from autotransfer.train.sampling import batches, epoch_order, steps_per_epoch, stream
from autotransfer.train.schedule import Segment, rate, segments, total_steps

TWO = [Phase(epochs=1, freeze=3), Phase(epochs=2)]


def test_phases_are_laid_end_to_end():
    assert segments(TWO, 4, 0, None) == [Segment(0, 0, 4), Segment(1, 4, 12)]
    assert total_steps(TWO, 4) == 12


def test_rungs_cut_phases():
    assert segments(TWO, 4, 0, 8) == [Segment(0, 0, 4), Segment(1, 4, 8)]
    assert segments(TWO, 4, 8, None) == [Segment(1, 8, 12)]
    assert segments(TWO, 4, 2, 4) == [Segment(0, 2, 4)]
    assert segments(TWO, 4, 12, None) == []
    assert segments(TWO, 4, 0, 99) == segments(TWO, 4, 0, None)


def test_parts_of_an_epoch_have_at_least_one_step_and_none_at_all_has_none():
    assert segments([Phase(epochs=0.01), Phase(epochs=0), Phase(epochs=0.5)], 4, 0, None) == [
        Segment(0, 0, 1),
        Segment(2, 1, 3),
    ]


def test_the_rate_rises_in_a_line_and_falls_on_a_cosine():
    got = [rate(s, Segment(0, 10, 20), warmup=0.25) for s in range(10, 20)]
    fall = [0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(8)]
    assert got == pytest.approx([1 / 3, 2 / 3, *fall])


def test_without_warmup_the_first_step_has_the_full_rate_and_the_last_is_above_zero():
    got = [rate(s, Segment(0, 0, 5), warmup=0.0) for s in range(5)]
    assert got[0] == 1.0
    assert got == sorted(got, reverse=True)
    assert got[-1] > 0
    assert rate(3, Segment(0, 3, 4), warmup=0.9) == 1.0


@pytest.mark.parametrize(("rows", "size", "lengths"), [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (1, 4, [1]), (4, 4, [4])])
def test_a_single_row_left_over_joins_the_batch_before(rows, size, lengths):
    found = list(batches(np.arange(rows), size))
    assert [len(b) for b in found] == lengths
    assert np.concatenate(found).tolist() == list(range(rows))
    assert steps_per_epoch(rows, size) == len(lengths)


def test_shuffled_epochs_hold_each_row_once_and_depend_on_the_seed_alone():
    targets = torch.zeros(20, dtype=torch.int64)
    one, again, other = (epoch_order(targets, "shuffle", s) for s in (1, 1, 2))
    assert sorted(one) == list(range(20))
    assert one.tolist() == again.tolist() != other.tolist()


def test_balanced_epochs_draw_classes_evenly():
    targets = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    counts = np.bincount(targets.numpy()[epoch_order(targets, "balanced", 0)])
    assert counts.sum() == 1000
    assert (abs(counts - 1000 / 3) < 80).all()


def test_balanced_sampling_of_numbers_is_shuffling():
    order = epoch_order(torch.randn(20, 1), "balanced", 0)
    assert sorted(order) == list(range(20))


def test_streams_differ_by_every_name():
    assert len({stream(0, "a", 1), stream(0, "a", 2), stream(1, "a", 1), stream(0, "b", 1)}) == 4
    assert stream(0, "a", 1) == stream(0, "a", 1) < 2**63
