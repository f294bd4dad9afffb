"""The speaker d-vector (Wan et al. 2018, arXiv:1710.10467) as resemblyzer trained it: a three-layer LSTM.

Each 1.6 s of a clip give a vector of length one; their mean, scaled to length one, is the clip's. What is computed is
what ``VoiceEncoder.embed_utterance`` computes, but nothing is cut out: resemblyzer first removes what its voice
detector takes for silence, which would remove all of a clip without speech.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotransfer.plugin import WeightsError
from autotransfer_audio.mel import Mel, lengths_of, mask_of, masked_mean

FRAMES, STEP, HOP = 160, 77, 160
"""Frames of one part, from one part to the next (1.3 a second), and samples of a frame."""
COVERED = 0.75
"""Share of the last part that a clip must fill, for it to count."""
LOUDNESS = 10 ** (-30 / 20)
"""Root mean square that quieter clips are raised to."""
WIDTH, LAYERS, MELS = 256, 3, 40


class _Layer(nn.LSTM):
    """One LSTM layer over the parts of clips, which lie one after the other: [B, P * 160, C] -> [B, P * 160, 256]."""

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # what a caller of LSTM gets besides is not used
        """Return the hidden states of each part, begun anew in each."""
        found: Tensor = super().forward(x.reshape(-1, FRAMES, x.shape[2]))[0]
        return found.reshape(x.shape[0], -1, WIDTH)  # len(x) would fix the number of rows in an export


class DVector(nn.Module):
    """Clips [B, S] at 16 kHz -> ``float32`` [B, 256] of length one."""

    def __init__(self) -> None:
        super().__init__()
        self.front = Mel(16_000, 400, HOP, MELS, centred=True)
        self.lstm = nn.ModuleList(_Layer(MELS if i == 0 else WIDTH) for i in range(LAYERS))
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, waveform: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the features of clips [B, S] under their mask [B, S]."""
        lengths = lengths_of(attention_mask)
        most = int(parts_of(torch.tensor([waveform.shape[1]]))[0])
        whole = (STEP * (most - 1) + FRAMES) * HOP
        waveform = _raised(functional.pad(waveform, (0, max(0, whole - waveform.shape[1]))), lengths)
        mel = self.front(waveform)
        x = torch.cat([mel[:, STEP * i : STEP * i + FRAMES] for i in range(most)], dim=1)
        for layer in self.lstm:
            x = layer(x)
        last = x[:, FRAMES - 1 :: FRAMES]
        parts = functional.normalize(functional.relu(self.linear(last)).float(), dim=2)
        return functional.normalize(masked_mean(parts, mask_of(parts_of(lengths), most)), dim=1)


def parts_of(lengths: Tensor) -> Tensor:
    """Return how many parts clips of so many samples have, at least one: ``int64`` [B]."""
    frames = (lengths + 1 + HOP - 1) // HOP
    count = (frames - FRAMES + STEP).clamp_min(0) // STEP + 1
    covered = (lengths - (count - 1) * STEP * HOP) / (FRAMES * HOP)
    return torch.where((covered < COVERED) & (count > 1), count - 1, count)


def _raised(waveform: Tensor, lengths: Tensor) -> Tensor:
    power = waveform.float().square().sum(1) / lengths.clamp_min(1)
    gain = (LOUDNESS / power.sqrt().clamp_min(1e-9)).clamp_min(1.0)
    return waveform * torch.where(power > 0, gain, torch.ones_like(gain))[:, None]


def fill(network: DVector, weights: Path) -> None:
    """Fill the network from resemblyzer's file.

    Raises:
        WeightsError: the file does not hold this network.
    """
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)["model_state"]
        ours = {_renamed(n): t for n, t in state.items() if n.split(".")[0] in ("lstm", "linear")}
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{weights} is not resemblyzer's file of weights: {str(error)[:200]}") from error
    try:
        network.load_state_dict(ours)
    except RuntimeError as error:
        raise WeightsError(f"{weights} does not fit the network: {' '.join(str(error).split())}") from error


def _renamed(name: str) -> str:
    """Return our name of a tensor: ``lstm.weight_ih_l2`` is ``lstm.2.weight_ih_l0`` here."""
    room, _, rest = name.partition(".")
    return f"lstm.{rest[-1]}.{rest[:-1]}0" if room == "lstm" else name
