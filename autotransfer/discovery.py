"""Finding plugins: entry points, the environment, modules and single files. Nothing heavy is imported."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from autotransfer import hookspecs
from autotransfer.errors import ConfigError, suggestion

GROUP = "autotransfer"
HOOKS = tuple(sorted(n for n in vars(hookspecs) if n.startswith("autotransfer_")))


@dataclass
class PluginInfo:
    """One plugin as it was found."""

    name: str
    """Its namespace: every id of it begins with this and a slash."""
    module: str
    distribution: str = ""
    version: str = ""
    path: str = ""
    """Of a single-file plugin."""
    sha256: str = ""
    """Of a single-file plugin."""
    status: str = "ok"
    """``ok``, ``broken`` (never used) or ``faulty`` (one of its hooks failed; the rest is used)."""
    reason: str = ""
    hooks: tuple[str, ...] = ()
    loaded: ModuleType | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the module itself."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items() if k != "loaded"}

    @property
    def origin(self) -> str:
        """Distribution and version, or the file."""
        return self.path or f"{self.distribution or self.module} {self.version}".strip()

    def break_(self, reason: str) -> None:
        """Mark as broken: the plugin is listed, and never used."""
        self.status, self.reason, self.loaded = "broken", reason, None


def discover(extra: Sequence[str | Path | ModuleType] = ()) -> list[PluginInfo]:
    """Return every plugin there is, broken ones too, sorted by name.

    Args:
        extra: files ending in ``.py``, module names or modules, beside what is installed.

    Raises:
        ConfigError: one of ``extra`` does not exist.
    """
    found = _from_environment() if "AUTOTRANSFER_PLUGINS" in os.environ else _from_entry_points()
    disabled = {n.strip() for n in os.environ.get("AUTOTRANSFER_DISABLE", "").split(",") if n.strip()}
    found = [i for i in found if i.name not in disabled]
    _mark_conflicts(found)
    for info in found:
        load(info)
    for given in extra:
        info = _from_argument(given)
        clash = next((i for i in found if i.name == info.name), None)
        if clash is not None:
            text = f"two plugins are called {info.name!r}: {clash.origin} and {info.origin}; rename one"
            clash.break_(text)
            info.break_(text)
        found.append(info)
    return sorted(found, key=lambda i: (i.name, i.distribution, i.path))


def load(info: PluginInfo) -> PluginInfo:
    """Import a plugin's module and check its hooks; what fails makes it broken, with the reason."""
    if info.status != "ok":
        return info
    try:
        info.loaded = _import_file(info) if info.path else importlib.import_module(info.module)
    except (Exception, SystemExit) as error:  # a plugin's import may raise anything
        info.break_(f"{info.origin} cannot be imported: {type(error).__name__}: {error}")
        return info
    return _check_hooks(info)


def _from_entry_points() -> list[PluginInfo]:
    rows = {
        (p.name, p.dist.name if p.dist else "", p.dist.version if p.dist else "", p.value)
        for p in metadata.entry_points(group=GROUP)
    }
    return [PluginInfo(n, value, distribution=d, version=v) for n, d, v, value in sorted(rows)]


def _from_environment() -> list[PluginInfo]:
    pairs = [p.strip() for p in os.environ["AUTOTRANSFER_PLUGINS"].split(",") if p.strip()]
    wrong = [p for p in pairs if "=" not in p]
    if wrong:
        raise ConfigError(f"AUTOTRANSFER_PLUGINS holds {wrong[0]!r}; wanted name=module, comma, name=module ...")
    return [_with_version(PluginInfo(n.strip(), m.strip())) for n, _, m in (p.partition("=") for p in pairs)]


def _with_version(info: PluginInfo) -> PluginInfo:
    owners = metadata.packages_distributions().get(info.module.split(".")[0], [])
    if owners:
        info.distribution, info.version = owners[0], metadata.version(owners[0])
    return info


def _from_argument(given: str | Path | ModuleType) -> PluginInfo:
    if isinstance(given, ModuleType):
        info = _with_version(PluginInfo(given.__name__.split(".")[-1], given.__name__, loaded=given))
        return _check_hooks(info)
    path = Path(given)
    if path.suffix == ".py":
        if not path.is_file():
            raise ConfigError(f"the plugin file {str(given)!r} does not exist; give the path of a Python file")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return load(PluginInfo(path.stem, path.stem, path=str(path.resolve()), sha256=digest))
    name = str(given)
    try:
        known = importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        known = False
    if not known:
        raise ConfigError(f"no plugin module is called {name!r}; give a Python file, a module name or a module")
    return load(_with_version(PluginInfo(name.split(".")[-1], name)))


def _import_file(info: PluginInfo) -> ModuleType:
    """Import a single file under its stem, which must be free: workers find it by that name again."""
    held = sys.modules.get(info.module)
    if held is not None and getattr(held, "__autotransfer_sha256__", None) == info.sha256:
        return held
    ours = held is not None and hasattr(held, "__autotransfer_sha256__")
    if not ours and (held is not None or importlib.util.find_spec(info.module) is not None):
        raise ImportError(f"its name {info.module!r} is that of another module; rename the file")
    spec = importlib.util.spec_from_file_location(info.module, info.path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    vars(module)["__autotransfer_sha256__"] = info.sha256
    sys.modules[info.module] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[info.module]
        raise
    return module


def _check_hooks(info: PluginInfo) -> PluginInfo:
    """Register the module alone, so that a misspelt hook or argument is known by its author."""
    assert info.loaded is not None
    functions = {n: f for n, f in vars(info.loaded).items() if n.startswith("autotransfer_") and callable(f)}
    faults = [f"{n} is no hook{suggestion(n, HOOKS)}" for n in functions if n not in HOOKS]
    marked = {n for n, f in functions.items() if hasattr(f, "autotransfer_impl")}
    faults += [f"{n} lacks the decorator @hookimpl" for n in functions if n in HOOKS and n not in marked]
    for name in sorted(marked & set(HOOKS)):
        wanted = list(inspect.signature(getattr(hookspecs, name)).parameters)
        unknown = [a for a in inspect.signature(functions[name]).parameters if a not in wanted]
        if unknown:
            faults.append(f"{name} takes unknown arguments {unknown}; it may take {wanted}")
    if not functions:
        faults.append(f"it has no hook; known are {', '.join(HOOKS)}")
    if faults:
        info.break_(f"{info.origin}: " + "; ".join(faults))
        return info
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(info.loaded, info.name)
    manager.check_pending()
    info.hooks = tuple(sorted(functions))
    return info


def _mark_conflicts(found: Iterable[PluginInfo]) -> None:
    by_name: dict[str, list[PluginInfo]] = {}
    for info in found:
        by_name.setdefault(info.name, []).append(info)
    for name, group in by_name.items():
        if len(group) > 1:
            owners = " and ".join(i.origin for i in group)
            for info in group:
                info.break_(f"two plugins are called {name!r}: {owners}; uninstall one or use AUTOTRANSFER_DISABLE")


def from_manifest(rows: Iterable[Mapping[str, Any]]) -> list[PluginInfo]:
    """Return the plugins that a manifest names, loaded here."""
    fields = ("name", "module", "distribution", "version", "path", "sha256")
    return [load(PluginInfo(**{k: row[k] for k in fields})) for row in rows]


def here(info: PluginInfo) -> tuple[str, str]:
    """Return version and checksum of a plugin as this node has it."""
    if info.path:
        file = Path(info.path)
        return "", hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "missing"
    try:
        return (metadata.version(info.distribution) if info.distribution else ""), ""
    except metadata.PackageNotFoundError:
        return "not installed", ""
