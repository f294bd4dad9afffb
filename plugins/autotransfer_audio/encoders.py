"""Small encoders over a log-mel spectrogram that start from their own random weights: for sounds like no others."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from autotransfer_audio.mel import LogMel, frames_of, lengths_of, mask_of, masked_mean


class _Block(nn.Module):
    """Two convolutions, the first of stride two in time and frequency, with norms over channels alone.

    Norms over a batch or over time would let padding, and other clips, into a clip's features.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.norm1 = nn.LayerNorm(outputs)
        self.conv = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm2 = nn.LayerNorm(outputs)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return [B, outputs, T / 2, F / 2] of [B, inputs, T, F], zero where the mask [B, T / 2] is false."""
        held = mask[:, None, :, None]
        x = functional.gelu(_over_channels(self.norm1, self.down(x))) * held
        rest: Tensor = _over_channels(self.norm2, self.conv(x))
        return functional.gelu(x + rest) * held


def _over_channels(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    normed: Tensor = norm(x.permute(0, 2, 3, 1))
    return normed.permute(0, 3, 1, 2)


class Cnn(nn.Module):
    """Convolutions over a log-mel spectrogram; mean and deviation over time: [B, S] -> ``float32`` [B, 2 * width]."""

    def __init__(self, width: int = 256, blocks: int = 4, mels: int = 64) -> None:
        super().__init__()
        self.front = LogMel(mels=mels)
        widths = [1, *(width >> (blocks - 1 - i) for i in range(blocks))]
        self.blocks = nn.ModuleList(_Block(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, waveform: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the features of clips [B, S] under their mask [B, S]."""
        x = self.front(waveform, attention_mask)[:, None]
        counts = frames_of(lengths_of(attention_mask), self.front.hop)
        frames = -(-waveform.shape[1] // self.front.hop)
        for block in self.blocks:
            counts, frames = (counts + 1) // 2, (frames + 1) // 2
            x = block(x, mask_of(counts, frames))
        over_time = x.float().mean(3).transpose(1, 2)
        held = mask_of(counts, frames)
        mean = masked_mean(over_time, held)
        spread = masked_mean((over_time - mean[:, None]).square(), held)
        return torch.cat([mean, (spread + 1e-6).sqrt()], dim=1)


class _Layer(nn.Module):
    """One bidirectional LSTM layer that stops at each clip's end."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        """Return [B, T, 2 * hidden] of [B, T, inputs], zero after the first ``counts`` [B] frames of each clip."""
        packed = pack_padded_sequence(x, counts.cpu(), batch_first=True, enforce_sorted=False)
        with torch.autocast(x.device.type, enabled=False):  # packed sequences know no bfloat16 on a CPU
            result, _ = self.lstm(packed._replace(data=packed.data.float()))
        return pad_packed_sequence(result, batch_first=True, total_length=x.shape[1])[0]


class Lstm(nn.Module):
    """Bidirectional LSTM over stacked log-mel frames, mean over time: [B, S] -> ``float32`` [B, 2 * hidden]."""

    STACK = 4
    """Frames that are one step: 40 ms."""

    def __init__(self, hidden: int = 128, layers: int = 2, mels: int = 64) -> None:
        super().__init__()
        self.front = LogMel(mels=mels)
        self.layers = nn.ModuleList(_Layer(mels * self.STACK if i == 0 else 2 * hidden, hidden) for i in range(layers))

    def forward(self, waveform: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the features of clips [B, S] under their mask [B, S]."""
        x = self.front(waveform, attention_mask)
        x = functional.pad(x, (0, 0, 0, -x.shape[1] % self.STACK)).unflatten(1, (-1, self.STACK)).flatten(2)
        counts = frames_of(lengths_of(attention_mask), self.front.hop * self.STACK)
        for layer in self.layers:
            x = layer(x, counts)
        return masked_mean(x, mask_of(counts, x.shape[1]))


def cnn(weights: Path | None, **options: int) -> nn.Module:
    """Return the convolutional encoder with its own random weights.

    Args:
        weights: always None.
        options: of :class:`Cnn`.
    """
    return Cnn(**options)


def lstm(weights: Path | None, **options: int) -> nn.Module:
    """Return the recurrent encoder with its own random weights.

    Args:
        weights: always None.
        options: of :class:`Lstm`.
    """
    return Lstm(**options)
