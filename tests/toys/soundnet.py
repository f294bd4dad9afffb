"""A single-file plugin with tiny audio backbones: one that uses the mask, one that takes the waveform alone."""

import torch
from torch import nn

from autotransfer.plugin import AudioInput, BackboneSpec, hookimpl


class Masked(nn.Module):
    """Frames of 10 ms, two layers, the mean over a clip's frames."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(80, 24)
        self.second = nn.Linear(24, 16)

    def forward(self, waveform, attention_mask):
        """Return [B, 16]."""
        frames = nn.functional.pad(waveform, (0, -waveform.shape[1] % 80)).unflatten(1, (-1, 80))
        held = nn.functional.pad(attention_mask, (0, -waveform.shape[1] % 80)).unflatten(1, (-1, 80)).amax(2)
        x = torch.fft.rfft(frames, dim=2).abs()
        x = torch.cat([x, x[:, :, :39]], dim=2)
        x = torch.relu(self.second(torch.tanh(self.first(x))))
        return (x * held[..., None]).sum(1) / held.sum(1, keepdim=True).clamp_min(1)


def masked(weights):
    """Return the network with fixed random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Masked()


def alone(weights):
    """Return a network that takes the waveform alone."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Unflatten(1, (1, -1)), nn.Conv1d(1, 8, 64, 16), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten()
        )


@hookimpl
def autotransfer_backbones():
    """Return both."""
    heard = AudioInput(sample_rate=8_000, window=1.0)
    return [
        BackboneSpec(id="soundnet/masked", factory=masked, modality="audio", input=heard, stages=("first", "second")),
        BackboneSpec(
            id="soundnet/alone",
            factory=alone,
            modality="audio",
            input=AudioInput(sample_rate=8_000, window=1.0, mask=False),
        ),
    ]
