"""Google's speech embedding (Lin et al. 2020, arXiv:2002.01322) out of openwakeword's ONNX file.

A CNN that sees 76 mel frames (0.78 s) and gives 96 numbers. Its convolutions pad nothing in time, so that one pass
over a whole clip gives the embeddings of all its windows, one every 8 frames: exactly those of the shipped graph.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotransfer_audio.mel import lengths_of, mask_of, masked_mean, mel_filters
from autotransfer_packs import onnx_file

WINDOW, STEP = 76, 8
"""Mel frames of one embedding, and from one to the next."""
FFT, HANN, HOP, MELS = 512, 400, 160, 32
LEAST = (WINDOW - 1) * HOP + FFT
"""Samples of the shortest clip; a shorter one is followed by silence."""
FULL_SCALE = 32_767.0
"""The spectrogram takes 16-bit samples."""
RANGE = 80.0
"""Decibels below the loudest band of a clip that count."""
FLOOR = -0.4
"""Activations are never lower."""

_PLAN = (
    ((1, 24, "3x3"), (24, 24, "freq"), (24, 24, "time")),
    ((24, 48, "freq"), (48, 48, "time"), (48, 48, "freq"), (48, 48, "time")),
    ((48, 72, "freq"), (72, 72, "time"), (72, 72, "freq"), (72, 72, "time")),
    ((72, 96, "freq"), (96, 96, "time"), (96, 96, "freq"), (96, 96, "time")),
    ((96, 96, "freq"), (96, 96, "time"), (96, 96, "freq"), (96, 96, "time")),
)
_POOLS = ((2, 2), (1, 2), (2, 2), (1, 2), (2, 2))
_KERNELS = {"3x3": (3, 3), "freq": (1, 3), "time": (3, 1)}


class Spectrogram(nn.Module):
    """openwakeword's front end: decibels of 32 mel bands, at most 80 below the loudest, / 10 + 2."""

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Slaney's triangles of equal area from 60 to 3,800 Hz, as torchlibrosa makes them
        filters = mel_filters(16_000, FFT, MELS, 60.0, 3800.0)
        window = functional.pad(torch.hann_window(HANN, periodic=True), ((FFT - HANN) // 2,) * 2)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", torch.tensor(filters, dtype=torch.float32), persistent=False)

    def forward(self, waveform: Tensor, counts: Tensor) -> Tensor:
        """Return ``float32`` [B, T, 32] of clips [B, S]; loudest is the loudest of the first ``counts`` frames."""
        with torch.autocast(waveform.device.type, enabled=False):
            pieces = waveform.float().mul(FULL_SCALE).unfold(1, FFT, HOP)
            spectrum = torch.fft.rfft(pieces * self.window)
            power = (spectrum.real.square() + spectrum.imag.square()) @ self.filters
            decibels = 10 * power.clamp_min(1e-10).log10()
            held = mask_of(counts, decibels.shape[1])[..., None]
            loudest = decibels.masked_fill(~held, -torch.inf).amax((1, 2), keepdim=True)
            return torch.maximum(decibels, loudest - RANGE) / 10 + 2


class _Unit(nn.Module):
    """A convolution, of which the exporter folded the batch norm in, and a leaky rectifier with a floor."""

    def __init__(self, inputs: int, outputs: int, kind: str) -> None:
        super().__init__()
        kernel = _KERNELS[kind]
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=(0, kernel[1] // 2))

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(self.conv(x), 0.2).clamp_min(FLOOR)


class _First(_Unit):
    """The first one, whose rectifier came before its batch norm, so that nothing could be folded."""

    def __init__(self, inputs: int, outputs: int, kind: str) -> None:
        super().__init__(inputs, outputs, kind)
        self.conv.bias = None
        self.scale = nn.Parameter(torch.ones(outputs))
        self.shift = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.addcmul(self.shift[:, None, None], functional.relu(self.conv(x)), self.scale[:, None, None])
        return functional.leaky_relu(x, 0.2).clamp_min(FLOOR)


class SpeechEmbedding(nn.Module):
    """The mean of a clip's embeddings: [B, S] at 16 kHz -> ``float32`` [B, 96]."""

    def __init__(self) -> None:
        super().__init__()
        self.front = Spectrogram()
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(*((_First if u[2] == "3x3" else _Unit)(*u) for u in units), nn.MaxPool2d(pool, pool))
                for units, pool in zip(_PLAN, _POOLS, strict=True)
            )
        )
        self.last = nn.Conv2d(96, 96, (3, 1), bias=False)

    def forward(self, waveform: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the features of clips [B, S] under their mask [B, S]."""
        waveform = functional.pad(waveform, (0, max(0, LEAST - waveform.shape[1])))
        whole = ((lengths_of(attention_mask) - FFT) // HOP + 1).clamp_min(WINDOW)
        found = self.embeddings(self.front(waveform, whole))
        return masked_mean(found, mask_of((whole - WINDOW) // STEP + 1, found.shape[1]))

    def embeddings(self, frames: Tensor) -> Tensor:
        """Return [B, windows, 96] of mel frames [B, T, 32]."""
        found: Tensor = self.last(self.blocks(frames[:, None]))
        return found.flatten(2).transpose(1, 2)


def fill(network: SpeechEmbedding, weights: Path) -> None:
    """Fill the network from the pack's ONNX file.

    Raises:
        WeightsError: the file does not hold this network.
    """
    file = onnx_file.read(weights)
    convolutions = [n for n in file.nodes if n.kind == "Conv"]
    norms = [n for n in file.nodes if n.kind == "BatchNormalization"]
    state: dict[str, Tensor] = {}
    units = [f"blocks.{i}.{j}" for i, units in enumerate(_PLAN) for j in range(len(units))]
    for unit, node in zip([*units, "last"], convolutions, strict=False):
        name = unit if unit == "last" else f"{unit}.conv"
        state[f"{name}.weight"] = file.tensor(node.inputs[1])
        if len(node.inputs) > 2:
            state[f"{name}.bias"] = file.tensor(node.inputs[2])
    for node in norms:
        scale, shift, mean, variance = (file.tensor(name) for name in node.inputs[1:5])
        state["blocks.0.0.scale"] = scale / (variance + 1e-3).sqrt()
        state["blocks.0.0.shift"] = shift - mean * state["blocks.0.0.scale"]
    onnx_file.fill(network, state, weights)
