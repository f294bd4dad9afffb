"""The registry: what the plugins offer, each asked alone, so that one at fault is known and the rest goes on."""

from __future__ import annotations

import fnmatch
import importlib
import logging
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from autotransfer import discovery
from autotransfer.codec import Scalar
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
from autotransfer.protocols import Dataset, Strategy
from autotransfer.schema import Refusal, SurveyRecord, TrialRecord
from autotransfer.spec import BackboneSpec

log = logging.getLogger(__name__)


class Registry:
    """Backbones, strategies and the other hooks of a set of plugins."""

    def __init__(self, plugins: Sequence[PluginInfo]) -> None:
        self._plugins = list(plugins)
        self._refused: list[Refusal] = [Refusal(name=i.name, reason=i.reason) for i in plugins if i.status == "broken"]
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
    def from_manifest(cls, manifest: Iterable[Mapping[str, Any]]) -> Registry:
        """Return the registry of exactly the plugins that another process has.

        Raises:
            ClusterMismatchError: this node lacks one of them, or has another version.
        """
        found = discovery.from_manifest(manifest)
        wrong = []
        for info in found:
            version, checksum = discovery.here(info)
            if (version, checksum) != (info.version, info.sha256):
                wrong.append(f"{info.name}: here {version or checksum}, on the driver {info.version or info.sha256}")
            elif info.status == "broken":
                wrong.append(f"{info.name}: {info.reason}")
        if wrong:
            raise ClusterMismatchError(f"node {platform.node()} has other plugins than the driver: {'; '.join(wrong)}")
        return cls(found)

    def manifest(self) -> list[dict[str, Any]]:
        """Return what another process needs to load the same plugins by name."""
        keep = ("name", "module", "distribution", "version", "path", "sha256")
        return [{k: getattr(i, k) for k in keep} for i in self._plugins if i.status != "broken"]

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
        namespace = id.split("/", 1)[0]
        for info in self._plugins:
            if info.name != namespace:
                continue
            if info.status == "broken":
                raise PluginLoadError(info.reason)
            spec = self._call(info, "autotransfer_find_backbone", id=id, options=dict(options or {}))
            if isinstance(spec, BackboneSpec):
                self._check_namespace(info, spec.id)
                return spec
        hint = suggestion(id, curated)
        raise UnknownNameError(f"no backbone is called {id!r}{hint}. List all with: autotransfer backbones")

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
        """
        known = self._load_strategies()
        if id not in known:
            raise UnknownNameError(
                f"no strategy is called {id!r}{suggestion(id, known)}. List: autotransfer strategies"
            )
        return known[id]

    def factory(self, spec: BackboneSpec) -> Callable[..., Any]:
        """Return the callable that builds a backbone.

        Raises:
            PluginContractError: it lies outside the plugin that owns the namespace, or cannot be found.
        """
        owner = next((i for i in self._plugins if i.name == spec.namespace and i.loaded is not None), None)
        if owner is None or owner.loaded is None:
            raise PluginContractError(f"no plugin owns the namespace of {spec.id}")
        module_name, _, path = spec.factory.partition(":")
        package = owner.loaded.__name__.split(".")[0]
        if module_name.split(".")[0] != package:
            raise PluginContractError(
                f"the factory of {spec.id} is {spec.factory}, outside its plugin's package {package}"
            )
        try:
            found: Any = owner.loaded if module_name == owner.loaded.__name__ else importlib.import_module(module_name)
            for part in path.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            raise PluginContractError(f"the factory {spec.factory} of {spec.id} cannot be found: {error}") from error
        if not callable(found):
            raise PluginContractError(f"the factory {spec.factory} of {spec.id} is no callable")
        return found  # type: ignore[no-any-return]

    def read_dataset(self, source: Any, options: Mapping[str, Any]) -> Dataset | None:
        """Return the source as the first plugin reads it that can, or None.

        Raises:
            DataError: a plugin knows the source and refuses it.
        """
        for info in self._hooked("autotransfer_read_dataset"):
            found = self._call(info, "autotransfer_read_dataset", source=source, options=options, let=DataError)
            if found is not None:
                return found  # type: ignore[no-any-return]
        return None

    def profile_facts(self, dataset: Dataset) -> dict[str, Scalar]:
        """Return the plugins' measurements as ``<plugin>.<key>``."""
        facts: dict[str, Scalar] = {}
        for info in self._hooked("autotransfer_profile"):
            found = self._call(info, "autotransfer_profile", dataset=dataset)
            if isinstance(found, Mapping):
                facts |= {f"{info.name}.{k}": v for k, v in found.items()}
            elif found is not None:
                self._fault(
                    info,
                    "autotransfer_profile",
                    PluginContractError(f"gave {type(found).__name__}, no mapping"),
                )
        return facts

    def scores(self, survey: Sequence[SurveyRecord], specs: Sequence[BackboneSpec]) -> dict[str, float]:
        """Return the mean rank of each backbone over the plugins' estimators, 1 the best and 0 the worst."""
        ranks: dict[str, list[float]] = {}
        known = {s.id for s in specs}
        for info in self._hooked("autotransfer_score"):
            found = self._call(info, "autotransfer_score", survey=survey, specs=specs)
            if not isinstance(found, Mapping):
                continue
            order = sorted((i for i in found if i in known), key=lambda i: float(found[i]))
            for place, id in enumerate(order):
                ranks.setdefault(id, []).append(place / max(1, len(order) - 1))
        return {id: sum(r) / len(r) for id, r in ranks.items()}

    def trial_finished(self, record: TrialRecord) -> None:
        """Tell the observers; an exception of theirs is logged."""
        for info in self._hooked("autotransfer_trial_finished"):
            self._call(info, "autotransfer_trial_finished", record=record)

    def _hooked(self, hook: str) -> list[PluginInfo]:
        return [i for i in self._plugins if i.status != "broken" and hook in i.hooks]

    def _call(self, info: PluginInfo, hook: str, let: type[Exception] | None = None, **arguments: Any) -> Any:
        """Call one plugin's hook with the arguments that it takes; a failure is kept, and gives None."""
        if info.loaded is None or hook not in info.hooks:
            return None
        function = getattr(info.loaded, hook)
        taken = function.__code__.co_varnames[: function.__code__.co_argcount]
        try:
            result = function(**{k: v for k, v in arguments.items() if k in taken})
            return list(result) if hook in ("autotransfer_backbones", "autotransfer_strategies") else result
        except Exception as error:  # a plugin may raise anything
            if let is not None and isinstance(error, let):
                raise
            self._fault(info, hook, error)
            return None

    def _fault(self, info: PluginInfo, hook: str, error: Exception) -> None:
        kind = "" if isinstance(error, AutotransferError) else f"{type(error).__name__}: "
        text = f"{hook} of {info.origin} failed: {kind}{error}"
        if text not in info.reason:
            info.status, info.reason = "faulty", "; ".join(filter(None, [info.reason, text]))
            self._refused.append(Refusal(name=info.name, reason=text))
        log.warning(text)

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
            for item in self._call(info, hook) or ():
                try:
                    if not isinstance(item, kind):
                        raise PluginContractError(f"gave {type(item).__name__}; wanted {kind.__name__}")
                    self._check_namespace(info, item.id)
                    if item.id in found:
                        raise PluginContractError(f"the id {item.id} is given twice")
                except PluginError as error:
                    self._fault(info, hook, error)
                    continue
                found[item.id] = item
        return found
