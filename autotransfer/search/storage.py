"""The run's folder may be gone for a while, or full: what to wait for, and when to give up."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

from autotransfer.errors import AutotransferError, StorageError

T = TypeVar("T")
PATIENCE = 60.0
"""Seconds that a folder may be gone, or full, before the run ends."""
TRIES = 3
"""Times that a piece of work is begun: what fails again on a folder that is well is not the folder's fault."""
EVERY = 0.5
_FULL = {errno.ENOSPC, errno.EDQUOT}
_GONE = {errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ETIMEDOUT, errno.EREMOTEIO}


def fault(folder: Path) -> str:
    """Return why nothing can be written to a folder; empty: it can."""
    probe = folder / f".probe-{uuid.uuid4().hex}"
    try:
        with probe.open("wb") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or str(error)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return ""


def patient(folder: Path, do: Callable[[], T], tick: Callable[[], None] = lambda: None) -> T:
    """Return what ``do`` gives; where a folder fails it, wait until the folder is well and begin again.

    Args:
        folder: that it reads and writes.
        do: may be called several times; each time gives the same.
        tick: called while it waits.

    Raises:
        StorageError: the folder did not come back, or stayed full.
    """
    for left in reversed(range(TRIES)):
        try:
            return do()
        except (OSError, SafetensorError, AutotransferError) as error:
            if isinstance(error, StorageError) or not _concerns(error, folder):
                raise
            full = bool(_codes(error) & _FULL)
            why = _wait(folder, _free(folder) if full else -1, tick) if left else fault(folder)
            if not why and not left and not full:
                raise  # the folder is well, so that the fault lies elsewhere
            if why or not left:
                raise unusable(folder, why or _said(error)) from error
    raise AssertionError("a try either gives something or raises")


def wait(folder: Path) -> None:
    """Wait until a folder can be written.

    Raises:
        StorageError: it did not come back.
    """
    if (why := fault(folder)) and (why := _wait(folder, -1, lambda: None)):
        raise unusable(folder, why)


@contextlib.contextmanager
def named(folder: Path) -> Iterator[None]:
    """Turn a failure of a folder into one error that says so; others pass."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not _concerns(error, folder):
            raise
        raise unusable(folder, _said(error)) from error


def unusable(folder: Path, why: str) -> StorageError:
    """Return the error that ends a run."""
    return StorageError(
        f"the run's folder {folder} cannot be used: {why}; see that it is there, writable and has room: "
        "the same call, or autotransfer resume, then goes on with what is finished"
    )


def _wait(folder: Path, free: int, tick: Callable[[], None]) -> str:
    """Wait until a folder is well and has more than ``free`` bytes free; return why it is not."""
    until = time.monotonic() + PATIENCE
    while True:
        why = fault(folder)
        if not why and _free(folder) <= free:
            why = os.strerror(errno.ENOSPC)
        if not why or time.monotonic() > until:
            return why
        tick()
        time.sleep(EVERY)


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _concerns(error: BaseException, folder: Path) -> bool:
    """Return whether a folder may be to blame for an error."""
    named_there = any(isinstance(e, (OSError, SafetensorError)) and str(folder) in str(e) for e in _chain(error))
    return bool(_codes(error) & (_FULL | _GONE)) or named_there or (_of_files(error) and bool(fault(folder)))


def _of_files(error: BaseException) -> bool:
    return any(isinstance(e, (OSError, SafetensorError)) for e in _chain(error))


def _codes(error: BaseException) -> set[int]:
    """Return the operating system's numbers of an error; safetensors has them in its text alone."""
    found = {e.errno for e in _chain(error) if isinstance(e, OSError) and e.errno is not None}
    texts = " ".join(str(e) for e in _chain(error) if isinstance(e, SafetensorError))
    return found | {int(n) for n in re.findall(r"os error (\d+)", texts)}


def _chain(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split())[:200]
