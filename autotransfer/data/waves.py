"""What a network hears of clips, as one array: padded, masked, kept in 16 bits, and augmented for training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autotransfer.data.audio import Clip, heard

if TYPE_CHECKING:
    from torch import Tensor

    from autotransfer.spec import AudioInput

VERSION = 1
"""Of what is kept; raised whenever the same clip would give other samples."""
STEPS = 32_767
"""Of a sample on each side of zero, the loudest being the last."""
GAIN, SHIFT = 6.0, 0.1
"""Decibels up or down, and share of a clip's length to and fro, at most."""
MASKS = 2
"""Masks in time, and as many in frequency, each of any width up to the widest."""
SECONDS, SHARE, BANDS = 0.7, 0.2, 15 / 80
"""Of the widest masks: in time, but no larger a share of the clip, and as a share of the mel scale."""
LEFT = 0.01
"""Amplitude that a mask leaves (-40 dB): silence in the middle of a sound would be an outlier to a logarithm."""
Array = np.ndarray[Any, Any]


def samples_of(spec: AudioInput) -> int:
    """Return the samples of a window."""
    return max(1, round(spec.window * spec.sample_rate))


def shapes(count: int, spec: AudioInput) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return shape and type of the arrays that so many clips are kept in."""
    return {
        "waves": ((count, samples_of(spec)), np.int16),
        "peaks": ((count,), np.float32),
        "lengths": ((count,), np.int64),
    }


def put(to: dict[str, Array], slot: int, clip: Clip, spec: AudioInput) -> None:
    """Write what is heard of a clip into one row of such arrays: in 16 bits of its own loudest sample."""
    wave = heard(clip, spec.sample_rate, samples_of(spec))
    peak = float(np.abs(wave).max(initial=0.0))
    to["waves"][slot] = 0
    to["waves"][slot, : len(wave)] = np.rint(wave * (STEPS / peak)) if peak > 0 else 0
    to["peaks"][slot], to["lengths"][slot] = peak, len(wave)


def inputs(rows: dict[str, Array], spec: AudioInput) -> dict[str, Tensor] | Tensor:
    """Return kept rows as ``waveform`` ``float32`` [B, S] and its mask ``int64`` [B, S], or the first alone."""
    waveform = rows["waves"].astype(np.float32)
    waveform *= (rows["peaks"] / np.float32(STEPS))[:, None]
    if not spec.mask:
        return torch.from_numpy(waveform)
    mask = (np.arange(waveform.shape[1]) < rows["lengths"][:, None]).astype(np.int64)
    return {"waveform": torch.from_numpy(waveform), "attention_mask": torch.from_numpy(mask)}


def altered(
    inputs: Mapping[str, Tensor] | Tensor, spec: AudioInput, kind: str, rng: np.random.Generator
) -> dict[str, Tensor] | Tensor:
    """Return what :func:`inputs` gave, augmented: of the same shapes, and as silent beyond each clip's end.

    ``light`` changes gain and place in time; ``strong`` masks stretches of time and bands of frequency beside, as
    SpecAugment does (Park et al. 2019, policy SM without warping). The bands are taken out of the waveform, so that
    it serves whatever spectrogram a network makes of it, and networks that make none.

    Args:
        inputs: ``waveform`` [B, S] and its mask, or the first alone: then a window counts as one clip.
        spec: says the sample rate.
        kind: ``light`` or ``strong``.
        rng: random numbers.
    """
    waveform = inputs if isinstance(inputs, torch.Tensor) else inputs["waveform"]
    mask = torch.ones_like(waveform) if isinstance(inputs, torch.Tensor) else inputs["attention_mask"]
    lengths = [int(n) for n in mask.sum(1)]
    made = waveform.numpy().copy()
    for wave, length in zip(made, lengths, strict=True):
        wave[:length] = _other(wave[:length], spec.sample_rate, kind, rng)
    found = torch.from_numpy(made)
    return found if isinstance(inputs, torch.Tensor) else {**inputs, "waveform": found}


def _other(wave: Array, rate: int, kind: str, rng: np.random.Generator) -> Array:
    """Return a clip ``float32`` [S] as it might have been recorded."""
    if len(wave) < 2:  # nothing, or what stands for it
        return wave
    made = np.zeros_like(wave)
    by = round(rng.uniform(-SHIFT, SHIFT) * len(wave))
    kept = wave[max(0, -by) : len(wave) - max(0, by)]
    made[max(0, by) : max(0, by) + len(kept)] = kept * np.float32(10 ** (rng.uniform(-GAIN, GAIN) / 20))
    if kind == "strong":
        for _ in range(MASKS):
            width = int(rng.uniform(0, min(SECONDS * rate, SHARE * len(wave))))
            start = int(rng.integers(0, len(wave) - width + 1))
            made[start : start + width] *= LEFT
        made = _without_bands(made, rate, rng)
    return made


def _without_bands(wave: Array, rate: int, rng: np.random.Generator) -> Array:
    spectrum = np.fft.rfft(wave)
    highest = 2595.0 * np.log10(1.0 + rate / 1400.0)
    mels = 2595.0 * np.log10(1.0 + np.fft.rfftfreq(len(wave), 1.0 / rate) / 700.0)
    for _ in range(MASKS):
        width = rng.uniform(0, BANDS * highest)
        low = rng.uniform(0, highest - width)
        spectrum[(mels >= low) & (mels < low + width)] *= LEFT
    made: Array = np.fft.irfft(spectrum, len(wave)).astype(np.float32)
    return made
