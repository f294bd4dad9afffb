"""What a worker is asked to do, and what it works with. Jobs are JSON; equal jobs have equal results."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from autotransfer.codec import digest
from autotransfer.recipes import spec_id
from autotransfer.schema import Recipe, SurveyRecord, TrialRecord
from autotransfer.spec import BackboneSpec

if TYPE_CHECKING:
    from autotransfer.data import Prepared

Record = SurveyRecord | TrialRecord


@dataclass(frozen=True, kw_only=True)
class SurveyJob:
    """Read training rows up to ``rows`` through a frozen backbone, and judge its features."""

    backbone: str
    rows: int
    last: bool = True
    """The validation rows are read too."""
    seconds: float = field(default=float("inf"), compare=False)
    """After reading training rows, or validation rows, for this long it reads no further; no part of the job's name."""
    deadline: float = field(default=float("inf"), compare=False)
    """``time.time()`` seconds after which it reads no further, whatever took so long; no part of the job's name."""
    kind: ClassVar[str] = "survey"

    @property
    def key(self) -> str:
        """A hash that names this job."""
        return digest([self.kind, self.backbone, self.rows, self.last])

    @property
    def title(self) -> str:
        """What a user reads while it runs."""
        return f"survey {self.backbone}"


@dataclass(frozen=True, kw_only=True)
class GapJob:
    """Read rows without labels through a surveyed backbone, and measure how they differ from the training rows."""

    backbone: str
    known: SurveyRecord = field(compare=False)
    """The backbone's survey; the gap is added to it. No part of the job's name: it follows from the earlier jobs."""
    kind: ClassVar[str] = "gap"

    @property
    def key(self) -> str:
        """A hash that names this job."""
        return digest([self.kind, self.backbone])

    @property
    def title(self) -> str:
        """What a user reads while it runs."""
        return f"unlabeled rows through {self.backbone}"


@dataclass(frozen=True, kw_only=True)
class RungJob:
    """Train a recipe up to the end of an epoch, from where its last rung stopped."""

    id: str
    recipe: Recipe
    rung: int = 0
    until: int | None = None
    """Passes over the training rows; None: to the end of the last phase."""
    final: bool = False
    """No later rung follows: the optimizer is not kept."""
    survey: str = ""
    """Work file of the backbone's pooled features; empty: there is none."""
    rows: int | None = None
    """Only the first so many training rows (and a fourth as many validation rows) are used; None: all."""
    rivals: tuple[Recipe, ...] = ()
    """Other heads on the same frozen features, trained beside this one in the same products; the best is the trial."""
    begins: str = field(default="", compare=False)
    """Checkpoint of the rung before; no part of the job's name: it follows from the earlier jobs."""
    passed: tuple[int, ...] = field(default=(), compare=False)
    """Where the rungs before ended: each has its own schedule, so that they are run one by one where they are lost."""
    again: bool = field(default=False, compare=False)
    """Its checkpoint is gone and wanted: it is run, whatever the ledger holds."""
    deadline: float = field(default=float("inf"), compare=False)
    """``time.time()`` seconds after which training stops at the next batch; no part of the job's name."""
    criterion: str = field(default="validation", compare=False)
    """What its record is compared by; no part of the job's name: it follows from the earlier jobs."""
    row_seconds: float = field(default=0.0, compare=False)
    """Seconds in which the survey ran one row through the frozen backbone; no part of the job's name."""
    judge: str = field(default="", compare=False)
    """Backbone whose classifier of labelled and unlabeled rows weighs validation rows."""
    kind: ClassVar[str] = "rung"

    @property
    def key(self) -> str:
        """A hash that names this job."""
        return digest([self.kind, self.id, self.recipe, self.rung, self.until, self.final, self.rows, self.rivals])

    @property
    def checkpoint(self) -> str:
        """Work folder of what it trains: no two jobs share one, so whoever is late spoils nothing."""
        return f"checkpoint-{self.id}-{digest(self.key, 8)}"

    @property
    def title(self) -> str:
        """What a user reads while it runs."""
        freeze = "" if self.recipe.freeze is None else f" freeze {self.recipe.freeze}/{len(self.recipe.stages)}"
        return f"{self.id} {spec_id(self.recipe)} {self.recipe.strategy}{freeze}"


Job = SurveyJob | GapJob | RungJob
Generation = Generator[list[Job], list[Record], None]
"""Jobs that may run side by side, then their records in the same order."""


@dataclass
class Context:
    """What every worker of one search shares."""

    prepared: Prepared
    """The data; it reaches workers through the executor."""
    manifest: Sequence[Mapping[str, Any]]
    """The plugins, by module and version."""
    specs: Mapping[str, BackboneSpec]
    weights: Mapping[str, str]
    """Path of the weights of each backbone that needs a file."""
    work: str
    """Folder of features and checkpoints, seen by every worker."""
    seed: int = 0
    threads: int = 1
    store: str = ""
    """Folder of this node where decoded rows and activations are kept; empty: nothing is."""
    store_bytes: int = 0
    """The most that the store may hold."""
    step_seconds: float = 300.0
    """A worker that is silent for longer is taken to hang, and is killed (Ray executor)."""

    def path(self, name: str) -> Path:
        """Return a file of the work folder."""
        return Path(self.work) / name


def slug(name: str) -> str:
    """Return a backbone id as a file name."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name) + "-" + digest(name, 6)
