"""Why strategies are not used, in as few words as tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autotransfer.schema import Refusal
from autotransfer.search.candidates import UNKNOWN_STAGES, Space
from autotransfer.spec import BackboneSpec, with_stages
from autotransfer.strategy import Strategy


def merged(
    refusals: Sequence[Refusal], strategies: Sequence[Strategy], specs: Mapping[str, BackboneSpec]
) -> list[Refusal]:
    """Return the refusals; one for unlabeled rows that no backbone may use for one reason is told of once."""
    left = list(refusals)
    for strategy in (s for s in strategies if s.unlabeled):
        names = {f"{strategy.id} on {s.id}" for s in specs.values() if strategy.baseline == (not s.transfer)}
        own = [r for r in left if r.name in names]
        if len(names) > 1 and {r.name for r in own} == names and len({r.reason for r in own}) == 1:
            at = left.index(own[0])
            gone = set(own)
            left = [r for r in left if r not in gone]
            left.insert(at, Refusal(name=f"{strategy.id} on all backbones", reason=own[0].reason))
    return left


def adaptable(space: Space) -> list[str]:
    """Return what may be tried for the unlabeled rows, in one sentence; nothing where there are none."""
    if space.profile.unlabeled is None:
        return []
    suited = [s.id for s in space.strategies if s.unlabeled and any(_fits(s, space, b) for b in space.specs.values())]
    tried = ", ".join(suited) or "no strategy"
    return [
        f"where the survey finds that the {space.profile.unlabeled.rows:,} unlabeled rows differ from the labelled "
        f"ones, strategies that adapt to them are tried: {tried}"
    ]


def _fits(strategy: Strategy, space: Space, spec: BackboneSpec) -> bool:
    own = spec if spec.stages or spec.fitted else with_stages(spec, UNKNOWN_STAGES)
    return spec.transfer and strategy.applies(space.profile, own).ok
