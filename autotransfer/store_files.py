"""The two files of an entry of the store: how arrays lie in them, and whether they are what was written."""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autotransfer.codec import digest, dumps, from_json
from autotransfer.errors import ModelError

Array = np.ndarray[Any, np.dtype[Any]]

FORMAT = 1
DATA, MANIFEST = "arrays.bin", "manifest.json"
ALIGNMENT = 64
"""Bytes: the widest vector load of today's processors, and one cache line."""

_CHUNK = 1 << 22
_TICK = 100_000_000
"""Nanoseconds, well above the step of any file system's clock: two writes closer than that may look like one."""

_checked: set[tuple[int, ...]] = set()
"""Data files that this process has read to the end and found right, as they were then."""


class DamagedError(Exception):
    """An entry is not what its writer left; this never leaves the store."""


@dataclass(frozen=True)
class StoredArray:
    """One array of an entry."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Bytes of its values alone."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Manifest:
    """What an entry holds, in the order of its data file."""

    format: int
    key: str
    bytes: int
    arrays: tuple[StoredArray, ...]
    crc32: int = 0

    def text(self) -> str:
        """Return the manifest file's text: this, and its own checksum."""
        return dumps({"manifest": self, "sha256": digest(self, 64)})


def layout(key: str, arrays: Mapping[str, tuple[tuple[int, ...], Any]]) -> Manifest:
    """Return the manifest of arrays of these shapes and dtypes, before their checksum is known.

    Raises:
        ValueError: a dtype or shape cannot be kept.
    """
    parts = []
    for name, (shape, given) in arrays.items():
        dtype = np.dtype(given)
        if dtype.kind not in "biufc":
            raise ValueError(f"array {name!r} has dtype {dtype}; wanted bool, integer, float or complex")
        if any(n < 0 for n in shape):
            raise ValueError(f"array {name!r} has shape {shape}; wanted lengths of 0 or more")
        parts.append(StoredArray(name, tuple(int(n) for n in shape), dtype.str))
    return Manifest(FORMAT, key, _total(parts), tuple(parts))


def _total(arrays: Sequence[StoredArray]) -> int:
    """Return the data file's bytes: never 0, which cannot be mapped."""
    return max(ALIGNMENT, sum(map(_span, arrays)))


def _span(array: StoredArray) -> int:
    return -(-array.bytes // ALIGNMENT) * ALIGNMENT


def views_of(mapped: mmap.mmap, manifest: Manifest) -> dict[str, Array]:
    """Return the arrays of a map, by name; writable where the map is. They keep the map alive."""
    views: dict[str, Array] = {}
    at = 0
    for a in manifest.arrays:
        views[a.name] = np.ndarray(a.shape, np.dtype(a.dtype), buffer=mapped, offset=at)
        at += _span(a)
    return views


def open_arrays(folder: int, key: str, verify: bool) -> dict[str, Array]:
    """Return the arrays of the entry in an open folder; what is opened in it stays one entry, whatever others do.

    Raises:
        DamagedError: the entry is damaged, of another format, or was removed just now.
    """
    manifest = _manifest(folder, key)
    try:
        data = os.open(DATA, os.O_RDONLY, dir_fd=folder)
    except FileNotFoundError:
        raise DamagedError(f"{DATA} is missing") from None
    try:
        fcntl.flock(data, fcntl.LOCK_SH)
        _check(data, manifest, verify)
        # The map keeps a duplicate of the descriptor, and so the lock, until the last view of it is gone.
        return views_of(mmap.mmap(data, manifest.bytes, access=mmap.ACCESS_READ), manifest)
    finally:
        os.close(data)


def _manifest(folder: int, key: str) -> Manifest:
    try:
        with open(os.open(MANIFEST, os.O_RDONLY, dir_fd=folder), "rb") as file:
            body = json.loads(file.read())
        version = body["manifest"]["format"]
        if version != FORMAT:
            raise DamagedError(f"it has format {version!r}; this version reads {FORMAT}")
        manifest = from_json(Manifest, body["manifest"])
        if body["sha256"] != digest(manifest, 64):
            raise DamagedError("its manifest was altered")
        if manifest.key != key or _total(manifest.arrays) != manifest.bytes:
            raise DamagedError("its manifest is another entry's")
    except FileNotFoundError:
        raise DamagedError(f"{MANIFEST} is missing") from None
    except (ValueError, TypeError, LookupError, ModelError, RecursionError) as error:
        raise DamagedError(f"its manifest cannot be read: {error!r:.200}") from error
    return manifest


def _check(data: int, manifest: Manifest, verify: bool) -> None:
    """Compare the data file with its manifest: its size always, every byte where it was not read before."""
    state = os.fstat(data)
    if state.st_size != manifest.bytes:
        raise DamagedError(f"{DATA} has {state.st_size:,} bytes; wanted {manifest.bytes:,}")
    seen = (state.st_dev, state.st_ino, state.st_size, state.st_ctime_ns, manifest.crc32)
    if seen in _checked and not verify:
        return
    settled = time.time_ns() - state.st_ctime_ns > _TICK  # a write within one tick of the clock would go unseen
    try:
        found = checksum(data)
    except OSError as error:
        raise DamagedError(f"{DATA} cannot be read: {error}") from error
    if found != manifest.crc32:
        _checked.discard(seen)
        raise DamagedError(f"{DATA} has checksum {found:08x}; wanted {manifest.crc32:08x}")
    if settled:
        _checked.add(seen)


def checksum(data: int) -> int:
    """Return the CRC-32 of an open file, read in pieces so that memory stays flat."""
    value, at, buffer = 0, 0, memoryview(bytearray(_CHUNK))
    while count := os.preadv(data, [buffer], at):
        value, at = zlib.crc32(buffer[:count], value), at + count
    return value


def looks_whole(path: Path, key: str) -> bool:
    """Return whether an entry of this key is there, of this format and of the right size."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        return os.stat(DATA, dir_fd=folder).st_size == _manifest(folder, key).bytes
    except (OSError, DamagedError):
        return False
    finally:
        os.close(folder)


def is_held(path: Path) -> bool:
    """Return whether a live process has the data file mapped, or is writing it; under the lock."""
    try:
        data = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # gone, or another user's, who cannot be asked
        return False
    try:
        fcntl.flock(data, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(data, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    finally:
        os.close(data)
    return False
