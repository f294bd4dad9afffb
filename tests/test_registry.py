"""Finding plugins, isolating the ones at fault, and what the registry hands out."""

from __future__ import annotations

import importlib
import json
import logging
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from autotransfer import discovery
from autotransfer.errors import (
    ClusterMismatchError,
    ConfigError,
    DataError,
    PluginConflictError,
    PluginContractError,
    PluginLoadError,
    UnknownNameError,
)
from autotransfer.registry import Registry

HEAD = "from autotransfer.plugin import BackboneSpec, DataError, Phase, Strategy, hookimpl\n"
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No installed plugin, and no toy module left behind."""
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "")
    monkeypatch.delenv("AUTOTRANSFER_DISABLE", raising=False)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("toy"):
            del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a plugin file and give its path."""

    def write(name: str, body: str, head: str = HEAD) -> Path:
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + textwrap.dedent(body))
        return path

    return write


def backbones(*names: str) -> str:
    """Return the text of a plugin that offers these backbones."""
    specs = ", ".join(f"BackboneSpec(id={n!r}, factory=build)" for n in names)
    return f"def build(weights):\n    return None\n\n@hookimpl\ndef autotransfer_backbones():\n    return [{specs}]\n"


def install(site: Path, name: str, version: str, module: str, body: str, entry: str) -> None:
    """Make a distribution as an installer leaves it: a module and its metadata."""
    site.mkdir(exist_ok=True)
    (site / f"{module}.py").write_text(HEAD + body)
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[autotransfer]\n{entry} = {module}\n")
    (info / "RECORD").write_text(f"{module}.py,,\n{info.name}/METADATA,,\n{info.name}/entry_points.txt,,\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder on the path where distributions can be installed, and look at those."""
    monkeypatch.delenv("AUTOTRANSFER_PLUGINS")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site"


def info(registry: Registry, name: str) -> discovery.PluginInfo:
    (found,) = [i for i in registry.plugins() if i.name == name]
    return found


# ---------------------------------------------------------------- finding


def test_an_installed_distribution_is_found_with_its_version(site: Path) -> None:
    install(site, "toy-one", "1.2", "toy_one", backbones("toy/a"), entry="toy")
    registry = Registry.discover()
    found = info(registry, "toy")
    assert (found.module, found.distribution, found.version, found.status) == ("toy_one", "toy-one", "1.2", "ok")
    assert found.hooks == ("autotransfer_backbones",)
    assert registry.backbone("toy/a").factory == "toy_one:build"
    names = [i.name for i in registry.plugins()]
    assert names == sorted(names)


def test_two_distributions_with_one_name_are_both_broken_and_the_rest_goes_on(site: Path) -> None:
    install(site, "toy-one", "1.2", "toy_one", backbones("toy/a"), entry="toy")
    install(site, "toy-two", "3.4", "toy_two", backbones("toy/b"), entry="toy")
    install(site, "toy-three", "0.1", "toy_three", backbones("toythree/c"), entry="toythree")
    registry = Registry.discover()
    both = [i for i in registry.plugins() if i.name == "toy"]
    assert [i.status for i in both] == ["broken", "broken"]
    for part in ("toy-one 1.2", "toy-two 3.4", "'toy'", "AUTOTRANSFER_PLUGINS=toy=MODULE"):
        assert part in both[0].reason
        assert part in both[1].reason
    with pytest.raises(PluginConflictError, match=r"toy-one 1\.2.*toy-two 3\.4"):
        registry.backbone("toy/a")
    with pytest.raises(PluginConflictError):
        registry.strategy("toy/s")
    with pytest.raises(PluginConflictError):
        registry.match(["toy/*"], "image")
    assert registry.backbone("toythree/c").id == "toythree/c"
    assert not {"toy_one", "toy_two"} & set(sys.modules)
    assert [r.name for r in registry.refusals()].count("toy") == 1  # both are named in it


def test_the_environment_chooses_between_two(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "toy-one", "1.2", "toy_one", backbones("toy/a"), entry="toy")
    install(site, "toy-two", "3.4", "toy_two", backbones("toy/b"), entry="toy")
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "toy=toy_two")
    registry = Registry.discover()
    assert [(i.name, i.distribution, i.version) for i in registry.plugins()] == [("toy", "toy-two", "3.4")]
    assert [s.id for s in registry.backbones()] == ["toy/b"]


def test_an_empty_environment_means_none() -> None:
    assert Registry.discover().plugins() == []


@pytest.mark.parametrize("given", ["toy_one", "toy=", "=toy_one", "a=b,toy_one,=c"])
def test_a_malformed_environment_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", given)
    with pytest.raises(ConfigError, match="wanted name=module, comma") as caught:
        Registry.discover()
    if given.startswith("a="):
        assert "'toy_one', '=c'" in str(caught.value)


def test_disable_removes_and_names_what_it_does_not_know(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "toy-one", "1.2", "toy_one", backbones("toy/a"), entry="toy")
    monkeypatch.setenv("AUTOTRANSFER_DISABLE", "toy, toyy")
    registry = Registry.discover()
    assert "toy" not in {i.name for i in registry.plugins()}
    assert "toy_one" not in sys.modules
    unknown = info(registry, "toyy")
    assert unknown.status == "unknown"
    assert unknown.reason == "AUTOTRANSFER_DISABLE names 'toyy', which is no plugin; did you mean toy?"
    assert "toyy" not in {row["name"] for row in registry.manifest()}
    assert json.dumps([i.to_json() for i in registry.plugins()])


def test_a_module_is_its_own_entry_point(site: Path) -> None:
    install(site, "toy-one", "1.2", "toy_one", backbones("toy/a"), entry="toy")
    once = Registry.discover(["toy_one"])
    assert [i.name for i in once.plugins() if i.name.startswith("toy")] == ["toy"]
    again = Registry.discover([importlib.import_module("toy_one")])
    assert [i.name for i in again.plugins() if i.name.startswith("toy")] == ["toy"]


def test_a_module_may_be_given_by_name_by_pair_or_itself(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("toy_mod", backbones("toy_mod/a"))
    write("toy_pair", backbones("toyspace/b"))
    monkeypatch.syspath_prepend(tmp_path)
    module = ModuleType("toy_memory")
    exec(HEAD + backbones("toy_memory/c"), vars(module))
    registry = Registry.discover(["toy_mod", "toyspace=toy_pair", module])
    assert [s.id for s in registry.backbones()] == ["toy_memory/c", "toy_mod/a", "toyspace/b"]
    assert registry.refusals() == []


def test_a_single_argument_need_not_be_a_list(write: Write) -> None:
    path = write("toy_file", backbones("toy_file/a"))
    assert [s.id for s in Registry.discover(str(path)).backbones()] == ["toy_file/a"]
    assert [s.id for s in Registry.discover(path).backbones()] == ["toy_file/a"]  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["nowhere.py", "toy_nowhere", "toy_nowhere.part", "a b", "", "x=toy_nowhere"])
def test_what_does_not_exist_is_the_callers_fault(given: str) -> None:
    with pytest.raises(ConfigError, match=r"does not exist; give the path|no plugin module is called"):
        Registry.discover([given])


# ---------------------------------------------------------------- single files


def test_a_file_has_its_stem_as_namespace_and_its_checksum(write: Write) -> None:
    path = write("toy_file", backbones("toy_file/a"))
    registry = Registry.discover([path])
    found = info(registry, "toy_file")
    assert (found.path, len(found.sha256), found.distribution) == (str(path.resolve()), 64, "")
    assert sys.modules["toy_file"] is found.loaded
    assert registry.factory(registry.backbone("toy_file/a")).__name__ == "build"
    assert not (path.parent / "__pycache__").exists()


def test_the_same_file_twice_is_one_plugin(write: Write) -> None:
    path = write("toy_file", backbones("toy_file/a"))
    assert len(Registry.discover([path, str(path)]).plugins()) == 1


def test_two_files_of_one_name_are_both_broken(write: Write) -> None:
    one, two = write("x/toy_file", backbones("toy_file/a")), write("y/toy_file", backbones("toy_file/b"))
    registry = Registry.discover([one, two])
    assert [i.status for i in registry.plugins()] == ["broken", "broken"]
    with pytest.raises(PluginConflictError) as caught:
        registry.backbone("toy_file/a")
    assert str(one) in str(caught.value)
    assert str(two) in str(caught.value)


def test_a_changed_file_is_read_anew(write: Write) -> None:
    first = Registry.discover([write("toy_file", backbones("toy_file/a"))])
    second = Registry.discover([write("toy_file", backbones("toy_file/b"))])
    assert [s.id for r in (first, second) for s in r.backbones()] == ["toy_file/a", "toy_file/b"]


@pytest.mark.parametrize("name", ["json", "numpy", "colorsys"])
def test_a_file_may_not_hide_another_module(name: str, write: Write) -> None:
    registry = Registry.discover([write(name, backbones(f"{name}/a"))])
    assert info(registry, name).status == "broken"
    assert f"its name {name!r} is that of another module; rename the file" in info(registry, name).reason
    with pytest.raises(PluginLoadError, match="rename the file"):
        registry.backbone(f"{name}/a")
    assert not hasattr(importlib.import_module(name), "autotransfer_backbones")


@pytest.mark.parametrize("imported", [False, True])
def test_a_file_that_is_itself_importable_is_no_clash(
    imported: bool, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("toy_file", backbones("toy_file/a"))
    monkeypatch.syspath_prepend(tmp_path)
    if imported:
        importlib.import_module("toy_file")
    registry = Registry.discover([path])
    assert registry.refusals() == []
    assert info(registry, "toy_file").loaded is sys.modules["toy_file"]


@pytest.mark.parametrize("name", ["toy-file", "toy.file", "class", "1toy"])
def test_a_file_needs_a_modules_name(name: str, write: Write) -> None:
    registry = Registry.discover([write(name, backbones("x/a"))])
    assert "is no name for a Python module; rename the file" in registry.plugins()[0].reason


# ---------------------------------------------------------------- broken plugins


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("import toy_absent_module", "cannot be imported: ModuleNotFoundError: No module named 'toy_absent_module'"),
        ("raise RuntimeError('boom')", "cannot be imported: RuntimeError: boom"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        ("def f(:", "cannot be imported: SyntaxError"),
        ("x = 1", "it has no hook; known are autotransfer_backbones"),
        (
            "@hookimpl\ndef autotransfer_backbone():\n    return []",
            "autotransfer_backbone is no hook; did you mean autotransfer_backbones",
        ),
        ("def autotransfer_bckbones():\n    return []", "autotransfer_bckbones is no hook; did you mean"),
        ("@hookimpl\ndef gives():\n    return []", "gives is no hook; known are autotransfer_backbones"),
        ("def autotransfer_backbones():\n    return []", "autotransfer_backbones lacks the decorator @hookimpl"),
        (
            "@hookimpl\ndef autotransfer_score(survy, specs):\n    return {}",
            "autotransfer_score takes unknown arguments ['survy']; it may take ['survey', 'specs']",
        ),
        ("@hookimpl(wrapper=True)\ndef autotransfer_backbones():\n    yield", "autotransfer_backbones is a wrapper"),
        (
            "@hookimpl(specname='autotransfer_strategies')\ndef autotransfer_backbones():\n    return []",
            "stands for autotransfer_strategies; give the function the hook's own name",
        ),
    ],
)
def test_a_broken_plugin_is_kept_with_its_reason(body: str, reason: str, write: Write) -> None:
    good = write("toy_good", backbones("toy_good/a"))
    registry = Registry.discover([write("toy_bad", body), good])
    bad = info(registry, "toy_bad")
    assert (bad.status, bad.loaded, bad.hooks) == ("broken", None, ())
    assert reason in bad.reason
    assert [(r.name, r.reason) for r in registry.refusals()] == [("toy_bad", bad.reason)]
    assert [s.id for s in registry.backbones()] == ["toy_good/a"]
    with pytest.raises(PluginLoadError):
        registry.backbone("toy_bad/x")
    with pytest.raises(PluginLoadError):
        registry.strategy("toy_bad/x")
    assert [row["name"] for row in registry.manifest()] == ["toy_good"]


def test_all_hook_faults_of_a_plugin_are_told_at_once(write: Write) -> None:
    body = "def autotransfer_backbones():\n    return []\n@hookimpl\ndef autotransfer_profil(dataset):\n    return {}"
    reason = Registry.discover([write("toy_bad", body)]).plugins()[0].reason
    assert "lacks the decorator" in reason
    assert "autotransfer_profil is no hook; did you mean autotransfer_profile" in reason


def test_a_broken_file_may_be_mended_in_the_same_process(write: Write) -> None:
    assert Registry.discover([write("toy_file", "raise ValueError")]).refusals()
    assert not Registry.discover([write("toy_file", backbones("toy_file/a"))]).refusals()


# ---------------------------------------------------------------- hooks that fail


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("    raise KeyError('lost')", "failed: KeyError: 'lost'"),
        ("    raise SystemExit(1)", "failed: SystemExit: 1"),
        ("    yield from ()\n    raise ValueError('late')", "failed: ValueError: late"),
        ("    return None", "failed: gave None; wanted a list of BackboneSpec"),
        ("    return 3", "failed: TypeError: 'int' object is not iterable"),
        ("    return BackboneSpec(id='toy_bad/x', factory='a:b')", "gave BackboneSpec; wanted a list of BackboneSpec"),
        ("    return ['toy_bad/x']", "gave str; wanted BackboneSpec"),
        ("    return [BackboneSpec]", "gave the class BackboneSpec; wanted BackboneSpec; make an instance"),
        ("    return [BackboneSpec(id='x', factory='a:b')]", "failed: a backbone id is namespace/name, got 'x'"),
        (
            "    return [BackboneSpec(id='acme/x', factory='a:b')]",
            "the id 'acme/x' must begin with 'toy_bad/', the name of its plugin",
        ),
    ],
)
def test_a_failing_hook_is_known_by_its_author(
    body: str, reason: str, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    bad = write("toy_bad", f"@hookimpl\ndef autotransfer_backbones():\n{body}\n")
    with caplog.at_level(logging.WARNING, "autotransfer.registry"):
        registry = Registry.discover([bad, write("toy_good", backbones("toy_good/a"))])
        assert info(registry, "toy_bad").status == "faulty"
    assert reason in info(registry, "toy_bad").reason
    assert info(registry, "toy_good").status == "ok"
    ((name, told),) = [(r.name, r.reason) for r in registry.refusals()]
    assert name == "toy_bad"
    assert str(bad) in told
    assert "autotransfer_backbones" in told
    assert [s.id for s in registry.backbones()] == ["toy_good/a"]
    assert reason in caplog.text
    with pytest.raises(UnknownNameError) as caught:
        registry.backbone("toy_bad/x")
    assert reason in str(caught.value)


def test_one_bad_item_leaves_the_others(write: Write) -> None:
    body = backbones("toy_file/a", "acme/b", "toy_file/c", "toy_file/a")
    registry = Registry.discover([write("toy_file", body)])
    assert [s.id for s in registry.backbones()] == ["toy_file/a", "toy_file/c"]
    reasons = [r.reason for r in registry.refusals()]
    assert len(reasons) == 2
    assert "'acme/b'" in reasons[0]
    assert "toy_file/a is given twice" in reasons[1]


STRATEGY = """
class Mine(Strategy):
    id = "toy_file/mine"
    def phases(self, profile, spec, values):
        return [Phase(epochs=1)]

{rest}
@hookimpl
def autotransfer_strategies():
    return [{given}]
"""


@pytest.mark.parametrize(
    ("rest", "given", "reason"),
    [
        ("", "Mine", "gave the class Mine; wanted Strategy; make an instance of the class"),
        ("", "3", "gave int; wanted Strategy"),
        ("Mine.id = ''", "Mine()", "the strategy Mine: its id is ''; wanted namespace/name"),
        ("Mine.id = None", "Mine()", "its id is None; wanted namespace/name"),
        ("Mine.finish = 3", "Mine()", "its finish is no method"),
        ("del Mine.phases", "Mine()", "neither phases nor head, so it would train nothing"),
        ("Mine.id = 'acme/mine'", "Mine()", "'acme/mine' must begin with 'toy_file/'"),
        ("Mine.id, Mine.space = 3, 4", "Mine()", "its id is 3; wanted namespace/name; its space is no method"),
    ],
)
def test_strategies_are_checked(rest: str, given: str, reason: str, write: Write) -> None:
    registry = Registry.discover([write("toy_file", STRATEGY.format(rest=rest, given=given))])
    assert registry.strategies() == []
    assert reason in registry.refusals()[0].reason
    with pytest.raises(UnknownNameError, match="no strategy is called"):
        registry.strategy("toy_file/mine")


def test_a_good_strategy_is_found_and_close_names_are_suggested(write: Write) -> None:
    registry = Registry.discover([write("toy_file", STRATEGY.format(rest="", given="Mine()"))])
    assert registry.strategy("toy_file/mine") is registry.strategies()[0]
    with pytest.raises(UnknownNameError, match=r"'toy_file/mien'; did you mean toy_file/mine\?"):
        registry.strategy("toy_file/mien")


# ---------------------------------------------------------------- looking up


def test_unknown_backbones_get_suggestions(write: Write) -> None:
    registry = Registry.discover([write("toy_file", backbones("toy_file/small", "toy_file/large"))])
    with pytest.raises(UnknownNameError, match=r"did you mean toy_file/small, toy_file/large\? List all with"):
        registry.backbone("toy_file/smal")
    with pytest.raises(
        UnknownNameError, match=r"'toy_file/zzzzzzzzzzzz'; there are toy_file/large, toy_file/small\. List all"
    ):
        registry.backbone("toy_file/zzzzzzzzzzzz")
    with pytest.raises(UnknownNameError, match=r"no backbone is called 'zzz/x'\. List all"):
        registry.backbone("zzz/x")


def test_backbones_by_modality_and_pattern(write: Write) -> None:
    body = backbones("toy_file/b", "toy_file/a").replace(
        "]", ", BackboneSpec(id='toy_file/words', factory=build, modality='text', input=TextInput())]"
    )
    registry = Registry.discover([write("toy_file", "from autotransfer.plugin import TextInput\n" + body)])
    assert [s.id for s in registry.backbones()] == ["toy_file/a", "toy_file/b", "toy_file/words"]
    assert [s.id for s in registry.backbones("text")] == ["toy_file/words"]
    assert [s.id for s in registry.match(["toy_file/b", "toy_file/*"], "image")] == ["toy_file/b", "toy_file/a"]
    with pytest.raises(UnknownNameError) as caught:
        registry.match(["toy_file/c", "zzz/*", "toy_file/words"], "image")
    for part in ("'toy_file/c'", "no image backbone matches 'zzz/*'", "toy_file/words is for text; the data are image"):
        assert part in str(caught.value)


FIND = "@hookimpl\ndef autotransfer_find_backbone(id, options):\n{}"


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        ("    return 'x'", PluginContractError, "gave str; wanted a BackboneSpec or None"),
        ("    return BackboneSpec(id='acme/x', factory='a:b')", PluginContractError, "must begin with 'toy_file/'"),
        ("    raise KeyError(id)", PluginLoadError, "KeyError: 'toy_file/x'"),
        ("    raise DataError('not so')", DataError, "not so"),
        ("    return None", UnknownNameError, "no backbone is called 'toy_file/x'"),
    ],
)
def test_open_ended_ids_that_are_not_found(body: str, error: type[Exception], text: str, write: Write) -> None:
    registry = Registry.discover([write("toy_file", FIND.format(body))])
    with pytest.raises(error, match=text):
        registry.backbone("toy_file/x")


def test_a_finder_that_failed_once_is_asked_again(write: Write) -> None:
    body = "    return BackboneSpec(id=id, factory='toy_file:x') if 'good' in id else 1 / 0"
    registry = Registry.discover([write("toy_file", FIND.format(body))])
    with pytest.raises(PluginLoadError, match="ZeroDivisionError"):
        registry.backbone("toy_file/bad")
    assert registry.backbone("toy_file/good").id == "toy_file/good"


# ---------------------------------------------------------------- factories


@pytest.mark.parametrize(
    ("factory", "error", "text"),
    [
        ("os:system", PluginContractError, "outside its plugin's package toy_file"),
        ("toy_other:build", PluginContractError, "give a function of the plugin itself"),
        ("toy_file:os.system", PluginContractError, "leads through a module"),
        ("toy_file:os", PluginContractError, "leads through a module"),
        ("toy_file:absent", PluginContractError, "is None; wanted a callable"),
        ("toy_file:three", PluginContractError, "is int; wanted a callable"),
        ("toy_file.part:build", PluginLoadError, "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_no_spec_can_name_foreign_code(factory: str, error: type[Exception], text: str, write: Write) -> None:
    other = write("toy_other", backbones("toy_other/a"))
    spec = f"BackboneSpec(id='toy_file/a', factory={factory!r})"
    body = f"import os\nthree = 3\n@hookimpl\ndef autotransfer_backbones():\n    return [{spec}]"
    registry = Registry.discover([write("toy_file", body), other])
    with pytest.raises(error, match=text):
        registry.factory(registry.backbone("toy_file/a"))


def test_a_factory_may_lie_in_a_class_or_in_another_file_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "toy_package"
    package.mkdir()
    specs = (
        "BackboneSpec(id='toy_package/a', factory='toy_package.net:Net.make'), "
        "BackboneSpec(id='toy_package/b', factory='toy_package.bad:make')"
    )
    (package / "__init__.py").write_text(f"{HEAD}@hookimpl\ndef autotransfer_backbones():\n    return [{specs}]\n")
    (package / "net.py").write_text("class Net:\n    @staticmethod\n    def make(weights):\n        return 'made'\n")
    (package / "bad.py").write_text("raise RuntimeError('no such operator')\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry.discover(["toy_package"])
    assert "toy_package.net" not in sys.modules
    assert registry.factory(registry.backbone("toy_package/a"))(None) == "made"
    with pytest.raises(PluginLoadError, match="cannot be imported: RuntimeError: no such operator"):
        registry.factory(registry.backbone("toy_package/b"))


def test_a_spec_without_its_plugin_has_no_factory(write: Write) -> None:
    spec = Registry.discover([write("toy_file", backbones("toy_file/a"))]).backbone("toy_file/a")
    with pytest.raises(PluginContractError, match="no plugin owns the namespace of toy_file/a"):
        Registry.discover().factory(spec)


# ---------------------------------------------------------------- other processes


def test_a_manifest_loads_the_same_plugins_and_no_others(write: Write, site: Path) -> None:
    install(site, "toy-one", "1.2", "toy_one", backbones("toy/a"), entry="toy")
    path = write("toy_file", backbones("toy_file/b"))
    manifest = json.loads(json.dumps(Registry.discover([path]).manifest()))
    rows = [row for row in manifest if row["name"].startswith("toy")]
    assert rows[0] == {
        "name": "toy",
        "module": "toy_one",
        "distribution": "toy-one",
        "version": "1.2",
        "path": "",
        "sha256": "",
    }
    code = (
        "import json, sys; from autotransfer.registry import Registry\n"
        "r = Registry.from_manifest(json.loads(sys.argv[1]))\n"
        "print(json.dumps([[i.name for i in r.plugins()], [s.id for s in r.backbones()]]))"
    )
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {code}", json.dumps(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [["toy", "toy_file"], ["toy/a", "toy_file/b"]]


def test_another_version_on_a_node_is_refused_by_host_and_versions(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "toy-one", "1.2", "toy_one", "raise RuntimeError('run')", entry="toy")
    monkeypatch.setattr("platform.node", lambda: "node-7")
    row = {"name": "toy", "module": "toy_one", "distribution": "toy-one", "version": "1.3", "path": "", "sha256": ""}
    with pytest.raises(ClusterMismatchError, match=r"node node-7 .* toy: here 1\.2, on the driver 1\.3") as caught:
        Registry.from_manifest([row])
    assert "toy_one" not in sys.modules
    assert "RuntimeError" not in str(caught.value)
    with pytest.raises(ClusterMismatchError, match=r"toy: here not installed, on the driver 1\.3"):
        Registry.from_manifest([{**row, "distribution": "toy-absent"}])
    with pytest.raises(ClusterMismatchError, match="RuntimeError: run"):
        Registry.from_manifest([{**row, "version": "1.2"}])


def test_a_file_that_differs_on_a_node_is_not_run(write: Write) -> None:
    path = write("toy_file", backbones("toy_file/a"))
    manifest = Registry.discover([path]).manifest()
    write("toy_file", "raise RuntimeError('run')")
    with pytest.raises(ClusterMismatchError, match=f"on the driver {manifest[0]['sha256']}") as caught:
        Registry.from_manifest(manifest)
    assert "RuntimeError" not in str(caught.value)
    path.unlink()
    with pytest.raises(ClusterMismatchError, match="here missing"):
        Registry.from_manifest(manifest)


def test_discovery_brings_no_torch() -> None:
    code = (
        "import sys; from autotransfer.registry import Registry; r = Registry.discover(); r.plugins(); r.manifest()\n"
        "print([m for m in ('torch', 'timm', 'transformers', 'ray', 'sklearn') if m in sys.modules])"
    )
    environment = {"PATH": "", "PYTHONWARNINGS": "error"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


def test_installed_plugins_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTOTRANSFER_PLUGINS")
    registry = Registry.discover()
    ours = [i for i in registry.plugins() if i.distribution == "autotransfer"]
    assert {"baselines", "core", "packs", "timm"} <= {i.name for i in ours}
    assert [(i.name, i.reason) for i in ours if i.status != "ok"] == []


def test_a_registry_is_made_of_what_it_is_given(write: Write) -> None:
    found: list[Any] = discovery.discover([write("toy_file", backbones("toy_file/a"))])
    assert [s.id for s in Registry(found).backbones()] == ["toy_file/a"]
