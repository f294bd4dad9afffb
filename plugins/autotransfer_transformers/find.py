"""Cards of models that are not in the curated list: any id of the hub, and any folder of safetensors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING

from autotransfer.plugin import BackboneSpec, Scalar, TextInput, WeightsError, WeightSource
from autotransfer_transformers import audio_build, audio_cards
from autotransfer_transformers.text_build import build
from autotransfer_transformers.text_cards import MAX_LENGTH, TEXT_CARDS, TOKENIZER
from autotransfer_transformers.tokenizer_files import FILES

DECODERS = ("gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "llama", "mistral", "qwen2", "qwen3", "gemma", "phi", "bloom")
"""Kinds of networks in which a token sees only those before it: the last one has seen them all."""
_KEPT = ("config", "pooling", "max_length")
"""Options that a card is made from."""


def find(name: str, options: Mapping[str, Scalar], *, offline: bool = False) -> BackboneSpec | None:
    """Return the card of a hub id or of a folder; width and cost are left to be measured.

    Args:
        name: ``owner/name``, or the path of a folder that ``save_pretrained`` wrote.
        options: ``pooling``, ``max_length``; ``config`` (JSON) where the card is made again for a saved model.
        offline: use nothing but local files.

    Raises:
        WeightsError: the folder or the hub's entry cannot be used, with the reason.
    """
    path = Path(name).expanduser()
    local = path.is_dir()
    if not local and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and "config" not in options:
        return None
    known = (c for c in (*TEXT_CARDS, *audio_cards.AUDIO_CARDS) if c.weights is not None and c.weights.name == name)
    curated = next(known, None)
    if curated is not None and (not options or dict(options) == dict(curated.options)):
        return replace(curated, id=f"transformers/{name}")
    unknown = sorted(set(options) - set(_KEPT))
    if unknown:
        raise WeightsError(f"{name} has no options {', '.join(unknown)}; known: {', '.join(_KEPT)}")
    given = options.get("config")
    values = json.loads(str(given)) if given is not None else _config(path if local else _from_hub(name, offline), name)
    kind = str(values.get("model_type", ""))
    if kind not in CONFIG_MAPPING:
        raise WeightsError(f"{name} is of the kind {kind!r}, which this version of transformers does not have")
    source = (
        WeightSource(where="file", name=str(path.absolute()))
        if local
        else WeightSource(where="hub", name=name, member="/")
    )
    if kind in audio_cards.KINDS:
        card = audio_cards.found(f"transformers/{name}", kind, json.dumps(values, sort_keys=True), source)
        stages, params = _built(name, card.options, audio_build.build)
        return replace(card, stages=stages, params=params)
    return _text_card(name, kind, values, options, source)


def _text_card(
    name: str, kind: str, values: dict[str, Any], options: Mapping[str, Scalar], source: WeightSource
) -> BackboneSpec:
    """Return the card of a text network of this configuration; errors as for :func:`_built`."""
    longest = options.get("max_length", _longest(values))
    pooling = str(options.get("pooling", "last" if kind in DECODERS else "mean"))
    made = {"config": json.dumps(values, sort_keys=True), "pooling": pooling}
    stages, params = _built(name, made, build)
    return BackboneSpec(
        id=f"transformers/{name}",
        factory="autotransfer_transformers.text_build:build",
        options=made,
        modality="text",
        summary=f"{kind} network of {name}",
        input=TextInput(tokenizer=TOKENIZER, max_length=int(longest or MAX_LENGTH), pooling=pooling),
        stages=stages,
        params=params,
        weights=source,
        assets=FILES,
    )


def _built(name: str, options: Mapping[str, Any], make: Callable[..., nn.Module]) -> tuple[tuple[str, ...], int]:
    """Return a network's stages and its number of parameters, from building it without memory for either.

    Stages are the layers of the longest list of modules; a network that goes through one layer again and again has
    none that are known here.

    Raises:
        WeightsError: transformers cannot build it.
    """
    try:
        with torch.device("meta"):
            network = make(None, **options)
    except Exception as error:  # whatever a foreign configuration leads to
        text = " ".join(str(error).split())[:200]
        raise WeightsError(f"{name} cannot be built: {type(error).__name__}: {text}") from error
    lists = [(path, m) for path, m in network.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 1]
    sizes = {path: sum(p.numel() for p in m.parameters()) for path, m in lists}
    params = sum(p.numel() for p in network.parameters())
    if not lists:
        return (), params
    path, layers = max(lists, key=lambda found: sizes[found[0]])
    return tuple(f"{path}.{i}" for i in range(len(layers))), params


def _config(folder: Path, name: str) -> dict[str, Any]:
    """Return a folder's configuration, after checking what the folder holds.

    Raises:
        WeightsError: there is none, it cannot be read, or the weights are no safetensors.
    """
    file = folder if folder.is_file() else folder / "config.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{name} has no config.json that can be read ({error}); wanted a model's folder") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{file} holds no JSON object; wanted a model's configuration")
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        pickled = [p.name for p in sorted(folder.iterdir()) if p.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        mend = "is a pickle, which is not read: save it again with safe_serialization=True"
        why = f"; {pickled[0]} {mend}" if pickled else ""
        raise WeightsError(f"{folder} holds no safetensors{why}")
    return values


def _from_hub(name: str, offline: bool) -> Path:
    """Return the path of a hub model's configuration, fetched where that is needed and allowed."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(name, "config.json", local_files_only=offline))
    except Exception as error:  # the client raises many kinds, all of which mean: not to be had
        text = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"the configuration of {name} cannot be had from the hub: {type(error).__name__}: {text}; name a folder "
            "(transformers/PATH), or fetch it where the hub can be reached"
        ) from error


def _longest(values: Mapping[str, Any]) -> int:
    """Return the most tokens of a row: the plugin's own limit, or what the network's positions allow."""
    known = [int(values[n]) for n in ("max_position_embeddings", "n_positions", "n_ctx") if values.get(n)]
    # Positions of RoBERTa and its like begin after two.
    return min([MAX_LENGTH, *(n if n >= MAX_LENGTH + 2 else max(1, n - 2) for n in known)])
