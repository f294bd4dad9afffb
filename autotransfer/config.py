"""The arguments of a fit: one dataclass, mirrored by YAML and by the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotransfer.codec import digest
from autotransfer.errors import ConfigError, faults, suggestion
from autotransfer.schema import Budget
from autotransfer.space import Domain, parse_domain
from autotransfer.spec import MODALITIES

EXECUTORS = ("ray", "serial")
RESOURCES = ("cpus", "gpus", "step_seconds")
_PLACES = ("budget", "trials", "executor", "max_workers", "address", "out", "offline", "resources", "data", "plugins")
"""Arguments that change where and how long a run goes on, not what it answers."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every argument of :func:`autotransfer.fit`, by the same name."""

    data: Any
    target: str | None = None
    task: str | None = None
    modality: str | None = None
    metric: str | None = None
    validation: Any = None
    test: Any = None
    groups: Any = None
    unlabeled: Any = None
    backbones: Sequence[str] | None = None
    strategies: Sequence[str] | None = None
    space: Mapping[str, Any] = field(default_factory=dict)
    budget: str | float | None = None
    trials: int | None = None
    refit: bool = False
    plugins: Sequence[Any] = ()
    executor: str = "ray"
    address: str | None = None
    max_workers: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    offline: bool = False
    out: str | Path | None = None

    @property
    def limit(self) -> Budget:
        """The budget, parsed."""
        return Budget.parse(self.budget, self.trials)

    @property
    def domains(self) -> dict[str, Domain]:
        """The caller's space, parsed."""
        return {name: parse_domain(name, given) for name, given in self.space.items()}

    def checked(self) -> Settings:
        """Return these settings if nothing is wrong with them.

        Raises:
            ConfigError: every fault that can be seen before the data are, in one text.
        """
        found = [*_parse_faults(self), *_type_faults(self)]
        if found:
            raise ConfigError(faults("wrong arguments" if len(found) > 1 else "wrong argument", found))
        return self


def _parse_faults(s: Settings) -> list[str]:
    found = []
    for read in (lambda: s.limit, lambda: s.domains):
        try:
            read()
        except (ConfigError, TypeError, AttributeError) as error:
            found.append(str(error))
    return found


def _type_faults(s: Settings) -> list[str]:
    found = []
    if s.executor not in EXECUTORS:
        found.append(f"executor is {s.executor!r}{suggestion(str(s.executor), EXECUTORS)}; wanted ray or serial")
    if s.modality is not None and s.modality not in MODALITIES:
        found.append(f"modality is {s.modality!r}{suggestion(str(s.modality), MODALITIES)}; known: image, text, audio")
    if s.max_workers is not None and not (_whole(s.max_workers) and s.max_workers >= 1):
        found.append(f"max_workers is {s.max_workers!r}; wanted a whole number, 1 or more")
    if not _whole(s.seed):
        found.append(f"seed is {s.seed!r}; wanted a whole number")
    for name in ("backbones", "strategies"):
        given = getattr(s, name)
        if given is not None and (isinstance(given, str) or not given or not all(isinstance(g, str) for g in given)):
            found.append(f"{name} is {given!r}; wanted a list of ids or patterns, such as ['packs/*']")
    for name in s.resources:
        if name not in RESOURCES:
            found.append(f"resources holds {name!r}{suggestion(name, RESOURCES)}; known: {', '.join(RESOURCES)}")
        elif not isinstance(s.resources[name], (int, float)) or s.resources[name] < 0:
            found.append(f"resources[{name!r}] is {s.resources[name]!r}; wanted a number, 0 or more")
    if isinstance(s.target, (list, tuple)):
        found.append(f"target is {s.target!r}: several targets at once are not supported yet; give one column")
    if s.unlabeled is not None:
        found.append("unlabeled data are not used yet (domain adaptation is planned); leave the argument out")
    if s.address is not None:
        found.append("address is not used yet (other machines are planned); a Ray that is already running here is used")
    return found


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def identity(settings: Settings, fingerprint: str) -> str:
    """Return what makes a run this run: the data, the arguments that change the answer, and the seed."""
    body = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings) if f.name not in _PLACES}
    for source in ("validation", "test", "groups"):
        body[source] = body[source] is not None  # their content is in the fingerprint
    return digest([body, fingerprint], 32)


def from_yaml(path: str | Path, **flags: Any) -> Settings:
    """Return the settings of a YAML file; flags that are not None take the file's place.

    Raises:
        ConfigError: the file cannot be read, or has unknown keys (all of them, with suggestions).
    """
    import yaml

    try:
        body = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"the run file {str(path)!r} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(body, dict):
        raise ConfigError(f"the run file {str(path)!r} holds {type(body).__name__}; wanted keys and values")
    known = [f.name for f in dataclasses.fields(Settings)]
    body = {k: v for k, v in body.items() if k not in ("identity", "finished")}
    unknown = [f"{k!r} is no argument{suggestion(str(k), known)}" for k in body if k not in known]
    if unknown:
        raise ConfigError(faults(f"unknown keys in {path}", unknown))
    merged = {**body, **{k: v for k, v in flags.items() if v is not None}}
    if "data" not in merged:
        raise ConfigError(f"{path} names no data; add 'data: path' or give it on the command line")
    return Settings(**merged)


def to_yaml(settings: Settings, **extra: Any) -> str:
    """Return settings as YAML; data in memory are named by their type alone."""
    import yaml

    body = {f.name: _shown(getattr(settings, f.name)) for f in dataclasses.fields(settings)}
    return str(yaml.safe_dump({**body, **extra}, sort_keys=False, allow_unicode=True))


def _shown(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _shown(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and all(isinstance(v, (str, int, float, bool, Path)) for v in value):
        return [_shown(v) for v in value]
    return f"<{type(value).__name__} in memory>"
