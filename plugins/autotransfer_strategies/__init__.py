"""The strategies that autotransfer searches by default."""

from __future__ import annotations

from autotransfer.plugin import Strategy, hookimpl
from autotransfer_strategies.adaptation import ADAPTATION
from autotransfer_strategies.full import Averaged, Full
from autotransfer_strategies.knn import NearestNeighbours, Prototypes
from autotransfer_strategies.lora import LowRank
from autotransfer_strategies.lpft import Gradual, LinearProbeThenTune
from autotransfer_strategies.partial import Partial
from autotransfer_strategies.probe import Probe
from autotransfer_strategies.regularised import SpectralShrinkage, StartingPoint
from autotransfer_strategies.ridge import Depths, Ridge
from autotransfer_strategies.surgical import Norms, Surgical


@hookimpl
def autotransfer_strategies() -> list[Strategy]:
    """Return heads in closed form, the probe, every way to fine-tune, and domain adaptation."""
    heads: list[Strategy] = [Ridge(), Depths(), NearestNeighbours(), Prototypes(), Probe()]
    tunes: list[Strategy] = [Partial(), Full(), LinearProbeThenTune(), Gradual(), Surgical(), Norms(), LowRank()]
    kept: list[Strategy] = [StartingPoint(), SpectralShrinkage(), Averaged()]
    return [*heads, *tunes, *kept, *(made() for made in ADAPTATION)]
