"""Made-up clips for the tests of audio networks."""

from __future__ import annotations

import numpy as np
import torch


def clips(lengths, seed=0, samples=None):
    """Return inputs of noisy tones of these lengths: padded waveforms and their mask."""
    rng = np.random.default_rng(seed)
    samples = samples or max(lengths)
    waveform, mask = np.zeros((len(lengths), samples), np.float32), np.zeros((len(lengths), samples), np.int64)
    for i, n in enumerate(lengths):
        tone = 0.2 * np.sin(2 * np.pi * (200 + 300 * i) * np.arange(n) / 16_000)
        waveform[i, :n], mask[i, :n] = tone + rng.normal(size=n) * 0.05, 1
    return {"waveform": torch.from_numpy(waveform), "attention_mask": torch.from_numpy(mask)}


def alone(inputs, row, beyond=0):
    """Return one clip of a batch without its padding, but for so many zeros."""
    n = int(inputs["attention_mask"][row].sum())
    inputs = {k: v[row : row + 1, :n] for k, v in inputs.items()}
    return {k: torch.nn.functional.pad(v, (0, beyond)) for k, v in inputs.items()}


def padding_does_not_count(network, lengths=(32_000, 20_000, 500, 1)):
    """Assert that each clip of a batch has the features that it has alone, and with more silence after it."""
    inputs = clips(lengths)
    with torch.no_grad():
        whole = network(**inputs)
        assert whole.isfinite().all()
        for row in range(len(lengths)):
            for beyond in (0, 7_777):
                gap = (network(**alone(inputs, row, beyond))[0] - whole[row]).abs().max()
                assert gap <= 1e-5 * whole.abs().max(), (lengths[row], beyond, float(gap))
