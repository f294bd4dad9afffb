"""Whisper tiny.en out of a CTranslate2 file: the encoder's tensors under transformers' names."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from transformers import WhisperConfig

from autotransfer.plugin import WeightsError
from autotransfer_audio.whisper import Whisper
from autotransfer_packs import ctranslate2_file

LAYERS, WIDTH = 4, 384
_LAYER = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
_LEAVES = {"gamma": "weight", "beta": "bias", "weight": "weight", "bias": "bias"}


def network() -> Whisper:
    """Return the encoder of Whisper tiny with random weights: [N, S] at 16 kHz -> [N, 384]."""
    config = WhisperConfig(
        d_model=WIDTH,
        encoder_layers=LAYERS,
        encoder_attention_heads=6,
        encoder_ffn_dim=4 * WIDTH,
        num_mel_bins=80,
        max_source_positions=1500,
    )
    return Whisper(config)


def fill(network: Whisper, weights: Path) -> None:
    """Fill the encoder from the pack's file.

    Raises:
        WeightsError: the file does not hold this network.
    """
    given = ctranslate2_file.read(weights, "encoder/")
    state: dict[str, Tensor] = {}
    for name, tensor in given.items():
        state |= _ours(name.removeprefix("encoder/"), tensor)
    wanted = network.encoder.state_dict()
    # Attention's keys have no bias: three in one matrix, they are saved with one of zeros.
    extra = [n for n in state if n not in wanted and not (n.endswith("k_proj.bias") and not state[n].any())]
    state = {n: t for n, t in state.items() if n in wanted}
    try:
        if extra:
            raise RuntimeError(f"it also holds {', '.join(extra)}")
        network.encoder.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{weights} does not fit Whisper tiny: {' '.join(str(error).split())}") from error


def _ours(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return a tensor of the file under transformers' names: one, or the three of an attention."""
    if name == "num_heads":
        return {}
    if name == "position_encodings/encodings":
        return {"embed_positions.weight": tensor}
    room, _, leaf = name.rpartition("/")
    leaf = _LEAVES.get(leaf, leaf)
    if not room.startswith("layer_") or room == "layer_norm":
        return {f"{room}.{leaf}": tensor}
    number, _, part = room.removeprefix("layer_").partition("/")
    layer = f"layers.{number}"
    if part == "self_attention/linear_0":
        parts = zip(("q_proj", "k_proj", "v_proj"), tensor.chunk(3), strict=True)
        return {f"{layer}.self_attn.{p}.{leaf}": t.clone() for p, t in parts}
    return {f"{layer}.{_LAYER.get(part, part)}.{leaf}": tensor}
