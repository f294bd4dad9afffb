"""Two state dicts of one network under other names: the same tensors in the same order."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from autotransfer.plugin import WeightsError

_CLASSIFIER = 2
"""Tensors of an ImageNet classifier, always the last: weight and bias."""


def fill(network: nn.Module, weights: Path) -> None:
    """Fill a headless network from a torch file whose tensors come in the network's order.

    The file may end with a classifier, which is left out.

    Raises:
        WeightsError: the tensors are not those of this network; every difference is named.
    """
    given = list(_read(weights).items())
    wanted = list(network.state_dict().items())
    if len(given) not in (len(wanted), len(wanted) + _CLASSIFIER):
        raise WeightsError(f"{weights} holds {len(given)} tensors; the network has {len(wanted)}: fetch it again")
    pairs = list(zip(wanted, given, strict=False))
    wrong = [
        f"{theirs} {list(b.shape)} for {ours} {list(a.shape)}"
        for (ours, a), (theirs, b) in pairs
        if a.shape != b.shape or not _same_role(ours, theirs)
    ]
    if wrong:
        raise WeightsError(f"{weights} does not fit the network: {'; '.join(wrong)}")
    network.load_state_dict({ours: b for (ours, _), (_, b) in pairs})


def _read(weights: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{weights} is no file of torch weights: {str(error)[:200]}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{weights} holds no table of tensors by name")
    return state


def _same_role(ours: str, theirs: str) -> bool:
    """Weights, biases and running statistics of one norm have one shape: only their own names tell them apart."""
    return ours.rpartition(".")[2] == theirs.rpartition(".")[2]
