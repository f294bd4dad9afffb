"""Curated cards of audio networks: transformers makes them from configurations written here."""

from __future__ import annotations

from autotransfer.plugin import AudioInput, BackboneSpec, Scalar, WeightSource

_BUILD = "autotransfer_transformers.audio_build:build"
_TWELVE = tuple(f"model.encoder.layers.{i}" for i in range(12))


def _card(
    id: str,
    hub: str,
    kind: str,
    summary: str,
    *,
    stages: tuple[str, ...],
    width: int,
    licence: str,
    pretrained_on: str,
    front_end: str = "waveform",
    **settings: Scalar,
) -> BackboneSpec:
    return BackboneSpec(
        id=f"transformers/{id}",
        factory=_BUILD,
        options={"kind": kind, **settings},
        modality="audio",
        summary=summary,
        input=AudioInput(sample_rate=16_000, window=10.0, front_end=front_end),
        stages=stages,
        width=width,
        weights=WeightSource(where="hub", name=hub, member="/"),
        licence=licence,
        pretrained_on=pretrained_on,
    )


def _whisper(size: str, width: int, layers: int, heads: int) -> BackboneSpec:
    return _card(
        f"whisper-{size}",
        f"openai/whisper-{size}",
        "whisper",
        f"encoder of Whisper {size}: speech in 99 languages",
        stages=tuple(f"encoder.layers.{i}" for i in range(layers)),
        width=width,
        licence="Apache-2.0",
        pretrained_on="680,000 hours of transcribed speech from the web",
        front_end="log-mel",
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        num_mel_bins=80,
        max_source_positions=1500,
    )


AUDIO_CARDS = (
    _card(
        "wav2vec2-base",
        "facebook/wav2vec2-base",
        "wav2vec2",
        "wav2vec 2.0 base: self-supervised on English speech",
        stages=_TWELVE,
        width=768,
        licence="Apache-2.0",
        pretrained_on="LibriSpeech, 960 hours",
    ),
    _card(
        "hubert-base",
        "facebook/hubert-base-ls960",
        "hubert",
        "HuBERT base: self-supervised on English speech",
        stages=_TWELVE,
        width=768,
        licence="Apache-2.0",
        pretrained_on="LibriSpeech, 960 hours",
    ),
    _card(
        "wavlm-base-plus",
        "microsoft/wavlm-base-plus",
        "wavlm",
        "WavLM base+: self-supervised, and made to tell speakers and noise apart too",
        stages=_TWELVE,
        width=768,
        licence="MIT",
        pretrained_on="Libri-Light, GigaSpeech and VoxPopuli, 94,000 hours",
    ),
    _card(
        "ast",
        "MIT/ast-finetuned-audioset-10-10-0.4593",
        "audio-spectrogram-transformer",
        "Audio Spectrogram Transformer: sounds of every kind",
        stages=tuple(f"model.layers.{i}" for i in range(12)),
        width=768,
        licence="BSD-3-Clause",
        pretrained_on="ImageNet, then AudioSet",
        front_end="fbank",
    ),
    _whisper("tiny", 384, 4, 6),
    _whisper("base", 512, 6, 8),
    _whisper("small", 768, 12, 12),
)
