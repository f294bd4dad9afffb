"""DINOv2 ViT-S/14 (Oquab et al. 2023, arXiv:2304.07193) out of an ONNX export of a saliency detector built on it."""

from __future__ import annotations

from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional

from autotransfer.plugin import PluginError, WeightsError
from autotransfer_packs import onnx_file
from autotransfer_packs.onnx_file import OnnxFile

SIZE = 224
"""Pixels, where nothing else is asked for."""
_PATCH = 14
_BLOCK = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attn.proj.weight": "attention.output.dense.weight",
    "attn.proj.bias": "attention.output.dense.bias",
    "ls1.gamma": "layer_scale1.lambda1",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.fc1.weight": "mlp.fc1.weight",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.weight": "mlp.fc2.weight",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "ls2.gamma": "layer_scale2.lambda1",
}


def check_size(size: int) -> None:
    """Raise for an input that patches of 14 pixels do not tile.

    Raises:
        PluginError: the size is no multiple of 14.
    """
    if size < _PATCH or size % _PATCH:
        raise PluginError(f"DINOv2's input is {size} pixels wide; wanted a multiple of {_PATCH}, such as 224")


def fill(network: VisionTransformer, weights: Path) -> None:
    """Fill timm's ViT-S/14, made for any input size, from the pack's ONNX file; the detector's decoder is left out.

    Raises:
        WeightsError: the file does not hold this network.
    """
    file = onnx_file.read(weights)
    named = {**file.tensors, **_matrices(file)}
    file = OnnxFile(file.path, file.nodes, named)
    embeddings = "backbone.embeddings"
    state = {
        "cls_token": file.tensor(f"{embeddings}.cls_token"),
        "pos_embed": _positions(file, network.patch_embed.grid_size[0]),
        "patch_embed.proj.weight": file.tensor(f"{embeddings}.patch_embeddings.projection.weight"),
        "patch_embed.proj.bias": file.tensor(f"{embeddings}.patch_embeddings.projection.bias"),
        "norm.weight": file.tensor("backbone.layernorm.weight"),
        "norm.bias": file.tensor("backbone.layernorm.bias"),
    }
    for i in range(len(network.blocks)):
        layer = f"backbone.encoder.layer.{i}"
        state |= {f"blocks.{i}.{ours}": file.tensor(f"{layer}.{theirs}") for ours, theirs in _BLOCK.items()}
        for kind in ("weight", "bias"):
            parts = [file.tensor(f"{layer}.attention.attention.{p}.{kind}") for p in ("query", "key", "value")]
            state[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(parts)
    onnx_file.fill(network, state, weights)


def _matrices(file: OnnxFile) -> dict[str, Tensor]:
    """Return the matrices, which the export left nameless, by the name of the bias that is added after each."""
    product = {n.output: n.inputs[1] for n in file.nodes if n.kind == "MatMul" and n.inputs[1] in file.tensors}
    found = {}
    for node in file.nodes:
        if node.kind == "Add" and len(node.inputs) == 2:
            for bias, result in (node.inputs, node.inputs[::-1]):
                if bias.endswith(".bias") and result in product:
                    found[f"{bias.removesuffix('bias')}weight"] = file.tensors[product[result]].T.contiguous()
    return found


def _positions(file: OnnxFile, side: int) -> Tensor:
    """Return the position table ``float32`` [1, 1 + side * side, 384], resampled from 37 x 37 as the graph does it."""
    tables = [t for t in file.tensors.values() if t.dim() == 3 and t.shape[0] == 1 and t.shape[1] > 1]
    firsts = [n for n in file.nodes if n.kind == "Concat" and len(n.inputs) == 2 and n.inputs[0] in file.tensors]
    if len(tables) != 1 or len(firsts) != 1:
        raise WeightsError(f"{file.path} holds {len(tables)} tables of positions instead of one")
    grid = round(tables[0].shape[1] ** 0.5)
    table = tables[0].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
    small = functional.interpolate(table, size=(side, side), mode="bicubic", align_corners=False)
    first = file.tensor(firsts[0].inputs[0])
    return torch.cat([first, small.permute(0, 2, 3, 1).reshape(1, side * side, -1)], dim=1)
