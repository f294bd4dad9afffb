"""Finding plugins: entry points, the environment, modules and single files. Nothing heavy is imported."""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.util
import inspect
import keyword
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
from autotransfer.errors import ConfigError, PluginConflictError, PluginError, PluginLoadError, suggestion

GROUP = "autotransfer"
MANIFEST = ("name", "module", "distribution", "version", "path", "sha256")
HOOKS = tuple(sorted(n for n in vars(hookspecs) if n.startswith("autotransfer_")))
FIRST = frozenset(n for n in HOOKS if getattr(hookspecs, n).autotransfer_spec["firstresult"])
"""Hooks of which the first result counts."""


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
    """``ok``, ``broken`` (never used), ``faulty`` (one of its hooks failed; the rest is used) or ``unknown``
    (``AUTOTRANSFER_DISABLE`` names it, and there is none)."""
    reason: str = ""
    hooks: tuple[str, ...] = ()
    loaded: ModuleType | None = field(default=None, repr=False, compare=False)
    relay: pluggy.HookRelay | None = field(default=None, repr=False, compare=False)
    """Its hooks alone: no other plugin is called with it."""
    error: type[PluginError] = field(default=PluginLoadError, repr=False, compare=False)
    """What asking for one of its ids raises while it is broken."""

    def to_json(self) -> dict[str, Any]:
        """Return what can be listed: everything but the loaded module and its hooks' callers."""
        return {k: getattr(self, k) for k in MANIFEST} | {
            "status": self.status,
            "reason": self.reason,
            "hooks": list(self.hooks),
        }

    @property
    def origin(self) -> str:
        """Module, distribution and version, or the file."""
        return self.path or (
            f"{self.module} ({self.distribution} {self.version})" if self.distribution else self.module
        )

    def break_(self, reason: str, error: type[PluginError] = PluginLoadError) -> None:
        """Mark as broken: the plugin is listed, and never used."""
        self.status, self.reason, self.error = "broken", reason, error
        self.loaded = self.relay = None

    def rank(self, hook: str) -> int:
        """Return -1 where the hook is marked ``tryfirst``, 1 where ``trylast``, else 0."""
        marks = getattr(getattr(self.loaded, hook, None), "autotransfer_impl", {})
        return int(bool(marks.get("trylast"))) - int(bool(marks.get("tryfirst")))


def discover(extra: Sequence[str | Path | ModuleType] = ()) -> list[PluginInfo]:
    """Return every plugin there is, broken ones too, sorted by name.

    Args:
        extra: files ending in ``.py``, module names (``name=module`` gives another namespace) or modules, beside
            what is installed.

    Raises:
        ConfigError: one of ``extra`` does not exist, or ``AUTOTRANSFER_PLUGINS`` is no list of ``name=module``.
    """
    found = _from_environment() if "AUTOTRANSFER_PLUGINS" in os.environ else _from_entry_points()
    found = _without_disabled(found)
    for given in [extra] if isinstance(extra, (str, Path, ModuleType)) else extra:
        info = _from_argument(given)
        if not any(_same(info, other) for other in found):
            found.append(info)
    _mark_conflicts(found)
    found.sort(key=lambda i: (i.name, i.distribution, i.path))
    return [load(info) for info in found]


def load(info: PluginInfo) -> PluginInfo:
    """Import a plugin's module and check its hooks; what fails makes it broken, with the reason."""
    if info.status != "ok":
        return info
    try:
        if info.loaded is None:
            info.loaded = _import_file(info) if info.path else importlib.import_module(info.module)
    except (Exception, SystemExit) as error:  # a plugin's import may raise anything
        info.break_(f"{info.origin} cannot be imported: {type(error).__name__}: {error}")
        return info
    return _check_hooks(info)


def _same(one: PluginInfo, other: PluginInfo) -> bool:
    return (one.name, one.module, one.path) == (other.name, other.module, other.path)


def _without_disabled(found: list[PluginInfo]) -> list[PluginInfo]:
    """Leave out what ``AUTOTRANSFER_DISABLE`` names; a name that is no plugin is listed as unknown."""
    disabled = {n.strip() for n in os.environ.get("AUTOTRANSFER_DISABLE", "").split(",") if n.strip()}
    if not disabled:
        return found
    known = {i.name for i in found} | {p.name for p in metadata.entry_points(group=GROUP)}
    unknown = [
        PluginInfo(
            name,
            "",
            status="unknown",
            reason=f"AUTOTRANSFER_DISABLE names {name!r}, which is no plugin{suggestion(name, known)}",
        )
        for name in sorted(disabled - known)
    ]
    return [i for i in found if i.name not in disabled] + unknown


def _from_entry_points() -> list[PluginInfo]:
    rows = {
        (p.name, p.dist.name if p.dist else "", p.dist.version if p.dist else "", p.value)
        for p in metadata.entry_points(group=GROUP)
    }
    return [PluginInfo(n, value, distribution=d, version=v) for n, d, v, value in sorted(rows)]


def _from_environment() -> list[PluginInfo]:
    pairs = [p.strip() for p in os.environ["AUTOTRANSFER_PLUGINS"].split(",") if p.strip()]
    parts = [tuple(part.strip() for part in p.partition("=")) for p in pairs]
    wrong = [p for p, (name, _, module) in zip(pairs, parts, strict=True) if not (name and module)]
    if wrong:
        raise ConfigError(
            f"AUTOTRANSFER_PLUGINS holds {', '.join(map(repr, wrong))}; wanted name=module, comma, name=module ..."
        )
    return [_with_version(PluginInfo(name, module)) for name, _, module in parts]


def _with_version(info: PluginInfo) -> PluginInfo:
    """Add the distribution that a module belongs to, where it belongs to one."""
    for point in metadata.entry_points(group=GROUP):
        if point.value == info.module and point.dist is not None:
            info.distribution, info.version = point.dist.name, point.dist.version
            return info
    owners = metadata.packages_distributions().get(info.module.split(".")[0], [])
    if owners:
        info.distribution, info.version = owners[0], metadata.version(owners[0])
    return info


def _from_argument(given: str | Path | ModuleType) -> PluginInfo:
    if isinstance(given, ModuleType):
        return _with_version(PluginInfo(_namespace(given.__name__), given.__name__, loaded=given))
    path = Path(given).expanduser()
    if path.suffix == ".py":
        if not path.is_file():
            raise ConfigError(f"the plugin file {str(given)!r} does not exist; give the path of a Python file")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return PluginInfo(path.stem, path.stem, path=str(path.resolve()), sha256=digest)
    name, _, module = str(given).rpartition("=")
    try:
        known = importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        known = False
    except Exception:  # importing its parent package failed; load() tells how
        known = True
    if not known:
        raise ConfigError(f"no plugin module is called {module!r}; give a Python file, a module name or a module")
    return _with_version(PluginInfo(name or _namespace(module), module))


def _namespace(module: str) -> str:
    """Return the namespace of a module: its entry point's name where it has one, else its own last name."""
    for point in metadata.entry_points(group=GROUP):
        if point.value == module:
            return point.name
    return module.split(".")[-1]


class _Held(importlib.abc.SourceLoader):
    """Run the very bytes that were hashed, and leave no compiled file beside the source."""

    def __init__(self, path: str, source: bytes) -> None:
        self.path, self.source = path, source

    def get_filename(self, fullname: str) -> str:
        """Return the file's path."""
        return self.path

    def get_data(self, path: str | bytes) -> bytes:
        """Return the bytes that were read before."""
        return self.source


def _import_file(info: PluginInfo) -> ModuleType:
    """Import a single file under its stem, which must be free: workers find it by that name again."""
    if not info.module.isidentifier() or keyword.iskeyword(info.module):
        raise ImportError(f"{info.module!r} is no name for a Python module; rename the file, letters and _ only")
    source = Path(info.path).read_bytes()
    if hashlib.sha256(source).hexdigest() != info.sha256:
        raise ImportError("the file has changed since it was found")
    held = sys.modules.get(info.module)
    mark = getattr(held, "__autotransfer_sha256__", None)
    if held is not None and (mark == info.sha256 or (mark is None and _is_file(held.__file__, info.path))):
        return held
    if mark is None and not _free(info):
        raise ImportError(f"its name {info.module!r} is that of another module; rename the file")
    loader = _Held(info.path, source)
    spec = importlib.util.spec_from_file_location(info.module, info.path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    vars(module)["__autotransfer_sha256__"] = info.sha256
    sys.modules[info.module] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[info.module]
        raise
    return module


def _free(info: PluginInfo) -> bool:
    """Return whether no other module could be imported by the file's stem."""
    if info.module in sys.modules:
        return False
    spec = importlib.util.find_spec(info.module)
    return spec is None or _is_file(spec.origin, info.path)


def _is_file(origin: str | None, path: str) -> bool:
    return origin is not None and Path(origin).resolve() == Path(path)


def _check_hooks(info: PluginInfo) -> PluginInfo:
    """Register the module alone, so that a misspelt hook or argument is known by its author."""
    assert info.loaded is not None
    functions = {
        name: value
        for name, value in vars(info.loaded).items()
        if inspect.isroutine(value) and (name.startswith("autotransfer_") or hasattr(value, "autotransfer_impl"))
    }
    faults = [text for name, function in functions.items() for text in _hook_faults(name, function)]
    if not functions:
        faults.append(f"it has no hook; known are {', '.join(HOOKS)}")
    if not faults:
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        try:
            manager.register(info.loaded, info.name)
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            faults.append(str(error))
    if faults:
        info.break_(f"{info.origin}: " + "; ".join(faults))
        return info
    info.hooks, info.relay = tuple(sorted(functions)), manager.hook
    return info


def _hook_faults(name: str, function: Any) -> list[str]:
    if name not in HOOKS:
        return [f"{name} is no hook{suggestion(name, HOOKS) or '; known are ' + ', '.join(HOOKS)}"]
    marks = getattr(function, "autotransfer_impl", None)
    if marks is None:
        return [f"{name} lacks the decorator @hookimpl"]
    found = []
    if marks["wrapper"] or marks["hookwrapper"]:
        found.append(f"{name} is a wrapper; each plugin is called alone, so there is nothing to wrap")
    if marks["specname"] not in (None, name):
        found.append(f"{name} stands for {marks['specname']}; give the function the hook's own name")
    wanted = list(inspect.signature(getattr(hookspecs, name)).parameters)
    unknown = [a for a in inspect.signature(function).parameters if a not in wanted]
    if unknown:
        found.append(f"{name} takes unknown arguments {unknown}; it may take {wanted}")
    return found


def _mark_conflicts(found: Iterable[PluginInfo]) -> None:
    by_name: dict[str, list[PluginInfo]] = {}
    for info in found:
        by_name.setdefault(info.name, []).append(info)
    for name, group in by_name.items():
        if len(group) > 1:
            owners = " and ".join(i.origin for i in group)
            text = (
                f"two plugins are called {name!r}: {owners}; uninstall or rename one, "
                f"or choose with AUTOTRANSFER_PLUGINS={name}=MODULE"
            )
            for info in group:
                info.break_(text, PluginConflictError)


def from_manifest(rows: Iterable[Mapping[str, Any]]) -> list[PluginInfo]:
    """Return the plugins that a manifest names, none of them loaded yet."""
    return [PluginInfo(**{k: row[k] for k in MANIFEST}) for row in rows]


def here(info: PluginInfo) -> tuple[str, str]:
    """Return version and checksum of a plugin as this node has it."""
    if info.path:
        file = Path(info.path)
        return "", hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "missing"
    try:
        return (metadata.version(info.distribution) if info.distribution else ""), ""
    except metadata.PackageNotFoundError:
        return "not installed", ""
