"""The front end: a waveform becomes a mel spectrogram, in torch, with fixed buffers.

A clip comes as a waveform ``float32`` [B, S], zero beyond its end, and ``attention_mask`` [B, S], 1 within the clip.
What is computed of a clip does not depend on how many zeros follow it: frames start at fixed places, those past its
end are masked, and statistics are taken over the others alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

_LINEAR_STEP, _LINEAR_END, _LOG_STEP = 200.0 / 3, 1000.0, math.log(6.4) / 27
"""Slaney's scale: linear up to 1 kHz, logarithmic above (Auditory Toolbox, 1998)."""
Array = np.ndarray[Any, Any]


def lengths_of(mask: Tensor) -> Tensor:
    """Return the samples of each clip, ``int64`` [B]."""
    return mask.long().sum(1)


def frames_of(lengths: Tensor, hop: int) -> Tensor:
    """Return how many frames begin within each clip, at least one: ``int64`` [B]."""
    return ((lengths + hop - 1) // hop).clamp_min(1)


def mask_of(counts: Tensor, frames: int) -> Tensor:
    """Return a mask ``bool`` [B, frames] that is true for the first ``counts`` frames of each clip."""
    return torch.arange(frames, device=counts.device) < counts[:, None]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the frames that a mask holds: [B, T, C] and [B, T] give ``float32`` [B, C]."""
    weight = mask[..., None].float()
    mean: Tensor = (values.float() * weight).sum(1) / weight.sum(1).clamp_min(1.0)
    return mean


def mel_filters(
    sample_rate: int, fft: int, mels: int, low: float = 0.0, high: float | None = None, *, area: bool = True
) -> Array:
    """Return triangles on Slaney's mel scale, ``float64`` [fft // 2 + 1, mels].

    Args:
        sample_rate: of the waveform, in hertz.
        fft: length of the Fourier transform.
        mels: number of triangles.
        low: where the first begins, in hertz.
        high: where the last ends; None: half the sample rate.
        area: triangles have the same area; else the same height.
    """
    ends = _to_mel(np.array([low, sample_rate / 2 if high is None else high]))
    places = _to_hertz(np.linspace(ends[0], ends[1], mels + 2))
    bins = np.linspace(0.0, sample_rate / 2, fft // 2 + 1)[:, None]
    rising = (bins - places[:-2]) / np.diff(places)[:-1]
    falling = (places[2:] - bins) / np.diff(places)[1:]
    triangles: Array = np.maximum(0.0, np.minimum(rising, falling))
    return triangles * (2.0 / (places[2:] - places[:-2])) if area else triangles


def _to_mel(hertz: Array) -> Array:
    above = _LINEAR_END / _LINEAR_STEP + np.log(np.maximum(hertz, _LINEAR_END) / _LINEAR_END) / _LOG_STEP
    return np.where(hertz < _LINEAR_END, hertz / _LINEAR_STEP, above)


def _to_hertz(mel: Array) -> Array:
    knee = _LINEAR_END / _LINEAR_STEP
    return np.where(mel < knee, mel * _LINEAR_STEP, _LINEAR_END * np.exp(_LOG_STEP * (mel - knee)))


class Mel(nn.Module):
    """Power mel spectrogram with Hann windows: [B, S] -> ``float32`` [B, T, mels], T = ceil(S / hop).

    Frame t begins at sample t * hop, or has its middle there where ``centred``; the beginning is then mirrored, as
    librosa and Whisper do it. The end is followed by zeros.

    Args:
        sample_rate: of the waveform, in hertz.
        window: samples of a frame.
        hop: samples from frame to frame.
        mels: bands.
        fft: length of the Fourier transform; None: ``window``.
        low: lowest frequency in hertz.
        high: highest frequency in hertz; None: half the sample rate.
        centred: see above.
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        sample_rate: int = 16_000,
        window: int = 400,
        hop: int = 160,
        mels: int = 64,
        *,
        fft: int | None = None,
        low: float = 0.0,
        high: float | None = None,
        centred: bool = False,
    ) -> None:
        super().__init__()
        self.length, self.hop, self.fft, self.centred = window, hop, fft or window, centred
        filters = mel_filters(sample_rate, self.fft, mels, low, high)
        # Not saved with a model: they are made again from the settings, the same to the last bit.
        self.register_buffer("window", torch.hann_window(window, periodic=True), persistent=False)
        self.register_buffer("filters", torch.tensor(filters, dtype=torch.float32), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the power in each band."""
        with torch.autocast(waveform.device.type, enabled=False):  # squares of small numbers need every bit
            found: Tensor = self._power(waveform.float()) @ self.filters
            return found

    def _power(self, waveform: Tensor) -> Tensor:
        frames = max(1, -(-waveform.shape[1] // self.hop))
        before = self.length // 2 if self.centred else 0
        padded = functional.pad(waveform, (0, max(0, (frames - 1) * self.hop + self.length - waveform.shape[1])))
        if before:
            padded = torch.cat([padded[:, 1 : before + 1].flip(1), padded], dim=1)
        pieces = padded.unfold(1, self.length, self.hop)[:, :frames]
        spectrum = torch.fft.rfft(pieces * self.window, n=self.fft)
        power: Tensor = spectrum.real.square() + spectrum.imag.square()
        return power


class LogMel(nn.Module):
    """Log-mel spectrogram of which each clip has mean 0 and variance 1 over its own frames, zero beyond them.

    So neither a recording's gain nor what follows its end counts.
    """

    FLOOR = 1e-9
    """Power added before the logarithm: silence is a number."""

    def __init__(self, sample_rate: int = 16_000, mels: int = 64, hop: int = 160, window: int = 400) -> None:
        super().__init__()
        fft = 1 << (window - 1).bit_length()
        self.mel = Mel(sample_rate, window, hop, mels, fft=fft, low=50.0)
        self.hop = hop

    def forward(self, waveform: Tensor, mask: Tensor) -> Tensor:
        """Return ``float32`` [B, T, mels] of clips [B, S] under their mask [B, S]."""
        logs = (self.mel(waveform) + self.FLOOR).log()
        held = mask_of(frames_of(lengths_of(mask), self.hop), logs.shape[1])[..., None]
        count = held.sum((1, 2), keepdim=True) * logs.shape[2]
        mean = (logs * held).sum((1, 2), keepdim=True) / count
        spread = (((logs - mean) * held).square().sum((1, 2), keepdim=True) / count).sqrt()
        scaled: Tensor = (logs - mean) / spread.clamp_min(1e-3) * held
        return scaled
