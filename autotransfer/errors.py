"""Every error that autotransfer raises on purpose.

The text of each says what was got, what was wanted and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AutotransferError(Exception):
    """The root of all errors of this package."""


class UserError(AutotransferError):
    """The caller can mend this; the command line exits with 2 and prints the text alone."""


class ConfigError(UserError, ValueError):
    """An argument, flag or key of a run file is wrong; all faults are listed at once."""


class DataError(UserError, ValueError):
    """The data cannot be used as it is."""


class ModelError(UserError, ValueError):
    """A saved model or run folder is damaged, altered or of an unknown version."""


class UnknownNameError(UserError, LookupError):
    """A name is not registered; the text suggests close ones."""


class PluginError(AutotransferError):
    """A plugin is at fault."""


class PluginConflictError(PluginError):
    """Two distributions claim one name."""


class PluginLoadError(PluginError):
    """A plugin could not be imported, or one of its hooks raised."""


class PluginContractError(PluginError):
    """A plugin returned something that its contract forbids."""


class WeightsError(AutotransferError):
    """Pretrained weights cannot be had, or are not what was promised."""


class StoreFullError(AutotransferError):
    """The store can keep nothing more: its size or the disk's is used up, or it cannot be written."""


class SearchError(AutotransferError):
    """The search as a whole failed; the command line exits with 1."""


class NoWorkerError(SearchError):
    """No worker came free, or could be started, before the budget ended."""


class NoTrialSucceededError(SearchError):
    """Every trial failed."""


class StorageError(SearchError):
    """The run's folder was gone or full for too long; what was finished lies in it, and the run can go on."""


class ClusterMismatchError(SearchError):
    """A node of a cluster lacks what the driver has: plugins in the same version, data, weights, the run's folder."""


class TrialFailedError(AutotransferError):
    """This one trial is over; the search goes on."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean a, b?"`` for close matches of ``name``, or an empty string.

    >>> suggestion("timm/resnet81", ["timm/resnet18", "packs/vit"])
    '; did you mean timm/resnet18?'
    """
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {', '.join(close)}?" if close else ""


def faults(title: str, found: Iterable[str]) -> str:
    """Return one text that lists all faults found, one a line."""
    lines = list(found)
    return f"{title}: {lines[0]}" if len(lines) == 1 else "\n".join([f"{title}:", *(f"  - {line}" for line in lines)])
