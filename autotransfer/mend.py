"""A torchvision that cannot be imported beside a CPU torch is made importable."""

from __future__ import annotations

import importlib.util
import logging
import threading
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

_mending = threading.Lock()
_mended: list[Any] = []
"""The declarations last as long as the object that made them."""


def mend_torchvision() -> None:
    """Make ``import torchvision``, and with it timm and transformers, work beside a CPU torch.

    PyPI's torchvision wheel has no compiled ops for a CPU-only torch; its import then dies because the schemas
    of two ops are missing. They are declared here, once in a process, unless torchvision's compiled library
    loads and declares them itself.
    """
    with _mending:
        if _mended or importlib.util.find_spec("torchvision") is None:
            return
        import torch

        if _ops_declared():
            return
        library = torch.library.Library("torchvision", "DEF")
        for op in ("nms", "qnms"):
            library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _mended.append(library)


def _ops_declared() -> bool:
    """Return whether torchvision's ops are there, once its compiled library has been tried."""
    import torch

    if hasattr(torch.ops.torchvision, "nms"):
        return True
    for path in _torchvision_libraries():
        try:
            torch.ops.load_library(path)
        except OSError as error:
            log.debug("torchvision's compiled ops do not load: %s", error)
    return hasattr(torch.ops.torchvision, "nms")


def _torchvision_libraries() -> list[str]:
    spec = importlib.util.find_spec("torchvision")
    folders = [] if spec is None else [Path(p) for p in spec.submodule_search_locations or ()]
    return [str(p) for folder in folders for pattern in ("_C.*so", "_C.pyd") for p in sorted(folder.glob(pattern))]
