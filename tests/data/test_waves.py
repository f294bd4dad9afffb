"""Sounds augmented: gain, shift, masks in time and frequency; nothing beyond a clip's end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from autotransfer.data import waves
from autotransfer.data.rows import PreparedRows
from autotransfer.spec import AudioInput

SPEC = AudioInput(sample_rate=8_000, window=1.0)
LENGTHS = (8_000, 5_000, 1, 0)


def _inputs(seed: int = 0) -> dict[str, torch.Tensor]:
    wave = np.random.default_rng(seed).normal(0, 0.1, (len(LENGTHS), 8_000)).astype(np.float32)
    mask = np.arange(8_000) < np.asarray(LENGTHS)[:, None]
    return {"waveform": torch.from_numpy(wave * mask), "attention_mask": torch.from_numpy(mask.astype(np.int64))}


@pytest.mark.parametrize("kind", ["light", "strong"])
def test_shapes_stay_and_what_follows_a_clip_is_silent(kind: str) -> None:
    given = _inputs()
    before = given["waveform"].clone()
    made: Any = waves.altered(given, SPEC, kind, np.random.default_rng(0))
    assert torch.equal(given["waveform"], before)
    assert made["waveform"].shape == before.shape
    assert made["waveform"].dtype == torch.float32
    assert torch.equal(made["attention_mask"], given["attention_mask"])
    assert made["waveform"].isfinite().all()
    assert (made["waveform"][given["attention_mask"] == 0] == 0).all()
    assert not torch.equal(made["waveform"][0], before[0])


def test_light_is_a_gain_and_a_shift() -> None:
    gains, shifts = [], []
    for seed in range(60):
        given = _inputs(seed)["waveform"][0].numpy()
        made = waves._other(given, 8_000, "light", np.random.default_rng(seed))
        by = int(np.argmax(np.correlate(made, given, "full"))) - 7_999
        kept = slice(max(0, by), 8_000 + min(0, by))
        source = slice(max(0, -by), 8_000 - max(0, by))
        gain = float(made[kept] @ given[source] / (given[source] @ given[source]))
        np.testing.assert_allclose(made[kept], gain * given[source], atol=1e-6)
        assert np.count_nonzero(made) <= 8_000 - abs(by)
        gains.append(20 * np.log10(gain))
        shifts.append(by)
    assert -6 <= min(gains) < -3 < 3 < max(gains) <= 6
    assert -800 <= min(shifts) < -300 < 300 < max(shifts) <= 800


def test_masks_in_time_leave_a_hundredth_of_the_amplitude(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waves, "GAIN", 0.0)
    monkeypatch.setattr(waves, "SHIFT", 0.0)
    monkeypatch.setattr(waves, "_without_bands", lambda wave, rate, rng: wave)
    shares = []
    for seed in range(40):
        ratio = waves._other(np.ones(8_000, np.float32), 8_000, "strong", np.random.default_rng(seed))
        assert set(np.round(np.log10(np.unique(ratio)), 3).tolist()) <= {0.0, -2.0, -4.0}
        assert np.diff((ratio < 1).astype(int), prepend=0, append=0).clip(0).sum() <= 2
        shares.append((ratio < 1).mean())
    assert 0.05 < max(shares) <= 0.4
    assert 0.1 < np.mean(shares) < 0.3


def test_masks_in_frequency_are_bands_of_the_mel_scale() -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 8_000).astype(np.float32)
    before = np.abs(np.fft.rfft(wave))
    mels = 2595 * np.log10(1 + np.fft.rfftfreq(8_000, 1 / 8_000) / 700)
    for seed in range(40):
        ratio = np.abs(np.fft.rfft(waves._without_bands(wave, 8_000, np.random.default_rng(seed)))) / before
        out = ratio < 0.5
        np.testing.assert_allclose(ratio[~out], 1.0, atol=1e-2)
        assert (ratio[out] < 0.02).all()
        assert np.diff(out.astype(int), prepend=0, append=0).clip(0).sum() <= 2
        assert (mels[1:] - mels[:-1])[out[1:]].sum() <= 2 * 15 / 80 * mels[-1] + 10


def test_a_network_without_a_mask_gets_one_tensor() -> None:
    spec = AudioInput(sample_rate=8_000, window=1.0, mask=False)
    made = waves.altered(_inputs()["waveform"], spec, "strong", np.random.default_rng(0))
    assert isinstance(made, torch.Tensor)
    assert made.shape == (4, 8_000)


def test_rows_are_augmented_the_same_for_the_same_numbers() -> None:
    class Source:
        def load(self, index: int) -> Any:
            return (np.random.default_rng(index).normal(0, 0.1, 4_000 + index).astype(np.float32), 8_000)

    source: Any = Source()
    rows = PreparedRows(source, range(3), SPEC, torch.zeros(3))
    one, same, other = (rows.batch([2, 0], "strong", np.random.default_rng(s))["waveform"] for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(rows.batch([2, 0], "none", np.random.default_rng(0))["waveform"], rows.batch([2, 0])["waveform"])
