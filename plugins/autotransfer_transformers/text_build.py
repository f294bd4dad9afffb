"""Building text networks: transformers makes the network from its configuration, a folder of safetensors fills it."""

from __future__ import annotations

import inspect
import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, T5EncoderModel
from transformers.utils import logging as _logging

from autotransfer.plugin import WeightsError
from autotransfer_transformers.text_configs import CONFIGS

POOLINGS = ("mean", "first", "last")
said: Any = _logging
_SHOWN = 5
"""Names of tensors that an error lists."""
_T5 = {"t5": T5EncoderModel}
"""Where the encoder alone has a class of its own, which reads files of both halves."""


class TextEncoder(nn.Module):
    """A transformer over token ids whose last hidden states are pooled under the mask.

    Args:
        network: gives ``last_hidden_state`` [B, T, width].
        pooling: ``mean``, ``first`` or ``last`` token that the mask holds.
    """

    def __init__(self, network: nn.Module, pooling: str) -> None:
        super().__init__()
        self.network = network
        self.pooling = pooling

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return ``float32`` [B, width] from ids and mask, ``int64`` [B, T], padded on the right."""
        hidden: Tensor = self.network(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "first":
            return hidden[:, 0]
        if self.pooling == "last":
            places = attention_mask.sum(1).clamp_min(1) - 1
            return hidden[torch.arange(len(hidden), device=hidden.device), places]
        seen = attention_mask.unsqueeze(2).to(hidden.dtype)
        return (hidden * seen).sum(1) / seen.sum(1).clamp_min(1.0)


def build(weights: Path | None, *, config: str, pooling: str = "mean") -> nn.Module:
    """Return a text network of transformers.

    Args:
        weights: a folder with safetensors as ``save_pretrained`` writes it; None: random weights.
        config: name of a curated configuration, or one as JSON.
        pooling: how the tokens become one vector.

    Raises:
        WeightsError: the folder does not hold this network; only its head may differ.
    """
    if pooling not in POOLINGS:
        raise WeightsError(f"pooling is {pooling!r}; wanted {', '.join(POOLINGS)}")
    values = json.loads(config) if config.lstrip().startswith("{") else CONFIGS[config]
    return TextEncoder(_network(weights, values), pooling)


def _network(weights: Path | None, values: dict[str, Any]) -> nn.Module:
    settings = AutoConfig.for_model(**{k: v for k, v in values.items() if k not in _LEFT_OUT})
    settings.use_cache = False  # generation alone has use for it
    for name in ("layerdrop", "encoder_layerdrop"):  # else frozen layers would be left out at random
        if getattr(settings, name, None):
            setattr(settings, name, 0.0)
    made: Any = _T5.get(settings.model_type, AutoModel)
    plain = _without_pooler(settings)
    network = _random(made, settings, plain) if weights is None else _filled(made, weights, settings, plain)
    return _encoder(network)


def _random(made: Any, settings: Any, plain: dict[str, bool]) -> Any:
    make = made.from_config if made is AutoModel else made._from_config
    return make(settings, **plain)


_LEFT_OUT = ("auto_map", "torch_dtype", "dtype", "transformers_version", "architectures", "_name_or_path")
"""Fields of a configuration that say how it was saved, or name code."""


def _encoder(network: Any) -> nn.Module:
    """Return the half of an encoder and decoder that reads texts; of others the whole."""
    if isinstance(network, T5EncoderModel):
        return network.encoder
    both = getattr(network.config, "is_encoder_decoder", False)
    return network.get_encoder() if both else network  # type: ignore[no-any-return]


def _without_pooler(settings: Any) -> dict[str, bool]:
    """Return the argument that leaves out a pooler over the first token: nothing here uses one."""
    known: Any = AutoModel._model_mapping.get(type(settings), None)
    known = known[0] if isinstance(known, (tuple, list)) else known
    takes = known is not None and "add_pooling_layer" in inspect.signature(known).parameters
    return {"add_pooling_layer": False} if takes else {}


def _filled(made: Any, folder: Path, settings: Any, plain: dict[str, bool]) -> Any:
    level = said.get_verbosity()
    said.set_verbosity(logging.ERROR)  # what does not fit is told below
    said.disable_progress_bar()
    try:
        network, found = made.from_pretrained(
            str(folder),
            config=settings,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            **plain,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        text = " ".join(str(error).split())[:300]
        raise WeightsError(
            f"{folder} does not hold this {settings.model_type} network as safetensors: {text}"
        ) from error
    finally:
        said.set_verbosity(level)
        said.enable_progress_bar()
    missing = sorted(map(str, found["missing_keys"]))
    other = sorted(str(m) for m in found.get("mismatched_keys", ()))
    if missing or other:
        shown = ", ".join((missing or other)[:_SHOWN])
        raise WeightsError(
            f"{folder} does not hold this {settings.model_type} network: it lacks, or has otherwise, {shown}"
        )
    return network
