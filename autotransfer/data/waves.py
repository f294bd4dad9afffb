"""What a network hears of clips, as one array: padded, masked, and kept in 16 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autotransfer.data.audio import Clip, heard

if TYPE_CHECKING:
    from torch import Tensor

    from autotransfer.spec import AudioInput

VERSION = 1
"""Of what is kept; raised whenever the same clip would give other samples."""
STEPS = 32_767
"""Of a sample on each side of zero, the loudest being the last."""
Array = np.ndarray[Any, Any]


def samples_of(spec: AudioInput) -> int:
    """Return the samples of a window."""
    return max(1, round(spec.window * spec.sample_rate))


def shapes(count: int, spec: AudioInput) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return shape and type of the arrays that so many clips are kept in."""
    return {
        "waves": ((count, samples_of(spec)), np.int16),
        "peaks": ((count,), np.float32),
        "lengths": ((count,), np.int64),
    }


def put(to: dict[str, Array], slot: int, clip: Clip, spec: AudioInput) -> None:
    """Write what is heard of a clip into one row of such arrays: in 16 bits of its own loudest sample."""
    wave = heard(clip, spec.sample_rate, samples_of(spec))
    peak = float(np.abs(wave).max(initial=0.0))
    to["waves"][slot] = 0
    to["waves"][slot, : len(wave)] = np.rint(wave * (STEPS / peak)) if peak > 0 else 0
    to["peaks"][slot], to["lengths"][slot] = peak, len(wave)


def inputs(rows: dict[str, Array], spec: AudioInput) -> dict[str, Tensor] | Tensor:
    """Return kept rows as ``waveform`` ``float32`` [B, S] and its mask ``int64`` [B, S], or the first alone."""
    waveform = rows["waves"].astype(np.float32)
    waveform *= (rows["peaks"] / np.float32(STEPS))[:, None]
    if not spec.mask:
        return torch.from_numpy(waveform)
    mask = (np.arange(waveform.shape[1]) < rows["lengths"][:, None]).astype(np.int64)
    return {"waveform": torch.from_numpy(waveform), "attention_mask": torch.from_numpy(mask)}
