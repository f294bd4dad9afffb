"""What was measured of the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from autotransfer.codec import Scalar
from autotransfer.gap import Unlabeled
from autotransfer.targets import TargetProfile


@dataclass(frozen=True, kw_only=True)
class DataIssue:
    """Something a user should know about the rows."""

    what: str
    """``unreadable``, ``duplicates``, ``duplicates_across_splits``, ``conflicting_labels``, ``missing_labels``, ..."""
    count: int
    text: str
    """One plain sentence, with what was done about it."""
    rows: tuple[str, ...] = ()
    """Names of the rows, all of them."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What was measured of the data, before any network saw it."""

    name: str
    """How the source calls itself: a path, or ``arrays``."""
    modality: str
    task: str
    metric: str
    rows: int
    """Usable rows, all splits together."""
    train: int
    validation: int
    test: int
    targets: tuple[str, ...] = ("target",)
    each: tuple[TargetProfile, ...] = ()
    """Where there are several targets, each by itself; ``classes`` and ``counts`` are empty there."""
    columns: tuple[str, ...] = ()
    """That the rows were taken from; empty: the source has none."""
    classes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    """Rows of each class."""
    imbalance: float = 1.0
    """Rows of the largest class / rows of the smallest."""
    issues: tuple[DataIssue, ...] = ()
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    """Measurements by name (``image.width_median``), those of plugins as ``<plugin>.<key>``."""
    fingerprint: str = ""
    """Hash of all rows and targets in their order."""
    unlabeled: Unlabeled | None = None
    """Rows without labels, where some were given."""
