"""Where arithmetic may run in bfloat16, and where it must not."""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""What ``/proc/cpuinfo`` calls instructions for bfloat16 on x86 (two) and Arm (one)."""


@functools.cache
def cpu_facts(path: str = "/proc/cpuinfo") -> tuple[str, frozenset[str]]:
    """Return this machine's CPU model and its instruction sets; no sets where the system does not tell them."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:  # no Linux
        return platform.processor() or platform.machine(), frozenset()
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip().lower(), value.strip())
    parts = [found[n] for n in ("model name", "cpu family", "model", "stepping", "cpu part") if found.get(n)]
    flags = found.get("flags") or found.get("features") or ""
    return " ".join(parts) or platform.machine(), frozenset(flags.lower().split())


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device has instructions for bfloat16; without them it is emulated, slowly."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(cpu_facts()[1] & FLAGS)


@contextmanager
def mixed(dtype: str, device: torch.device) -> Iterator[None]:
    """Run in bfloat16 by autocast where ``dtype`` says so and the device has it, else in ``float32``.

    Weights and their gradients stay ``float32``. Autocast keeps no copies of weights in bfloat16: its copies live
    until the outermost context ends, so that a training inside one would go on with the weights of its first step.
    """
    wanted = dtype == "bfloat16" and has_bfloat16(device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted, cache_enabled=False):
        yield


@contextmanager
def exact() -> Iterator[None]:
    """Run in the dtype of the tensors, whatever surrounds this: for cut checks and closed-form solutions."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield
