"""No-transfer baselines: what a backbone must beat to be worth its price."""

from __future__ import annotations

from autotransfer.plugin import AudioInput, BackboneSpec, ImageInput, Strategy, TextInput, hookimpl
from autotransfer_baselines.logistic import Logistic

_PLAIN = ImageInput(size=32, crop=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="bilinear")
_NOTHING = "no feature at all: the class frequencies, or the mean"


def _baseline(id: str, factory: str, summary: str, input: ImageInput | TextInput | AudioInput) -> BackboneSpec:
    return BackboneSpec(
        id=f"baselines/{id}",
        factory=f"autotransfer_baselines.{factory}",
        modality=input.kind,
        summary=summary,
        input=input,
        fitted=True,
        transfer=False,
        licence="Apache-2.0",
    )


@hookimpl
def autotransfer_backbones() -> list[BackboneSpec]:
    """Return the baselines."""
    pixels = "standardised pixels of the image at 32 x 32, reduced to their principal components"
    words = "tf-idf of words, pairs of words and runs of characters, those that tell most of the targets"
    sounds = "statistics over time of 40 log-mel bands"
    return [
        _baseline("pixels", "build:Pixels", pixels, _PLAIN),
        _baseline("majority", "build:Nothing", _NOTHING, _PLAIN),
        _baseline("tfidf", "tfidf:TfIdf", words, TextInput()),
        _baseline("majority-text", "build:Nothing", _NOTHING, TextInput()),
        _baseline("log-mel", "sounds:LogMelStatistics", sounds, AudioInput(front_end="log-mel")),
        _baseline("majority-audio", "build:Nothing", _NOTHING, AudioInput(mask=False)),
    ]


@hookimpl
def autotransfer_strategies() -> list[Strategy]:
    """Return the strategy that baselines are judged with."""
    return [Logistic()]
