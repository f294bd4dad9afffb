"""The floors: a file imports its own floor or lower, in no circle, and some imports have one place only."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (
    (
        "errors",
        "codec",
        "yaml12",
        "budget",
        "resources",
        "space",
        "spec",
        "targets",
        "gap",
        "profiles",
        "schema",
        "recipes",
    ),
    ("protocols", "strategy", "hookspecs", "contract", "home", "scratch", "mend", "discovery", "registry", "plugin"),
    ("weights", "store", "store_files", "tasks", "data", "train"),
    ("search",),
    (
        "config",
        "executors",
        "away",
        "pool",
        "runs",
        "calibration",
        "finish",
        "model_assets",
        "model_folder",
        "report",
        "export",
        "model",
        "engine",
        "estimators",
    ),
    ("__init__", "cli", "__main__", "testing", "demo"),
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(text: str, typing: bool = False) -> Iterator[str]:
    """Yield the modules that a source imports; those for type checkers alone only where ``typing`` is true."""
    tree = ast.parse(text)
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped and not typing:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def room(path: Path) -> str:
    parts = path.relative_to(ROOT / "autotransfer").with_suffix("").parts
    return parts[0]


def rooms_of(text: str) -> set[str]:
    found = {m.split(".")[1] for m in imports(text, typing=True) if m.startswith("autotransfer.") and m.count(".")}
    return {r for r in found if r in FLOOR}


def upward(path: Path, text: str) -> list[str]:
    here = FLOOR[room(path)]
    return sorted(r for r in rooms_of(text) if FLOOR[r] > here)


def test_every_file_has_a_floor() -> None:
    assert {room(p) for p in sources("autotransfer")} == set(FLOOR)


@pytest.mark.parametrize("path", sources("autotransfer"), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_reaches_up(path: Path) -> None:
    assert upward(path, path.read_text()) == []


def test_a_seeded_reach_up_is_seen() -> None:
    assert upward(ROOT / "autotransfer/data/split.py", "from autotransfer.search.policy import Search\n") == ["search"]
    assert upward(ROOT / "autotransfer/schema.py", "from autotransfer import engine\n") == ["engine"]


def test_rooms_of_one_floor_form_no_circle() -> None:
    uses = {r: set[str]() for r in FLOOR}
    for path in sources("autotransfer"):
        text = path.read_text()
        uses[room(path)] |= {
            m.split(".")[1] for m in imports(text) if m.startswith("autotransfer.") and m.split(".")[1] in FLOOR
        } - {room(path)}
    seen: dict[str, int] = {}

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"circle: {' -> '.join((*way, name))}"
        if seen.get(name):
            return
        for other in uses[name]:
            if FLOOR[other] == FLOOR[name]:
                visit(other, (*way, name))
        seen[name] = 1

    for name in FLOOR:
        visit(name, ())


def test_train_and_data_do_not_know_each_other() -> None:
    for folder, other in (("train", "data"), ("data", "train")):
        for path in sources(f"autotransfer/{folder}"):
            assert other not in rooms_of(path.read_text()), path


def test_core_names_no_plugin_package() -> None:
    for path in sources("autotransfer"):
        # autotransfer_strategies is a hook's name too; only as a package does it count.
        packages = "timm|transformers|vectors|audio|packs|baselines"
        found = re.findall(rf"\b(autotransfer_(?:{packages})\b|autotransfer_strategies[.:])", path.read_text())
        assert not found, path


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        # client: the engine of ray:// is an actor, and only Ray can make one.
        (
            "ray",
            {f"autotransfer/search/{name}.py" for name in ("ray_tune", "cluster", "placement", "locality", "client")},
        ),
        ("timm", {"plugins/"}),
        ("transformers", {"plugins/"}),
        ("typer", {"autotransfer/cli/"}),
    ],
)
def test_some_packages_have_one_place(package: str, allowed: set[str]) -> None:
    for path in (*sources("autotransfer"), *sources("plugins")):
        name = str(path.relative_to(ROOT))
        if any(m.split(".")[0] == package for m in imports(path.read_text(), typing=True)):
            assert any(name.startswith(a) for a in allowed), name


def test_plugins_import_one_module_of_core() -> None:
    for path in sources("plugins"):
        core = {m for m in imports(path.read_text(), typing=True) if m.split(".")[0] == "autotransfer"}
        assert all(m.startswith("autotransfer.plugin") for m in core), (path, core)


@pytest.mark.parametrize("path", [*sources("autotransfer"), *sources("plugins")], ids=lambda p: p.name)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert path.name not in ("utils.py", "base.py", "helpers.py")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            code = node.body[1:] if ast.get_docstring(node) else node.body
            length = (code[-1].end_lineno or 0) - code[0].lineno + 1 if code else 0
            assert length <= 50, node.name
