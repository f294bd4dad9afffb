"""Audio networks of transformers, so wrapped that they take clips and a mask and give one vector a clip."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    ASTConfig,
    ASTModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperModel,
)

from autotransfer.plugin import Scalar, WeightsError
from autotransfer_audio.mel import lengths_of, mask_of, masked_mean
from autotransfer_audio.whisper import Whisper

KINDS: dict[str, tuple[Any, Any]] = {
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model),
    "hubert": (HubertConfig, HubertModel),
    "wavlm": (WavLMConfig, WavLMModel),
    "audio-spectrogram-transformer": (ASTConfig, ASTModel),
    "whisper": (WhisperConfig, WhisperModel),
}
"""Configuration and model by ``model_type``."""
_NEVER = {"apply_spec_augment": False, "layerdrop": 0.0, "encoder_layerdrop": 0.0}
"""What would drop frames or whole layers at random while training: freezing decides what is trained."""


def build(weights: Path | None, *, kind: str = "", config: str = "", **settings: Scalar) -> nn.Module:
    """Return an audio network of transformers: clips [N, S] and their mask -> ``float32`` [N, width].

    Args:
        weights: a Hugging Face folder with safetensors; None: random weights.
        kind: ``model_type`` of the configuration.
        config: the whole configuration as JSON; it then tells its kind.
        settings: of the configuration, where they are not its defaults; a folder brings its own.

    Raises:
        WeightsError: the folder does not hold this network.
    """
    given: dict[str, Any] = {**json.loads(config or "{}"), **settings}
    kind = kind or str(given["model_type"])
    make_config, make = KINDS[kind]
    if weights is None:
        return _wrapped(kind, make_config.from_dict({**given, **_known(make_config, _NEVER)}), None)
    try:
        read = make_config.from_pretrained(weights, local_files_only=True, **_known(make_config, _NEVER))
        found, told = make.from_pretrained(
            weights, config=read, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{weights} does not hold this network: {' '.join(str(error).split())[:300]}") from error
    lacking = [n for n in told["missing_keys"] if "masked_spec_embed" not in n and "pooler" not in n]
    if lacking or told["mismatched_keys"]:
        raise WeightsError(f"{weights} does not fit the network: it lacks {', '.join(sorted(lacking)[:5])}")
    return _wrapped(kind, read, found)


def _known(make_config: Any, settings: dict[str, Any]) -> dict[str, Any]:
    fields = make_config().to_dict()
    return {name: value for name, value in settings.items() if name in fields}


def _wrapped(kind: str, config: Any, model: Any) -> nn.Module:
    if kind == "whisper":
        net = Whisper(config)
        if model is not None:
            net.encoder.load_state_dict(model.encoder.state_dict())
        return net
    _, make = KINDS[kind]
    model = make(config) if model is None else model
    return Spectrogram(model) if kind == "audio-spectrogram-transformer" else Waveform(model)


class _ClipNorm(nn.GroupNorm):
    """A group norm of single channels over time whose statistics leave padding out."""

    counts: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` [B, C, T], each channel of each clip with mean 0 and variance 1 over its own frames."""
        if self.counts is None:
            return super().forward(x)
        held = mask_of(self.counts, x.shape[2])[:, None]
        size = held.sum(2, keepdim=True)
        values = x.float()
        mean = (values * held).sum(2, keepdim=True) / size
        variance = ((values - mean) * held).square().sum(2, keepdim=True) / size
        scaled: Tensor = (values - mean) * (variance + self.eps).rsqrt() * held
        assert self.weight is not None
        assert self.bias is not None
        return (scaled * self.weight[:, None] + self.bias[:, None]).to(x.dtype)


class Waveform(nn.Module):
    """wav2vec 2.0, HuBERT or WavLM over clips scaled to mean 0 and variance 1; mean over a clip's frames."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = model
        config = model.config
        self.least = 1
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            self.least = (self.least - 1) * stride + kernel
        self.first = (config.conv_kernel[0], config.conv_stride[0])
        conv = model.feature_extractor.conv_layers[0]
        norm = getattr(conv, "layer_norm", None)
        if isinstance(norm, nn.GroupNorm):
            conv.layer_norm = _ClipNorm(norm.num_groups, norm.num_channels, norm.eps)
            conv.layer_norm.load_state_dict(norm.state_dict())

    def forward(self, waveform: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the features of clips [B, S] under their mask [B, S]; one too short for a frame is padded."""
        waveform = functional.pad(waveform, (0, max(0, self.least - waveform.shape[1])))
        lengths = lengths_of(attention_mask)
        scaled = _scaled(waveform, mask_of(lengths, waveform.shape[1]))
        lengths = lengths.clamp_min(self.least)
        norm = getattr(self.model.feature_extractor.conv_layers[0], "layer_norm", None)
        if isinstance(norm, _ClipNorm):
            norm.counts = (lengths - self.first[0]) // self.first[1] + 1
        held = mask_of(lengths, waveform.shape[1])
        with warnings.catch_warnings():  # WavLM gives torch masks of two types, which will not be its caller's concern
            warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
            found = self.model(scaled, attention_mask=held.long()).last_hidden_state
        frames = self.model._get_feat_extract_output_lengths(lengths)
        return masked_mean(found, mask_of(frames, found.shape[1]))


def _scaled(waveform: Tensor, held: Tensor) -> Tensor:
    count = held.sum(1, keepdim=True).clamp_min(1)
    mean = waveform.sum(1, keepdim=True) / count
    variance = ((waveform - mean) * held).square().sum(1, keepdim=True) / count
    return (waveform - mean) * (variance + 1e-7).rsqrt() * held


def kaldi_filters(bands: int, fft: int, low: float = 20.0, high: float = 8000.0) -> np.ndarray[Any, Any]:
    """Return Kaldi's triangles, straight on its own mel scale, ``float64`` [fft // 2 + 1, bands]."""
    mel = 1127.0 * np.log1p(np.linspace(0.0, 8000.0, fft // 2 + 1) / 700.0)[:, None]
    places = np.linspace(1127.0 * np.log1p(low / 700.0), 1127.0 * np.log1p(high / 700.0), bands + 2)
    rising, falling = (mel - places[:-2]) / np.diff(places)[:-1], (places[2:] - mel) / np.diff(places)[1:]
    triangles: np.ndarray[Any, Any] = np.maximum(0.0, np.minimum(rising, falling))
    return triangles


class Fbank(nn.Module):
    """Kaldi's log-mel filter bank, as torchaudio and transformers compute it: [B, S] -> ``float32`` [B, T, bands]."""

    window: Tensor
    filters: Tensor
    LENGTH, HOP, FFT = 400, 160, 512

    def __init__(self, bands: int) -> None:
        super().__init__()
        filters = kaldi_filters(bands, self.FFT)
        self.register_buffer("window", torch.hann_window(self.LENGTH, periodic=False), persistent=False)
        self.register_buffer("filters", torch.tensor(filters, dtype=torch.float32), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the bands of each frame that lies whole within [B, S]."""
        with torch.autocast(waveform.device.type, enabled=False):
            pieces = waveform.float().unfold(1, self.LENGTH, self.HOP)
            pieces = pieces - pieces.mean(2, keepdim=True)
            before = torch.cat([pieces[:, :, :1], pieces[:, :, :-1]], dim=2)
            spectrum = torch.fft.rfft((pieces - 0.97 * before) * self.window, n=self.FFT)
            power: Tensor = (spectrum.real.square() + spectrum.imag.square()) @ self.filters
            return power.clamp_min(float(np.finfo(np.float32).eps)).log()

    def counts(self, lengths: Tensor) -> Tensor:
        """Return the frames of clips of so many samples, at least one: ``int64`` [B]."""
        return ((lengths - self.LENGTH) // self.HOP + 1).clamp_min(1)


class Spectrogram(nn.Module):
    """The Audio Spectrogram Transformer over its fixed number of frames (10 s), what a clip lacks being blank."""

    MEAN, SPREAD = -4.2677393, 4.5689974
    """Of AudioSet's spectrograms."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.front = Fbank(model.config.num_mel_bins)
        self.frames: int = model.config.max_length
        self.model: Any = model

    def forward(self, waveform: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the features of clips [B, S] under their mask [B, S]: the mean of the two class tokens."""
        waveform = functional.pad(waveform, (0, max(0, Fbank.LENGTH - waveform.shape[1])))
        found = self.front(waveform)[:, : self.frames]
        held = mask_of(self.front.counts(lengths_of(attention_mask)), found.shape[1])
        found = functional.pad(found * held[..., None], (0, 0, 0, self.frames - found.shape[1]))
        pooled: Tensor = self.model((found - self.MEAN) / (2 * self.SPREAD)).pooler_output
        return pooled
