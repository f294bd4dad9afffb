"""The baseline of sounds: statistics of a log-mel spectrogram."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autotransfer.plugin import FittedState
from autotransfer_audio.mel import Mel, frames_of, lengths_of, mask_of, masked_mean

MELS = 40
FLOOR = 1e-8
"""Power added before the logarithm."""
CONSTANT = 1e-6
"""Statistics that vary by less are left out."""


class LogMelStatistics(nn.Module):
    """Mean and deviation over time of each of 40 log-mel bands, deviation of their changes, and the clip's length.

    Each is centred and scaled by its own spread on training rows; then all share one scale, the largest spread
    being 1.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self.front = Mel(16_000, 400, 160, MELS, fft=512, low=50.0)
        self.register_buffer("mean", torch.zeros(3 * MELS + 1))
        self.register_buffer("scale", torch.ones(3 * MELS + 1))

    def fit(self, rows: Iterable[Mapping[str, Any]], targets: Tensor) -> FittedState:
        """Return mean and 1 / spread of each statistic, ``float32`` [121]."""
        with torch.no_grad():
            found = torch.cat([self.statistics(**batch) for batch in rows]).double()
        spread = found.std(0, correction=0)
        scale = torch.where(spread > CONSTANT, 1.0 / spread.clamp_min(CONSTANT), torch.zeros_like(spread))
        return FittedState(tensors={"mean": found.mean(0).float(), "scale": scale.float()})

    def restore(self, state: FittedState) -> None:
        """Take on mean and scale."""
        self.mean, self.scale = state.tensors["mean"], state.tensors["scale"]

    def forward(self, waveform: Tensor, attention_mask: Tensor) -> Tensor:
        """Return ``float32`` [B, 121] of clips [B, S] under their mask [B, S]."""
        return (self.statistics(waveform, attention_mask) - self.mean) * self.scale

    def statistics(self, waveform: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the raw statistics, ``float32`` [B, 121]."""
        logs = (self.front(waveform) + FLOOR).log()
        lengths = lengths_of(attention_mask)
        counts = frames_of(lengths, self.front.hop)
        held = mask_of(counts, logs.shape[1])
        mean = masked_mean(logs, held)
        spread = masked_mean((logs - mean[:, None]).square(), held).sqrt()
        changes = masked_mean(logs.diff(dim=1).square(), mask_of(counts - 1, logs.shape[1] - 1)).sqrt()
        return torch.cat([mean, spread, changes, (lengths + 1.0).log()[:, None]], dim=1)
