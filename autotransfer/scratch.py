"""Temporary folders of a process: those of one that was killed are removed by the next that makes one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_LOCK = ".held"


@contextlib.contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """Give a new folder under TMPDIR, which is removed at the end.

    Args:
        prefix: of its name; folders of this prefix whose process is dead are removed first.
    """
    sweep(prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        with (folder / _LOCK).open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(prefix: str, lock: str = _LOCK) -> None:
    """Remove this user's folders of a prefix under TMPDIR whose lock nobody holds: their process is dead.

    Args:
        prefix: of their names.
        lock: name of the file in each that its process keeps locked; a folder without one is left alone.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError), (folder / lock).open("r+", encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_uid == os.getuid():
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
