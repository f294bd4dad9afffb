"""The registry: what the plugins offer, each asked alone, so that one at fault is known and the rest goes on."""

from __future__ import annotations

import fnmatch
import importlib
import logging
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from autotransfer import discovery
from autotransfer.codec import Scalar
from autotransfer.contract import DATASET, check_strategy, is_finite, is_scalar, kind_of, mean_ranks
from autotransfer.discovery import PluginInfo
from autotransfer.errors import (
    AutotransferError,
    ClusterMismatchError,
    DataError,
    PluginContractError,
    PluginError,
    PluginLoadError,
    UnknownNameError,
    suggestion,
)
from autotransfer.mend import mend_torchvision
from autotransfer.protocols import Dataset
from autotransfer.schema import Refusal, SurveyRecord, TrialRecord
from autotransfer.spec import BackboneSpec
from autotransfer.strategy import Strategy

log = logging.getLogger(__name__)


class Registry:
    """Backbones, strategies and the other hooks of a set of plugins."""

    def __init__(self, plugins: Sequence[PluginInfo]) -> None:
        self._plugins = list(plugins)
        broken = (Refusal(name=i.name, reason=i.reason) for i in plugins if i.status == "broken")
        self._refused: list[Refusal] = list(dict.fromkeys(broken))  # two of one name share their reason
        self._failed: dict[tuple[str, str], str] = {}
        """Last failure by plugin and hook."""
        self.offline = False
        """No plugin may touch the network to find a backbone."""
        self._backbones: dict[str, BackboneSpec] | None = None
        self._strategies: dict[str, Strategy] | None = None

    @classmethod
    def discover(cls, plugins: Sequence[str | Path | ModuleType] = ()) -> Registry:
        """Return the registry of everything installed, and of these files and modules.

        ``AUTOTRANSFER_PLUGINS="name=module,..."`` replaces what is installed; ``AUTOTRANSFER_DISABLE="name,..."``
        removes.

        Raises:
            ConfigError: one of ``plugins`` does not exist.
        """
        return cls(discovery.discover(plugins))

    @classmethod
    def from_manifest(cls, manifest: Iterable[Mapping[str, Any]], node: str = "") -> Registry:
        """Return the registry of exactly the plugins that another process has.

        Args:
            manifest: from :meth:`manifest` there.
            node: what errors call this node; empty: its host name.

        Raises:
            ClusterMismatchError: this node lacks one of them, or has another version.
        """
        found = discovery.from_manifest(manifest)
        wrong = []
        for info in found:
            version, checksum = discovery.here(info)
            if (version, checksum) != (info.version, info.sha256):
                wrong.append(f"{info.name}: here {version or checksum}, on the driver {info.version or info.sha256}")
            elif discovery.load(info).status == "broken":
                wrong.append(f"{info.name}: {info.reason}")
        if wrong:
            name = node or platform.node()
            raise ClusterMismatchError(f"node {name} has other plugins than the driver: {'; '.join(wrong)}")
        return cls(found)

    def manifest(self) -> list[dict[str, Any]]:
        """Return what another process needs to load the same plugins by name."""
        return [{k: getattr(i, k) for k in discovery.MANIFEST} for i in self._plugins if i.loaded is not None]

    def plugins(self) -> list[PluginInfo]:
        """Return all plugins, asked once for what they offer, so that their status is known."""
        self._load_backbones()
        self._load_strategies()
        return list(self._plugins)

    def refusals(self) -> list[Refusal]:
        """Return the plugins that are broken or whose hooks failed, each with the reason."""
        return list(self._refused)

    def backbones(self, modality: str | None = None) -> list[BackboneSpec]:
        """Return the curated backbones, sorted by id."""
        found = sorted(self._load_backbones().values(), key=lambda s: s.id)
        return [s for s in found if modality in (None, s.modality)]

    def backbone(self, id: str, options: Mapping[str, Scalar] | None = None) -> BackboneSpec:
        """Return one backbone: a curated one, or one that its namespace's plugin finds.

        Raises:
            UnknownNameError: there is none of this id; close ones are suggested.
            PluginError: the plugin of this namespace is broken.
        """
        curated = self._load_backbones()
        if id in curated:
            return curated[id]
        self._refuse_broken(id)
        for info in self._hooked("autotransfer_find_backbone"):
            if info.name == id.split("/", 1)[0]:
                found = self._found(info, id, options or {})
                if found is not None:
                    return found
        hint = suggestion(id, curated) or _namesakes(id, curated)
        hint += self._failure(id, "autotransfer_backbones")
        raise UnknownNameError(f"no backbone is called {id!r}{hint or '.'} List all with: autotransfer backbones")

    def _found(self, info: PluginInfo, id: str, options: Mapping[str, Scalar]) -> BackboneSpec | None:
        """Return what the plugin that owns an id's namespace finds for it."""
        hook = "autotransfer_find_backbone"
        self._failed.pop((info.name, hook), None)  # of another id
        spec = self._call(info, hook, let=AutotransferError, id=id, options=dict(options), offline=self.offline)
        if (info.name, hook) in self._failed:
            raise PluginLoadError(self._failed[info.name, hook])
        if spec is None:
            return None
        if not isinstance(spec, BackboneSpec):
            raise PluginContractError(f"{hook} of {info.origin} gave {kind_of(spec)}; wanted a BackboneSpec or None")
        self._check_namespace(info, spec.id)
        return spec

    def _refuse_broken(self, id: str) -> None:
        """Raise what broke the plugin that owns an id's namespace."""
        for info in self._plugins:
            if info.status == "broken" and info.name == id.split("/", 1)[0]:
                raise info.error(info.reason)

    def _failure(self, id: str, hook: str) -> str:
        """Return what one hook of the plugin that owns an id's namespace failed with, to be told beside the id."""
        text = self._failed.get((id.split("/", 1)[0], hook))
        return f"; {text}." if text else ""

    def match(self, patterns: Sequence[str], modality: str) -> list[BackboneSpec]:
        """Return the backbones that ids or patterns (``acme/*``) name, in their order, each once.

        Raises:
            UnknownNameError: ids and patterns that name nothing, all of them at once.
        """
        chosen: dict[str, BackboneSpec] = {}
        faults = []
        for pattern in patterns:
            if any(c in pattern for c in "*?["):
                fits = [s for s in self.backbones(modality) if fnmatch.fnmatchcase(s.id, pattern)]
                if not fits:
                    self._refuse_broken(pattern)
                    faults.append(f"no {modality} backbone matches {pattern!r}")
            else:
                try:
                    fits = [self.backbone(pattern)]
                except UnknownNameError as error:
                    faults.append(str(error))
                    continue
                if fits[0].modality != modality:
                    faults.append(f"{pattern} is for {fits[0].modality}; the data are {modality}")
                    continue
            chosen |= {s.id: s for s in fits}
        if faults:
            raise UnknownNameError("\n".join(faults))
        return list(chosen.values())

    def strategies(self) -> list[Strategy]:
        """Return all strategies, sorted by id."""
        return [s for _, s in sorted(self._load_strategies().items())]

    def strategy(self, id: str) -> Strategy:
        """Return one strategy.

        Raises:
            UnknownNameError: there is none of this id; close ones are suggested.
            PluginError: the plugin of this namespace is broken.
        """
        known = self._load_strategies()
        if id not in known:
            self._refuse_broken(id)
            hint = suggestion(id, known) + self._failure(id, "autotransfer_strategies")
            raise UnknownNameError(f"no strategy is called {id!r}{hint or '.'} List all with: autotransfer strategies")
        return known[id]

    def factory(self, spec: BackboneSpec) -> Callable[..., Any]:
        """Return the callable that builds a backbone; errors as for :meth:`resolve`."""
        return self.resolve(spec, spec.factory, "factory")

    def resolve(self, spec: BackboneSpec, named: str, what: str) -> Callable[..., Any]:
        """Return a callable that a backbone's card names.

        Args:
            spec: the card.
            named: ``package.module:callable``.
            what: how errors call it.

        Raises:
            PluginContractError: it lies outside the plugin that owns the namespace, or is no callable.
            PluginLoadError: its module cannot be imported.
        """
        owner = next((i for i in self._plugins if i.name == spec.namespace and i.loaded is not None), None)
        if owner is None or owner.loaded is None:
            raise PluginContractError(f"no plugin owns the namespace of {spec.id}")
        module_name, _, path = named.partition(":")
        package = owner.loaded.__name__.split(".")[0]
        if module_name.split(".")[0] != package:
            raise PluginContractError(
                f"the {what} of {spec.id} is {named}, outside its plugin's package {package}; "
                "give a function of the plugin itself that calls it"
            )
        mend_torchvision()  # what is imported here may import timm or transformers, and they torchvision
        try:
            found: Any = owner.loaded if module_name == owner.loaded.__name__ else importlib.import_module(module_name)
        except Exception as error:  # a plugin's module may raise anything
            raise PluginLoadError(
                f"the {what} {named} of {spec.id} cannot be imported: {type(error).__name__}: {error}"
            ) from error
        for part in path.split("."):
            found = getattr(found, part, None)
            if isinstance(found, ModuleType):  # a plugin's imports are not its own functions
                raise PluginContractError(f"the {what} {named} of {spec.id} leads through a module")
        if not callable(found):
            raise PluginContractError(f"the {what} {named} of {spec.id} is {kind_of(found)}; wanted a callable")
        return found  # type: ignore[no-any-return]

    def read_dataset(self, source: Any, options: Mapping[str, Any]) -> Dataset | None:
        """Return the source as the first plugin reads it that can, or None.

        Raises:
            DataError: a plugin knows the source and refuses it.
        """
        hook = "autotransfer_read_dataset"
        for info in self._hooked(hook):
            found = self._call(info, hook, let=DataError, source=source, options=options)
            if found is None:
                continue
            missing = [n for n in DATASET if not hasattr(found, n)]
            if not missing:
                return found  # type: ignore[no-any-return]
            text = f"gave {kind_of(found)}, which is no Dataset: it lacks {', '.join(missing)}"
            self._fault(info, hook, PluginContractError(text))
        return None

    def profile_facts(self, dataset: Dataset) -> dict[str, Scalar]:
        """Return the plugins' measurements as ``<plugin>.<key>``; what is no scalar is left out, with the reason."""
        facts: dict[str, Scalar] = {}
        for info, found in self._mappings("autotransfer_profile", dataset=dataset):
            wrong = [f"{k} is {kind_of(v)}" for k, v in found.items() if not is_scalar(v)]
            if wrong:
                self._fault(info, "autotransfer_profile", PluginContractError(f"{', '.join(wrong)}; wanted scalars"))
            facts |= {f"{info.name}.{k}": v for k, v in found.items() if is_scalar(v)}
        return facts

    def scores(self, survey: Sequence[SurveyRecord], specs: Sequence[BackboneSpec]) -> dict[str, float]:
        """Return the mean rank of each backbone over the plugins' estimators, 1 the best and 0 the worst.

        Equal estimates share their rank; one that an estimator gives alone has rank 0.5.
        """
        ranks: dict[str, list[float]] = {}
        known = {s.id for s in specs}
        for info, found in self._mappings("autotransfer_score", survey=survey, specs=specs):
            wrong = [f"{k} is {v!r:.40}" for k, v in found.items() if not is_finite(v)]
            if wrong:
                text = f"{', '.join(wrong)}; wanted finite numbers"
                self._fault(info, "autotransfer_score", PluginContractError(text))
            values = {k: float(v) for k, v in found.items() if k in known and is_finite(v)}
            for id, rank in mean_ranks(values).items():
                ranks.setdefault(id, []).append(rank)
        return {id: sum(r) / len(r) for id, r in ranks.items()}

    def trial_finished(self, record: TrialRecord) -> None:
        """Tell the observers; an exception of theirs is logged."""
        for info in self._hooked("autotransfer_trial_finished"):
            self._call(info, "autotransfer_trial_finished", record=record)

    def _hooked(self, hook: str) -> list[PluginInfo]:
        """Return the plugins that have a hook, in the order of asking."""
        return sorted((i for i in self._plugins if hook in i.hooks), key=lambda i: i.rank(hook))

    def _call(self, info: PluginInfo, hook: str, let: type[Exception] | None = None, **arguments: Any) -> Any:
        """Return what one plugin's hook gives; a failure is kept, and gives None, as does a list hook's None.

        Args:
            info: the plugin.
            hook: name of the hook.
            let: errors of this type are the caller's to see.
            **arguments: those of the hook; the plugin's function gets the ones that it takes.
        """
        if info.relay is None:
            return None
        try:
            found = getattr(info.relay, hook)(**arguments)
        except (Exception, SystemExit) as error:  # a plugin may raise anything
            if let is not None and isinstance(error, let):
                raise
            self._fault(info, hook, error)
            return None
        return found if hook in discovery.FIRST else next(iter(found), None)

    def _mappings(self, hook: str, **arguments: Any) -> Iterator[tuple[PluginInfo, Mapping[Any, Any]]]:
        """Yield each plugin with the mapping that its hook gives; None counts as an empty one."""
        for info in self._hooked(hook):
            found = self._call(info, hook, **arguments)
            if isinstance(found, Mapping):
                yield info, found
            elif found is not None:
                self._fault(info, hook, PluginContractError(f"gave {kind_of(found)}; wanted a mapping"))

    def _fault(self, info: PluginInfo, hook: str, error: BaseException) -> None:
        kind = "" if isinstance(error, AutotransferError) else f"{type(error).__name__}: "
        text = f"{hook} of {info.origin} failed: {kind}{error}"
        self._failed[info.name, hook] = text
        if text in info.reason:  # an observer may fail after every trial; it is told once
            log.debug(text, exc_info=error)
            return
        info.status, info.reason = "faulty", "; ".join(filter(None, [info.reason, text]))
        self._refused.append(Refusal(name=info.name, reason=text))
        log.warning(text)
        log.debug("in full:", exc_info=error)

    def _check_namespace(self, info: PluginInfo, id: str) -> None:
        if not id.startswith(f"{info.name}/"):
            raise PluginContractError(f"the id {id!r} must begin with {info.name + '/'!r}, the name of its plugin")

    def _load_backbones(self) -> dict[str, BackboneSpec]:
        if self._backbones is None:
            self._backbones = self._gather("autotransfer_backbones", BackboneSpec)
        return self._backbones

    def _load_strategies(self) -> dict[str, Strategy]:
        if self._strategies is None:
            self._strategies = self._gather("autotransfer_strategies", Strategy)
        return self._strategies

    def _gather(self, hook: str, kind: type[Any]) -> dict[str, Any]:
        """Return what the plugins offer by id; an item that breaks the contract is left out, with the reason."""
        found: dict[str, Any] = {}
        for info in self._hooked(hook):
            for item in self._items(info, hook, kind):
                try:
                    if not isinstance(item, kind):
                        hint = "; make an instance of the class" if isinstance(item, type) else ""
                        raise PluginContractError(f"gave {kind_of(item)}; wanted {kind.__name__}{hint}")
                    if isinstance(item, Strategy):
                        check_strategy(item)
                    self._check_namespace(info, item.id)
                    if item.id in found:
                        raise PluginContractError(f"the id {item.id} is given twice; the first is used")
                except PluginError as error:
                    self._fault(info, hook, error)
                    continue
                found[item.id] = item
        return found

    def _items(self, info: PluginInfo, hook: str, kind: type[Any]) -> list[Any]:
        given = self._call(info, hook)
        try:
            if isinstance(given, kind) or (given is None and (info.name, hook) not in self._failed):
                raise PluginContractError(f"gave {kind_of(given)}; wanted a list of {kind.__name__}")
            return list(given or ())
        except (Exception, SystemExit) as error:  # the hook may be a generator, and raise anything
            self._fault(info, hook, error)
            return []


def _namesakes(id: str, known: Iterable[str]) -> str:
    """Return what there is in an id's namespace, to be told where no id is close to it."""
    own = [i for i in sorted(known) if i.startswith(id.split("/", 1)[0] + "/")]
    return f"; there are {', '.join(own[:5])}{' ...' if len(own) > 5 else ''}." if own and "/" in id else ""
