"""Whisper's encoder (Radford et al. 2022, arXiv:2212.04356) over clips of any length up to thirty seconds.

The shipped model hears every clip as thirty seconds, most of them silence. Here only the clip's own frames are run,
with the first of the positions, and attention sees no others: fifteen times cheaper on clips of two seconds. A clip of
thirty seconds gives exactly what the shipped model gives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from autotransfer_audio.mel import Mel, frames_of, lengths_of, mask_of, masked_mean

HOP = 160
_TAIL = 4
"""Frames of silence after a clip, so that the convolutions see it whatever follows."""


class Whisper(nn.Module):
    """The mean of the encoder's last layer over a clip: [B, S] at 16 kHz -> ``float32`` [B, d_model].

    Args:
        config: of the model; its decoder is not made.
    """

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        config._attn_implementation = "sdpa"
        self.front = Mel(16_000, 400, HOP, config.num_mel_bins, centred=True)
        self.encoder: Any = WhisperEncoder(config)

    def forward(self, waveform: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the features of clips [B, S] under their mask [B, S]; what exceeds the positions is not heard."""
        encoder = self.encoder
        most = encoder.max_source_positions * 2
        waveform, attention_mask = waveform[:, : most * HOP], attention_mask[:, : most * HOP]
        frames = -(-waveform.shape[1] // HOP)
        tail = min(_TAIL, most - frames)
        x = _logarithm(self.front(functional.pad(waveform, (0, tail * HOP)))).transpose(1, 2)
        x = functional.gelu(encoder.conv1(x))
        steps = (frames + 1) // 2
        x = functional.gelu(encoder.conv2(x)).transpose(1, 2)[:, :steps]
        x = x + encoder.embed_positions(torch.arange(steps, device=x.device).expand(x.shape[0], steps))
        held = mask_of((frames_of(lengths_of(attention_mask), HOP) + 1) // 2, steps)
        for layer in encoder.layers:
            x = layer(x, attention_mask=held[:, None, None])
        return masked_mean(encoder.layer_norm(x), held)


def _logarithm(power: Tensor) -> Tensor:
    logs = power.clamp_min(1e-10).log10()
    loudest = logs.amax((1, 2), keepdim=True)
    return (torch.maximum(logs, loudest - 8.0) + 4.0) / 4.0
