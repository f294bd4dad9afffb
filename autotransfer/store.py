"""The store: named arrays on disk by key, memory-mapped, shared by all processes of a node.

One entry is one folder of two files: ``arrays.bin``, every array at a multiple of 64 bytes, and
``manifest.json``, their shapes and dtypes, the format's version and a checksum. An entry becomes visible by one
rename of its finished folder, so a reader sees all of it or nothing.

A damaged entry is rebuilt, never trusted. The checksum is the CRC-32 of the whole data file, so it catches
a flipped byte anywhere: every burst of up to 32 bits, and other damage but for one case in 2**32; it is no
defence against a forger. It is checked when a process first opens an entry (2 GB/s and more, and the pages are
wanted in memory anyway), and again only when the file changed since or on request: opening costs no read of the
file after that. So what is not caught is a byte that turns on the device, without a write, after the first look.

Locks are ``flock``: ``.lock`` is held exclusively while folders are made, published and removed; a map of
``arrays.bin`` carries a shared lock for as long as any array on it lives, so that a held entry is not evicted;
a writer holds its own exclusively, so that the folder of a dead writer is known. They end with their process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import logging
import mmap
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotransfer.codec import dumps
from autotransfer.errors import StoreFullError
from autotransfer.store_files import (
    DATA,
    MANIFEST,
    Array,
    DamagedError,
    Manifest,
    checksum,
    is_held,
    layout,
    looks_whole,
    open_arrays,
    views_of,
)

_LOCK, _WRITING, _REMOVED = ".lock", ".new-", ".old-"
_KEY = re.compile(r"[0-9A-Za-z_-]{1,200}")
_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_REFUSALS |= {errno.EEXIST, errno.ENOTDIR}  # the folder is a file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Entry:
    """A folder of the store, as eviction sees it."""

    path: Path
    used: int
    bytes: int
    held: bool


class Store:
    """Arrays on disk by key, with a most size; the least recently used entries go first.

    Every process of a node may use one folder at once. Sizes count data files, those being written too;
    manifests (under a kilobyte each) are not counted.

    Args:
        folder: where entries lie; made at the first :meth:`put`. Directories in it that are not the store's
            are left alone.
        most_bytes: what all entries together may take, in bytes.

    Raises:
        ValueError: ``most_bytes`` is negative.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        if most_bytes < 0:
            raise ValueError(f"most_bytes is {most_bytes}; wanted 0 or more")
        self.folder = Path(folder)
        self.most_bytes = most_bytes

    @staticmethod
    def key(*parts: Any) -> str:
        """Return the SHA-256 of the parts' canonical JSON, in hexadecimal."""
        return hashlib.sha256(dumps(parts).encode()).hexdigest()

    def get(self, key: str, *, verify: bool = False) -> dict[str, Array] | None:
        """Return an entry's arrays as read-only memory maps, or None where there is none to be trusted.

        One that is truncated, damaged or of another format is removed, so that it is rebuilt. The entry is
        held, and so not evicted, for as long as any of the arrays or a view of one lives. In a folder that
        cannot be written all of this works but the removal and the note of its use.

        Args:
            key: of the entry.
            verify: read the whole file, even if this process has done so before.

        Raises:
            ValueError: the key is not one that a folder can be named after.
        """
        path = self._path(key)
        try:
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None
        try:
            arrays = open_arrays(folder, key, verify)
            with contextlib.suppress(OSError):  # in a folder that is only read, the order of use is not kept
                os.utime(folder, ns=(time.time_ns(),) * 2)
        except PermissionError:  # another user's
            return None
        except DamagedError as fault:
            self._drop(path, os.fstat(folder).st_ino, str(fault))
            return None
        finally:
            os.close(folder)
        return arrays

    @contextlib.contextmanager
    def put(self, key: str, arrays: Mapping[str, tuple[tuple[int, ...], Any]]) -> Iterator[dict[str, Array]]:
        """Give writable memory maps, zero at first, and keep what they hold when the block ends.

        After an exception nothing is left. Where another process finished the same key first, its entry stays:
        a key stands for its content. The maps may not be written after the block.

        Args:
            key: of the entry.
            arrays: shape and dtype (bool, integer, float or complex) by name.

        Raises:
            StoreFullError: the entry does not fit, even without all entries that are not held; the disk is full;
                or the folder cannot be written. Nothing was evicted in vain, and the block did not run.
            ValueError: the key or a dtype is not one that can be kept.
        """
        path, manifest = self._path(key), layout(key, arrays)
        with _refused(self.folder):
            temporary, data, mapped = self._reserve(manifest)
        try:
            views = views_of(mapped, manifest)
            yield views
            with _refused(self.folder):
                mapped.flush()
                finished = dataclasses.replace(manifest, crc32=checksum(data))
                self._publish(temporary, path, data, finished)
            for view in views.values():
                view.flags.writeable = False
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # nothing is there after a rename; the next put tries again
            os.close(data)

    def room(self, size: int) -> bool:
        """Return whether ``size`` bytes could be kept now, evicting what is not held."""
        there = next(p for p in (self.folder, *self.folder.absolute().parents) if p.exists())
        if not os.access(there, os.W_OK | os.X_OK):
            return False
        if there != self.folder:
            return size <= min(self.most_bytes, shutil.disk_usage(there).free)
        try:
            with _refused(self.folder), self._locked():
                return not self._lacks(size, self._entries())
        except StoreFullError:
            return False

    def size(self) -> int:
        """Return the bytes that entries take, those being written included."""
        return sum(e.bytes for e in self._entries(probe=False))

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key; wanted letters, digits, - and _, such as Store.key gives")
        return self.folder / key

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough where a child forked meanwhile has it too
            os.close(lock)

    def _entries(self, probe: bool = True) -> list[_Entry]:
        """Return all entries and folders being written; with ``probe``, under the lock, whether each is held."""
        found = []
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            if not _KEY.fullmatch(path.name) and not path.name.startswith(_WRITING):
                continue
            try:
                used, size = path.stat().st_mtime_ns, (path / DATA).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                continue  # another's, or removed just now
            found.append(_Entry(path, used, size, probe and is_held(path / DATA)))
        return sorted(found, key=lambda e: e.used)

    def _lacks(self, size: int, entries: list[_Entry]) -> str:
        """Return why ``size`` bytes cannot be kept beside what is held, or an empty string."""
        held = sum(e.bytes for e in entries if e.held)
        if held + size > self.most_bytes:
            return f"it may hold {self.most_bytes:,} bytes, of which {held:,} are in use"
        free = shutil.disk_usage(self.folder).free + sum(e.bytes for e in entries if not e.held)
        return f"the disk has {free:,} bytes to give" if size > free else ""

    def _reserve(self, manifest: Manifest) -> tuple[Path, int, mmap.mmap]:
        """Return a new folder to fill, its data file's descriptor, and a map of it with every block allocated."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._sweep()
            entries, size = self._entries(), manifest.bytes
            if lack := self._lacks(size, entries):
                raise StoreFullError(_full(self.folder, f"{size:,} bytes do not fit: {lack}"))
            free, total = [e for e in entries if not e.held], sum(e.bytes for e in entries)
            while total + size > self.most_bytes:
                total -= free[0].bytes
                self._discard(free.pop(0).path)
            temporary = self.folder / f"{_WRITING}{uuid.uuid4().hex}"
            temporary.mkdir()
            data = os.open(temporary / DATA, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                fcntl.flock(data, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._allocate(data, size, free)
                return temporary, data, mmap.mmap(data, size)
            except BaseException:
                os.close(data)
                shutil.rmtree(temporary, ignore_errors=True)  # the next put tries again
                raise

    def _allocate(self, data: int, size: int, evictable: list[_Entry]) -> None:
        """Take the blocks from the disk now: met later, a full disk would kill the process (SIGBUS)."""
        while True:
            try:
                os.posix_fallocate(data, 0, size)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not evictable:
                    raise
                self._discard(evictable.pop(0).path)
            else:
                return

    def _publish(self, temporary: Path, path: Path, data: int, manifest: Manifest) -> None:
        (temporary / MANIFEST).write_text(manifest.text())
        with self._locked():
            fcntl.flock(data, fcntl.LOCK_SH)  # from here on the maps given to the writer hold it as a reader's do
            if looks_whole(path, manifest.key):
                return
            if path.exists():
                self._discard(path)
            os.utime(temporary, ns=(time.time_ns(),) * 2)
            temporary.rename(path)

    def _sweep(self) -> None:
        """Remove what dead processes left half written or half removed; under the lock."""
        for path in [*self.folder.glob(f"{_WRITING}*"), *self.folder.glob(f"{_REMOVED}*")]:
            if path.name.startswith(_REMOVED) or not is_held(path / DATA):
                shutil.rmtree(path, ignore_errors=True)  # the next put tries again

    def _drop(self, path: Path, inode: int, fault: str) -> None:
        """Remove a damaged entry, unless another process has replaced or removed it meanwhile."""
        try:
            with self._locked():
                if path.exists() and path.stat().st_ino == inode:
                    self._discard(path)
                    log.warning("%s is damaged (%s); it is removed and will be rebuilt", path, fault)
        except OSError as error:  # it is not used, which is what counts
            log.warning("%s is damaged (%s) and cannot be removed: %s", path, fault, error)

    def _discard(self, path: Path) -> None:
        """Make an entry vanish at once, then free its space; under the lock."""
        grave = self.folder / f"{_REMOVED}{uuid.uuid4().hex}"
        path.rename(grave)
        shutil.rmtree(grave, ignore_errors=True)  # the next put tries again


@contextlib.contextmanager
def _refused(folder: Path) -> Iterator[None]:
    """Turn what a full disk or a folder that may not be written raises into StoreFullError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise StoreFullError(_full(folder, f"it cannot be written: {error.strerror}")) from error


def _full(folder: Path, reason: str) -> str:
    return (
        f"the store {folder} cannot take another entry: {reason}; "
        "free some space, allow the store more, or give it another folder"
    )
