"""The folder that everything fetched, converted or remembered lies in."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return ``$AUTOTRANSFER_HOME``, or the platform's cache folder for autotransfer."""
    given = os.environ.get("AUTOTRANSFER_HOME")
    if given:
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("autotransfer"))
