"""The pool: which backbones a run considers, and why others are not."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from autotransfer.errors import ConfigError, UnknownNameError, suggestion
from autotransfer.registry import Registry
from autotransfer.schema import Refusal
from autotransfer.space import Choice, Domain
from autotransfer.spec import BackboneSpec, has_size, sized_id, with_size
from autotransfer.strategy import Strategy
from autotransfer.weights import available, is_offline

MOST = 8
"""Backbones of a default pool."""
MOST_BYTES = 500_000_000
"""Download without being asked for by name."""


@dataclass
class Pool:
    """Backbones to use, in the order of choice, baselines last."""

    specs: list[BackboneSpec]
    refusals: list[Refusal] = field(default_factory=list)
    download_bytes: int = 0


def choose(registry: Registry, modality: str, named: Sequence[str] | None, offline: bool) -> Pool:
    """Return the pool for a modality.

    Named backbones are taken as they are. Otherwise at most eight: what is at hand first, then what a hub has
    (what packages carry where no hub can be reached), those with more parameters for their cost first, and no
    more than 500 MB of downloads.

    Raises:
        UnknownNameError: a named backbone does not exist.
    """
    known = registry.backbones(modality)
    baselines = [s for s in known if not s.transfer]
    if named is not None:
        chosen = [s for s in registry.match(named, modality) if s not in baselines]
        missing = {s.id: available(s.weights, offline) for s in chosen}
        lost = {i for i, why in missing.items() if why and (is_offline(offline) or "does not exist" in why)}
        refused = [Refusal(name=i, reason=missing[i]) for i in sorted(lost)]
        kept = [s for s in chosen if s.id not in lost]
        size = sum(s.weights.bytes or 0 for s in kept if s.weights is not None and missing[s.id])
        return Pool([*kept, *baselines], refused, size)
    return _default([s for s in known if s.transfer], baselines, offline)


def _default(known: list[BackboneSpec], baselines: list[BackboneSpec], offline: bool) -> Pool:
    pool = Pool([])
    missing = {s.id: available(s.weights, offline) for s in known}
    here = [s for s in known if not missing[s.id]]
    hub = not is_offline(offline) and any(_on_hub(s) for s in known if missing[s.id]) and hub_reachable()
    for spec in [*sorted(here, key=_value), *sorted((s for s in known if missing[s.id]), key=_value)]:
        why = missing[spec.id]
        size = (spec.weights.bytes or 0) if spec.weights is not None and why else 0
        if why and (is_offline(offline) or "does not exist" in why):
            reason = why
        elif why and _on_hub(spec) and not hub:
            reason = "its weights are on a hub that cannot be reached"
        elif why and not _on_hub(spec) and hub:
            reason = "packages are used where no hub can be reached, or when named with backbones="
        elif len(pool.specs) >= MOST:
            reason = f"the default pool holds {MOST} backbones; name it with backbones= to have it"
        elif pool.download_bytes + size > MOST_BYTES:
            reason = f"downloads would pass {MOST_BYTES / 1e6:.0f} MB; name it with backbones= to have it"
        else:
            pool.specs.append(spec)
            pool.download_bytes += size
            continue
        pool.refusals.append(Refusal(name=spec.id, reason=reason))
    pool.specs += baselines
    return pool


def at_sizes(specs: Sequence[BackboneSpec], sizes: Domain) -> list[BackboneSpec]:
    """Return each backbone once at each input size that the caller's space asks for, baselines as they are.

    The same network at two sizes is two members of the pool: each has its own survey, costs and stored activations.
    One that cannot take a size fails in its survey, and the record tells why.

    Raises:
        ConfigError: the sizes are no list of whole numbers, or no backbone has a size.
    """
    wanted = sizes.values if isinstance(sizes, Choice) else ()
    if not wanted or not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in wanted):
        raise ConfigError(f"input_size is {sizes}; wanted pixels, such as 96 or [96, 128]")
    if not any(s.transfer and has_size(s) for s in specs):
        raise ConfigError("input_size is asked for, and no backbone here has an input size in pixels; leave it out")
    found: list[BackboneSpec] = []
    for spec in specs:
        if spec.transfer and has_size(spec):
            found += [replace(with_size(spec, int(v)), id=sized_id(spec.id, int(v))) for v in dict.fromkeys(wanted)]  # type: ignore[arg-type]
        else:
            found.append(spec)
    return found


def _on_hub(spec: BackboneSpec) -> bool:
    return spec.weights is not None and spec.weights.where == "hub"


def _value(spec: BackboneSpec) -> tuple[float, str]:
    """Sort key: parameters per square root of cost; picked blindly, size is hard to beat (arXiv 2510.06448)."""
    return -(spec.params or 0) / max(1.0, float(spec.macs or 0)) ** 0.5, spec.id


@functools.cache
def hub_reachable() -> bool:
    """Return whether the model hub answers, asked once a process."""
    import huggingface_hub

    try:
        huggingface_hub.HfApi().model_info("timm/resnet18.a1_in1k", timeout=3)
    except Exception:  # the client raises many kinds, all of which mean: no
        return False
    return True


def choose_strategies(registry: Registry, named: Sequence[str] | None) -> list[Strategy]:
    """Return the strategies of these ids or patterns (all for None), and those made for baselines.

    Raises:
        UnknownNameError: one of them names nothing; all such are listed.
        ConfigError: there is no strategy at all.
    """
    import fnmatch

    known = registry.strategies()
    if named is None:
        chosen = known
    else:
        ids = [s.id for s in known]
        wrong = [n for n in named if not fnmatch.filter(ids, n)]
        if wrong:
            raise UnknownNameError("; ".join(f"no strategy is called {n!r}{suggestion(n, ids)}" for n in wrong))
        chosen = [s for s in known if s.baseline or any(fnmatch.fnmatchcase(s.id, n) for n in named)]
    if not any(not s.baseline for s in chosen):
        raise ConfigError("there is no strategy to search; see: autotransfer plugins")
    return chosen
