"""The arguments of a fit: checked together, read from and written to YAML."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from autotransfer import yaml12
from autotransfer.budget import Budget
from autotransfer.codec import digest
from autotransfer.errors import ConfigError, faults, suggestion
from autotransfer.resources import RESOURCES, resource_faults
from autotransfer.search.address import address_faults
from autotransfer.space import Choice, Domain, Integer, LogUniform, Uniform, parse_domain
from autotransfer.spec import MODALITIES
from autotransfer.targets import SEVERAL, one_or_several, target_faults, texts_of

EXECUTORS = ("ray", "serial")
SOURCES = ("data", "validation", "test", "unlabeled")
"""Arguments that give rows."""
MARKS = ("identity", "finished")
"""Keys of a run file that are no arguments: a run folder's own notes."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every argument of :func:`autotransfer.fit`, as the caller gave it."""

    data: Any = None
    """Labelled rows: a folder, a table, (X, y), or a dataset."""
    target: str | Sequence[str] | None = None
    """Name of the target column, where the data have columns; a list of names: one model answers all of them."""
    task: str | Sequence[str] | Mapping[str, str] | None = None
    """``binary``, ``multiclass``, ``multilabel`` or ``regression``; None: guessed from the target. Of several targets
    one for all, a list in their order, or a mapping by target."""
    modality: str | None = None
    """``image``, ``audio`` or ``text``; None: what the data are."""
    metric: str | Sequence[str] | Mapping[str, str] | None = None
    """What decides; None: accuracy (balanced beyond 3 : 1), macro F1 of label sets, RMSE of numbers. Of several targets
    as for ``task``; their mean skill decides."""
    validation: Any = None
    """Source of the validation rows; None: those that come with the data, or drawn from them."""
    test: Any = None
    """Source of the held-out rows; None: those that come with the data, or drawn from them."""
    groups: Any = None
    """A column, or one value a row; rows of one group stay in one split."""
    unlabeled: Any = None
    """Source of rows without labels, from where the model will be used: it is adapted to them where that may help."""
    backbones: str | Sequence[str] | None = None
    """Ids or patterns such as ``packs/*``; None: at most eight by prior and price."""
    strategies: str | Sequence[str] | None = None
    """Ids of strategies; None: all that suit."""
    space: Mapping[str, Any] | None = None
    """Domains in place of the strategies' own: a value, a list, ``{log: [1e-4, 1e-2]}`` ..."""
    budget: str | float | None = None
    """Seconds of wall clock, or a text such as ``10m``; downloads are left out."""
    trials: int | None = None
    """Number of trials, for a run that can be repeated exactly."""
    refit: bool = False
    """The winner is trained again on training and validation rows."""
    plugins: Sequence[Any] = ()
    """Plugin files, module names or modules, beside the installed plugins."""
    executor: str = "ray"
    """``ray``, or ``serial``: in this process."""
    address: str | None = None
    """Of a Ray cluster: ``auto``, host:port or ray://host:port; None: the Ray that is there, or one on this machine."""
    max_workers: int | None = None
    """Trials that may run at the same time; None: as many as fit."""
    resources: Mapping[str, Any] | None = None
    """``cpus`` and ``gpus`` of one trial; ``custom``: amounts of what the cluster's nodes were started with, by name;
    ``labels``: values of the labels of the nodes that trials may run on; ``step_seconds``: a step that takes longer is
    taken to hang; ``disk_gb``: what decoded rows and activations may take of the disk on each machine, 0 to keep none.
    """
    memory: bool | None = None
    """What earlier runs found orders the candidates, and this run is remembered; None: yes, but not with ``trials``,
    whose runs can be repeated exactly. It touches no score."""
    seed: int = 0
    offline: bool = False
    """The network is never touched."""
    out: str | Path | None = None
    """The run's folder; None: nothing is kept but the model in memory."""

    @classmethod
    def of(cls, arguments: Mapping[str, Any], where: str = "fit") -> Settings:
        """Return checked settings from arguments by name.

        Raises:
            ConfigError: unknown names and wrong values, all of them at once.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        found = [f"{where} has no argument {n!r}{suggestion(str(n), known)}" for n in arguments if n not in known]
        settings = cls(**{n: v for n, v in arguments.items() if n in known})
        found += settings.faults()
        if found:
            raise ConfigError(faults("the arguments of this run are wrong", found))
        return settings

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> Settings:
        """Return checked settings from a run file; ``overrides`` win over it.

        Relative paths in the file are relative to the working folder, as they are on the command line.

        Raises:
            ConfigError: the file cannot be read, or holds unknown keys or wrong values, all of them at once.
        """
        return cls.of({**read_yaml(path), **(overrides or {})}, where=str(path))

    def check(self) -> Settings:
        """Return these settings.

        Raises:
            ConfigError: what is wrong with them, all faults at once.
        """
        found = self.faults()
        if found:
            raise ConfigError(faults("the arguments of this run are wrong", found))
        return self

    def faults(self) -> list[str]:
        """Return what is wrong, one text a fault."""
        return [
            *([] if self.data is not None else ["data is missing; give a folder, a table, (X, y) or a dataset"]),
            *address_faults(self.address),
            *self._types(),
            *self._names(),
            *self._amounts(),
            *resource_faults(self.resources),
            *_space_faults(self.space),
        ]

    @property
    def limit(self) -> Budget:
        """Return the budget, parsed."""
        return Budget.parse(self.budget, self.trials)

    def domains(self) -> dict[str, Domain]:
        """Return the space, parsed."""
        return {name: parse_domain(name, given) for name, given in (self.space or {}).items()}

    def share(self) -> dict[str, float]:
        """Return ``cpus``, ``gpus``, ``step_seconds`` and ``disk_gb``, each as given or by default."""
        return {name: (self.resources or {}).get(name, default) for name, default in RESOURCES.items()}

    def _types(self) -> list[str]:
        found = target_faults(self.target)
        for name in ("modality", "executor"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                found.append(f"{name} is {value!r:.60}; wanted a text")
        several = isinstance(one_or_several(self.target), (list, tuple))
        for name in ("task", "metric"):
            value = getattr(self, name)
            if not all(v is None or isinstance(v, str) for v in texts_of(value)):
                found.append(f"{name} is {value!r:.60}; wanted a text{', a list or a mapping by target' * several}")
        for name in ("refit", "offline"):
            if not isinstance(getattr(self, name), bool):
                found.append(f"{name} is {getattr(self, name)!r:.60}; wanted true or false")
        if self.memory is not None and not isinstance(self.memory, bool):
            found.append(f"memory is {self.memory!r:.60}; wanted true or false")
        for name in ("backbones", "strategies"):
            value = getattr(self, name)
            if value is not None and (not as_names(value) or not all(isinstance(v, str) for v in as_names(value))):
                found.append(f"{name} is {value!r:.60}; wanted an id, or a list of ids")
        if isinstance(self.plugins, (str, Path)):
            found.append(f"plugins is {str(self.plugins)!r}; wanted a list of files or modules")
        if self.out is not None and not isinstance(self.out, (str, Path)):
            found.append(f"out is {self.out!r:.60}; wanted the path of a folder")
        if not _whole(self.seed) or self.seed < 0:
            found.append(f"seed is {self.seed!r:.60}; wanted a whole number, 0 or more")
        return found

    def _names(self) -> list[str]:
        found = []
        if isinstance(self.executor, str) and self.executor not in EXECUTORS:
            found.append(
                f"no executor is called {self.executor!r}{suggestion(self.executor, EXECUTORS)}; "
                f"known: {', '.join(EXECUTORS)}"
            )
        if isinstance(self.modality, str) and self.modality not in MODALITIES:
            found.append(
                f"no modality is called {self.modality!r}{suggestion(self.modality, MODALITIES)}; "
                f"known: {', '.join(MODALITIES)}"
            )
        return found + _task_faults(self.task, self.metric)

    def _amounts(self) -> list[str]:
        found = []
        if self.trials is not None and not _whole(self.trials):
            found.append(f"trials is {self.trials!r:.60}; wanted a whole number, 1 or more")
        else:
            found += _budget_faults(None, self.trials)
        if self.budget == math.inf:
            found.append("budget is infinite; wanted seconds or a text such as '10m', or neither budget nor trials")
        elif isinstance(self.budget, bool) or not isinstance(self.budget, (str, int, float, type(None))):
            found.append(f"budget is {self.budget!r:.60}; wanted seconds, or a text such as '10m'")
        else:
            found += _budget_faults(self.budget, None)
        if not found:
            found += _budget_faults(self.budget, self.trials)
        if self.max_workers is not None and (not _whole(self.max_workers) or self.max_workers < 1):
            found.append(f"max_workers is {self.max_workers!r:.60}; wanted a whole number, 1 or more")
        return found


def to_yaml(settings: Settings, *, identity: str | None = None, finished: Mapping[str, Any] | None = None) -> str:
    """Return the arguments that differ from their defaults as YAML; data in memory are named in a comment.

    Files and folders that there are get absolute paths.

    Args:
        settings: the arguments.
        identity: of the run, from :func:`identity`.
        finished: what a run folder notes of a run that is over; :meth:`Settings.from_yaml` skips both.
    """
    comments, body = [], {}
    for one in dataclasses.fields(settings):
        value = getattr(settings, one.name)
        if value is None or (isinstance(value, (str, int, float, tuple, list)) and value == one.default):
            continue
        if one.name in (*SOURCES, "groups") and not isinstance(value, (str, Path)):
            comments.append(f"# {one.name}: {type(value).__name__} in memory; to resume, give it again\n")
            continue
        body[one.name] = _placed(one.name, _plain(value))
    marks = {"identity": identity, "finished": None if finished is None else dict(finished)}
    body |= {name: mark for name, mark in marks.items() if mark is not None}
    return "".join(comments) + (yaml12.dump(body) if body else "")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the arguments that a run file holds.

    Raises:
        ConfigError: there is no such file, or it is no mapping in YAML.
    """
    try:
        body = yaml12.load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the run file {str(path)!r} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"the run file {str(path)!r} is no YAML: {' '.join(str(error).split())[:200]}") from error
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise ConfigError(f"the run file {str(path)!r} holds {type(body).__name__}; wanted keys such as 'data: pets'")
    return {str(k): v for k, v in body.items() if k not in MARKS}


def as_names(given: Any) -> list[Any]:
    """Return one id, a text of ids with commas, or several ids, as a list."""
    if given is None:
        return []
    if isinstance(given, str):
        return [part.strip() for part in given.split(",") if part.strip()]
    return list(given) if isinstance(given, Iterable) else [given]


def identity(settings: Settings, fingerprint: str) -> str:
    """Return what names a run: data, seed and the arguments that change the answer.

    Budget, trials, workers, executor and place may differ between the parts of one run.

    Args:
        settings: of the run.
        fingerprint: of the data, splits included.
    """
    share = settings.share()
    return digest(
        {
            "fingerprint": fingerprint,
            "seed": settings.seed,
            "task": settings.task,
            "modality": settings.modality,
            "metric": settings.metric,
            "backbones": as_names(settings.backbones),
            "strategies": sorted(as_names(settings.strategies)),
            "space": {n: _plain(d) for n, d in settings.domains().items()},
            "refit": settings.refit,
            "plugins": [_plugin(p) for p in settings.plugins],
            "cpus": share["cpus"],
            "gpus": share["gpus"],
        }
    )


def _plugin(given: Any) -> str:
    """Return a plugin's name; of a file its content too, since another content gives another answer."""
    name = _plain(given)
    path = Path(name)
    if path.suffix == ".py" and path.is_file():
        return f"{path.stem} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return str(name)


def _budget_faults(budget: str | float | None, trials: int | None) -> list[str]:
    try:
        Budget.parse(budget, trials)
    except ConfigError as error:
        return [str(error)]
    return []


def _task_faults(task: Any, metric: Any) -> list[str]:
    tasks = [t for t in texts_of(task) if isinstance(t, str)]
    names = [m for m in texts_of(metric) if isinstance(m, str)]
    if not tasks and not names:
        return []
    from autotransfer.tasks import LATER as LATER_TASKS
    from autotransfer.tasks import METRICS

    found = []
    for one in tasks:
        if one not in METRICS:
            later = " (planned)" if one in LATER_TASKS else ""
            later = " (it is what several targets make: target=[...])" if one == SEVERAL else later
            found.append(f"no task is called {one!r}{later}{suggestion(one, METRICS)}; known: {', '.join(METRICS)}")
    for one in names:
        asked = METRICS.get(str(task), [m for own in METRICS.values() for m in own])
        known = list(dict.fromkeys(asked))
        if one not in known:
            found.append(f"no metric is called {one!r}{suggestion(one, known)}; known: {', '.join(known)}")
    return found


def _space_faults(space: Any) -> list[str]:
    if space is None:
        return []
    if not isinstance(space, Mapping):
        return [f"space is {space!r:.60}; wanted names and their domains, such as lr: {{log: [1e-4, 1e-2]}}"]
    found = []
    for name, given in space.items():
        try:
            parse_domain(str(name), given)
        except ConfigError as error:
            text = str(error)
            found.append(text if repr(name) in text else f"the space of {name!r}: {text}")
    return found


def _placed(name: str, value: Any) -> Any:
    """Return data and plugin files that there are by absolute paths: a run goes on from any working folder."""
    if name == "plugins":  # what does not end in .py is a module's name, even beside a folder of that name
        return [str(Path(v).absolute()) if str(v).endswith(".py") and Path(v).exists() else v for v in value]
    there = name in SOURCES and Path(value).exists()
    return str(Path(value).absolute()) if there else value


def _plain(value: Any) -> Any:
    """Return an argument as YAML holds it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Choice):
        return list(value.values)
    if isinstance(value, (Integer, Uniform, LogUniform)):
        return {value.kind: [value.low, value.high]}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, str) or not isinstance(value, Iterable):
        return getattr(value, "__name__", value)
    return [_plain(v) for v in value]


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


__all__ = ["EXECUTORS", "Settings", "as_names", "identity", "read_yaml", "to_yaml"]
