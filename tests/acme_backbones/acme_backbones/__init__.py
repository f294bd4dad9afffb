"""Acme's backbones and strategies for autotransfer. Cheap to import: torch is loaded when something is built."""

from pathlib import Path

from acme_backbones.strategy import ProbeThenTune
from autotransfer.plugin import BackboneSpec, ImageInput, Strategy, WeightSource, hookimpl


@hookimpl
def autotransfer_backbones() -> list[BackboneSpec]:
    """Return the one backbone of this house; its stages are not declared, so they are found by tracing."""
    return [
        BackboneSpec(
            id="acme/shapes",
            factory="acme_backbones.network:build",
            summary="four convolutions, pretrained on drawn shapes",
            input=ImageInput(size=32, crop=1.0, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), interpolation="bilinear"),
            width=48,
            weights=WeightSource(
                where="file",
                name=str(Path(__file__).with_name("shapes.safetensors")),
                sha256="79576530b894685cfad4d9f8d827aeea7d56652cd54584b6a9b2dff5c14c1d1e",
            ),
            licence="Apache-2.0",
            pretrained_on="images drawn by make_weights.py",
        )
    ]


@hookimpl
def autotransfer_strategies() -> list[Strategy]:
    """Return the one strategy of this house."""
    return [ProbeThenTune()]
