"""No-transfer baselines: what a backbone must beat to be worth its price."""

from __future__ import annotations

from autotransfer.plugin import BackboneSpec, ImageInput, Strategy, TextInput, hookimpl
from autotransfer_baselines.logistic import Logistic


@hookimpl
def autotransfer_backbones() -> list[BackboneSpec]:
    """Return the baselines."""
    plain = ImageInput(size=32, crop=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="bilinear")
    return [
        BackboneSpec(
            id="baselines/pixels",
            factory="autotransfer_baselines.build:Pixels",
            summary="standardised pixels of the image at 32 x 32, reduced to their principal components",
            input=plain,
            fitted=True,
            transfer=False,
            licence="Apache-2.0",
        ),
        BackboneSpec(
            id="baselines/majority",
            factory="autotransfer_baselines.build:Nothing",
            summary="no feature at all: the class frequencies, or the mean",
            input=plain,
            fitted=True,
            transfer=False,
            licence="Apache-2.0",
        ),
        BackboneSpec(
            id="baselines/tfidf",
            factory="autotransfer_baselines.tfidf:TfIdf",
            modality="text",
            summary="tf-idf of words, pairs of words and runs of characters, those that tell most of the targets",
            input=TextInput(),
            fitted=True,
            transfer=False,
            licence="Apache-2.0",
        ),
        BackboneSpec(
            id="baselines/majority-text",
            factory="autotransfer_baselines.build:Nothing",
            modality="text",
            summary="no feature at all: the class frequencies, or the mean",
            input=TextInput(),
            fitted=True,
            transfer=False,
            licence="Apache-2.0",
        ),
    ]


@hookimpl
def autotransfer_strategies() -> list[Strategy]:
    """Return the strategy that baselines are judged with."""
    return [Logistic()]
