"""The tensors of a CTranslate2 model file (``model.bin``, version 6).

Little-endian: version, name and revision of the specification; the number of variables, and of each its name, rank,
dimensions, type, size and bytes; the number of aliases, and of each its name and the variable's.
Source: ``ctranslate2/specs/model_spec.py`` of CTranslate2, ``Model.save``.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autotransfer.plugin import WeightsError

VERSION = 6
_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


class _Bytes:
    def __init__(self, path: Path) -> None:
        self.body = memoryview(path.read_bytes())
        self.at = 0

    def number(self, kind: str) -> int:
        (found,) = struct.unpack_from(f"<{kind}", self.body, self.at)
        self.at += struct.calcsize(f"<{kind}")
        return int(found)

    def take(self, size: int) -> memoryview:
        part = self.body[self.at : self.at + size]
        if len(part) < size:
            raise ValueError("the file ends too early")
        self.at += size
        return part

    def text(self) -> str:
        return bytes(self.take(self.number("H"))).rstrip(b"\0").decode()


def read(path: Path, under: str) -> dict[str, Tensor]:
    """Return the variables of a file whose names begin with ``under``, floats as ``float32``.

    Raises:
        WeightsError: it is no such file, is damaged, or of another version.
    """
    try:
        return _read(_Bytes(path), under)
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise WeightsError(f"{path} is no CTranslate2 model of version {VERSION}: {error}") from error


def _read(file: _Bytes, under: str) -> dict[str, Tensor]:
    version = file.number("I")
    if version != VERSION:
        raise ValueError(f"its version is {version}")
    file.text()
    file.number("I")
    found: dict[str, Tensor] = {}
    for _ in range(file.number("I")):
        name = file.text()
        shape = [file.number("I") for _ in range(file.number("B"))]
        kind = _TYPES[file.number("B")]
        body = file.take(file.number("I"))
        if name.startswith(under):
            values = torch.from_numpy(np.frombuffer(body, kind).reshape(shape).copy())
            found[name] = values.float() if values.is_floating_point() else values
    for _ in range(file.number("I")):
        name, original = file.text(), file.text()
        if original in found:
            found[name] = found[original]
    return found
