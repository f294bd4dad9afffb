"""Building: timm makes the network, a weights file fills it."""

from __future__ import annotations

import pickle
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from autotransfer.plugin import Scalar, WeightsError

_SHOWN = 5
"""Names of tensors that an error lists."""


def build(weights: Path | None, *, name: str, **options: Scalar) -> nn.Module:
    """Return a timm model without its classifier.

    Args:
        weights: a safetensors or torch file in timm's own naming; None: random weights.
        name: ``architecture`` or ``architecture.tag``.
        options: passed to ``timm.create_model``, such as ``img_size`` or ``drop_path_rate``.

    Raises:
        WeightsError: the file does not hold this network; only its classifier may differ.
    """
    make: Any = timm.create_model  # which options there are depends on the model
    network = make(name, pretrained=False, num_classes=0, **options)
    if weights is not None:
        _fill(network, _headless(network, _read(weights)), name, weights)
    return network  # type: ignore[no-any-return]


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"{path} is neither a safetensors file nor one of torch weights: {str(error)[:200]}"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path} holds no table of tensors by name; save the network's state_dict()")
    return state


def _headless(network: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without those of the classifier, which the card of the network names."""
    named = network.pretrained_cfg.get("classifier") or ()
    heads = (named,) if isinstance(named, str) else tuple(named)
    return {k: v for k, v in state.items() if not any(k.startswith(f"{head}.") for head in heads)}


def _fill(network: nn.Module, state: dict[str, Tensor], name: str, path: Path) -> None:
    # timm's own translation of the family's files: older names, and position tables of another image size
    translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    try:
        fitting = state if translate is None else translate(state, network)
        found = network.load_state_dict(fitting, strict=False)
    except (RuntimeError, KeyError, ValueError, AssertionError) as error:
        raise WeightsError(f"{path} does not hold {name}: {' '.join(str(error).split())[:400]}") from error
    kept = {child for child, _ in network.named_children()}
    # parts that this build has left out altogether, such as auxiliary classifiers
    alien = [k for k in found.unexpected_keys if k.partition(".")[0] in kept or "." not in k]
    wrong = [f"it lacks {_few(found.missing_keys)}"] if found.missing_keys else []
    wrong += [f"it also holds {_few(alien)}"] if alien else []
    if wrong:
        raise WeightsError(f"{path} does not hold {name}: {'; '.join(wrong)}; fetch it again or name another model")


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
