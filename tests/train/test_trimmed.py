"""Inputs whose padding is cut, and passes that take rows of like length together."""

from __future__ import annotations

import numpy as np
import torch

from autotransfer.train.ragged import STEP, in_order, trimmed, windows


def inputs(lengths, width):
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    return {
        "waveform": torch.randn(len(lengths), width) * mask,
        "attention_mask": mask,
        "rate": torch.ones(len(lengths)),
    }


def test_what_is_padded_in_every_row_is_cut_at_whole_steps():
    given = inputs([STEP - 7, STEP + 1, 5], 5 * STEP)
    found = trimmed(given)
    assert found["waveform"].shape == found["attention_mask"].shape == (3, 2 * STEP)
    assert torch.equal(found["waveform"], given["waveform"][:, : 2 * STEP])
    assert found["rate"] is given["rate"]
    assert not given["waveform"][:, 2 * STEP :].any()


def test_full_rows_short_inputs_and_tensors_stay_as_they_are():
    full = inputs([3 * STEP + 1], 3 * STEP + 1)
    assert torch.equal(trimmed(full)["waveform"], full["waveform"])
    tokens = inputs([3, 1], 9)
    assert trimmed(tokens) is tokens
    plain = torch.randn(2, 4 * STEP)
    assert trimmed(plain) is plain
    empty = inputs([0, 0], 2 * STEP)
    assert trimmed(empty)["waveform"].shape == (2, STEP)


class Rows:
    """Rows whose length is known one by one."""

    def __init__(self, lengths):
        self.given = np.asarray(lengths)
        self.asked = []

    def lengths(self, indices=None):
        if indices is None:
            return None
        self.asked += list(indices)
        return self.given[list(indices)]


def test_rows_of_a_window_are_sorted_and_later_ones_not_asked_for():
    rows = Rows(np.random.default_rng(0).permutation(100))
    first = next(windows(rows, 0, 100, 5))
    assert sorted(n for b in first for n in b) == list(range(20))
    assert max(rows.asked) < 20
    lengths = [int(rows.given[n]) for b in first for n in b]
    assert lengths == sorted(lengths)
    results = [torch.tensor(b) for b in first]
    assert in_order(first, results).tolist() == list(range(20))


def test_maps_of_masked_inputs_have_channels_first_whatever_their_length():
    from autotransfer.train.heads import pool_activation

    mask = torch.zeros(2, 480)
    mask[0, :240] = mask[1] = 1
    for time in (8, 48, 24):  # as many frames as channels, or as frequencies
        values = torch.randn(2, 48, time, 8)
        pooled = pool_activation(values, mask)
        assert pooled.shape == (2, 48)
        assert torch.allclose(pooled[0], values[0, :, : time // 2].mean((1, 2)), atol=1e-6)
        assert torch.allclose(pooled[1], values[1].mean((1, 2)), atol=1e-6)
