"""Small audio encoders over a log-mel spectrogram, of which nothing pretrained exists."""

from __future__ import annotations

from autotransfer.plugin import AudioInput, BackboneSpec, hookimpl


@hookimpl
def autotransfer_backbones() -> list[BackboneSpec]:
    """Return the cards."""
    own = "starts from its own random weights: nothing of it is pretrained"
    heard = AudioInput(sample_rate=16_000, window=10.0, front_end="log-mel")
    return [
        BackboneSpec(
            id="audio/cnn",
            factory="autotransfer_audio.encoders:cnn",
            modality="audio",
            summary=f"small CNN over a log-mel spectrogram; {own}",
            input=heard,
            stages=tuple(f"blocks.{i}" for i in range(4)),
            width=512,
            params=1_173_600,
            macs=833_833_472,
            licence="Apache-2.0",
            pretrained_on="nothing",
        ),
        BackboneSpec(
            id="audio/lstm",
            factory="autotransfer_audio.encoders:lstm",
            modality="audio",
            summary=f"two-layer bidirectional LSTM over a log-mel spectrogram; {own}",
            input=heard,
            stages=tuple(f"layers.{i}" for i in range(2)),
            width=256,
            params=790_528,
            macs=213_056_000,
            licence="Apache-2.0",
            pretrained_on="nothing",
        ),
    ]
