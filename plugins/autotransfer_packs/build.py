"""The networks of the packs, filled with what a pack holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from torch import nn

from autotransfer_packs import d_vector as d_vectors
from autotransfer_packs import dinov2, in_order, nsfw
from autotransfer_packs import speech_embedding as embeddings


def efficientnet_lite0(weights: Path | None) -> nn.Module:
    """Return EfficientNet-Lite0: ``float32`` [N, 3, 224, 224] -> [N, 1280].

    Raises:
        WeightsError: the file does not hold this network.
    """
    return _by_order(timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0), weights)


def efficientnet_lite1(weights: Path | None) -> nn.Module:
    """Return EfficientNet-Lite1: ``float32`` [N, 3, 224, 224] -> [N, 1280].

    Raises:
        WeightsError: the file does not hold this network.
    """
    return _by_order(timm.create_model("tf_efficientnet_lite1", pretrained=False, num_classes=0), weights)


def mobilenetv2(weights: Path | None) -> nn.Module:
    """Return MobileNetV2 1.0: ``float32`` [N, 3, 224, 224] -> [N, 1280].

    Raises:
        WeightsError: the file does not hold this network.
    """
    return _by_order(timm.create_model("mobilenetv2_100", pretrained=False, num_classes=0), weights)


def open_nsfw(weights: Path | None) -> nn.Module:
    """Return the thin ResNet-50 of open_nsfw: ``float32`` [N, 3, 224, 224] -> [N, 1024].

    Raises:
        WeightsError: the file does not hold this network.
    """
    network = nsfw.network()
    if weights is not None:
        nsfw.fill(network, weights)
    return network


def dinov2_focus(weights: Path | None, size: int = dinov2.SIZE) -> nn.Module:
    """Return DINOv2 ViT-S/14: ``float32`` [N, 3, size, size] -> [N, 384], the class token after the last norm.

    Args:
        weights: the pack's file; None: random weights.
        size: height and width of the input in pixels, a multiple of 14.

    Raises:
        PluginError: the size is no multiple of 14.
        WeightsError: the file does not hold this network.
    """
    dinov2.check_size(size)
    make: Any = timm.create_model  # which options there are depends on the model
    network = make("vit_small_patch14_dinov2", pretrained=False, num_classes=0, img_size=size)
    if weights is not None:
        dinov2.fill(network, weights)
    return network  # type: ignore[no-any-return]


def whisper_tiny_en(weights: Path | None) -> nn.Module:
    """Return the encoder of Whisper tiny.en: clips [N, S] at 16 kHz and their mask -> ``float32`` [N, 384].

    Raises:
        WeightsError: the file does not hold this network.
    """
    from autotransfer_packs import whisper  # transformers takes seconds to load; the other packs do without

    network = whisper.network()
    if weights is not None:
        whisper.fill(network, weights)
    return network


def d_vector(weights: Path | None) -> nn.Module:
    """Return resemblyzer's speaker encoder: clips [N, S] at 16 kHz and their mask -> ``float32`` [N, 256].

    Raises:
        WeightsError: the file does not hold this network.
    """
    network = d_vectors.DVector()
    if weights is not None:
        d_vectors.fill(network, weights)
    return network


def speech_embedding(weights: Path | None) -> nn.Module:
    """Return Google's speech embedding: clips [N, S] at 16 kHz and their mask -> ``float32`` [N, 96].

    Raises:
        WeightsError: the file does not hold this network.
    """
    network = embeddings.SpeechEmbedding()
    if weights is not None:
        embeddings.fill(network, weights)
    return network


def _by_order(network: Any, weights: Path | None) -> nn.Module:
    if weights is not None:
        in_order.fill(network, weights)
    return network  # type: ignore[no-any-return]
