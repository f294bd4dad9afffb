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
    params: int,
    macs: int,
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
        params=params,
        macs=macs,
        weights=WeightSource(where="hub", name=hub, member="/", bytes=4 * params),
        licence=licence,
        pretrained_on=pretrained_on,
    )


def _whisper(size: str, width: int, layers: int, heads: int, params: int, macs: int) -> BackboneSpec:
    return _card(
        f"whisper-{size}",
        f"openai/whisper-{size}",
        "whisper",
        f"encoder of Whisper {size}: speech in 99 languages",
        stages=tuple(f"encoder.layers.{i}" for i in range(layers)),
        width=width,
        params=params,
        macs=macs,
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


KINDS = ("wav2vec2", "hubert", "wavlm", "audio-spectrogram-transformer", "whisper")
"""``model_type`` of the networks that are built here; of other audio networks nothing is known."""


def found(id: str, kind: str, config: str, weights: WeightSource) -> BackboneSpec:
    """Return the card of a model that is not curated; stages, width and cost are left to be measured.

    Args:
        id: of the backbone.
        kind: one of ``KINDS``.
        config: of the model, as JSON.
        weights: a folder.
    """
    return BackboneSpec(
        id=id,
        factory=_BUILD,
        options={"config": config},
        modality="audio",
        summary=f"{kind} network of {weights.name}",
        input=AudioInput(sample_rate=16_000, window=10.0),
        weights=weights,
    )


AUDIO_CARDS = (
    _card(
        "wav2vec2-base",
        "facebook/wav2vec2-base",
        "wav2vec2",
        "wav2vec 2.0 base: self-supervised on English speech",
        stages=_TWELVE,
        width=768,
        params=94_371_712,
        macs=69_476_936_704,
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
        params=94_371_712,
        macs=69_476_936_704,
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
        params=94_381_936,
        macs=74_103_313_408,
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
        params=86_187_264,
        macs=103_381_791_488,
        licence="BSD-3-Clause",
        pretrained_on="ImageNet, then AudioSet",
        front_end="fbank",
    ),
    _whisper("tiny", 384, 4, 6, 8_208_384, 3_869_685_696),
    _whisper("base", 512, 6, 8, 20_590_592, 9_971_488_704),
    _whisper("small", 768, 12, 12, 88_154_112, 43_556_804_544),
)
