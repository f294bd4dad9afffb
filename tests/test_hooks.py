"""Every hook is told in plugins/README.md with its arguments, and has a test of its own here."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from autotransfer import hookspecs
from autotransfer.data.dataset import ItemDataset
from autotransfer.data.readers import read
from autotransfer.discovery import HOOKS
from autotransfer.errors import DataError
from autotransfer.plugin import BackboneSpec, Phase, Strategy, hookimpl
from autotransfer.registry import Registry
from autotransfer.schema import Recipe, SurveyRecord, TrialRecord

README = (Path(__file__).parents[1] / "plugins" / "README.md").read_text()


def _registry(monkeypatch: pytest.MonkeyPatch, **hooks: Any) -> Registry:
    """Return a registry whose only plugin, called ``toy``, has these hooks."""
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "")
    module = ModuleType("toy")
    for name, function in hooks.items():
        setattr(module, name, hookimpl(function))
    return Registry.discover([module])


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_told_with_its_arguments_and_tested(hook: str) -> None:
    arguments = ", ".join(inspect.signature(getattr(hookspecs, hook)).parameters)
    assert f"### {hook}({arguments})" in README
    assert f"test_hook_{hook.removeprefix('autotransfer_')}" in globals()


def test_the_readmes_backbone_and_strategy_pass_the_kit(tmp_path: Path) -> None:
    from autotransfer.testing import check_plugin, check_strategy

    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "mine.py").write_text(blocks[0])
    assert len(blocks[0].splitlines()) <= 24
    assert check_plugin(tmp_path / "mine.py") == []
    held: dict[str, Any] = {}
    (tmp_path / "reader.py").write_text(blocks[1])
    assert check_plugin(tmp_path / "reader.py") == []
    exec(compile(blocks[2], "README", "exec"), held)
    assert check_strategy(held["ProbeThenTune"]()) == []


def test_hook_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = BackboneSpec(id="toy/net", factory="toy:build")
    registry = _registry(monkeypatch, autotransfer_backbones=lambda: [spec])
    assert registry.backbones() == [spec]


def test_hook_find_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    def autotransfer_find_backbone(id: str) -> BackboneSpec | None:
        return BackboneSpec(id=id, factory="toy:build") if id.startswith("toy/v") else None

    registry = _registry(monkeypatch, autotransfer_find_backbone=autotransfer_find_backbone)
    assert registry.backbone("toy/v7").id == "toy/v7"
    with pytest.raises(LookupError, match="no backbone is called 'toy/x'"):
        registry.backbone("toy/x")


def test_hook_strategies(monkeypatch: pytest.MonkeyPatch) -> None:
    class One(Strategy):
        id = "toy/one"
        summary = "one phase"

        def phases(self, profile: Any, spec: Any, values: Any) -> list[Phase]:
            return [Phase(epochs=1)]

    registry = _registry(monkeypatch, autotransfer_strategies=lambda: [One()])
    assert [s.id for s in registry.strategies()] == ["toy/one"]


def test_hook_read_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    made = ItemDataset("mine", ["a.png"], {"y": ["cat"]})

    def autotransfer_read_dataset(source: Any, options: Any) -> Any:
        if source == "mine://locked":
            raise DataError("the vault is locked; ask for a key")
        return made if source == "mine://pets" and options["target"] == "y" else None

    registry = _registry(monkeypatch, autotransfer_read_dataset=autotransfer_read_dataset)
    assert read("mine://pets", registry, target="y") is made
    with pytest.raises(DataError, match="the vault is locked"):
        read("mine://locked", registry, target="y")
    with pytest.raises(DataError, match="no file system is known for mine://"):
        read("mine://other", registry, target="y")


def test_hook_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = _registry(monkeypatch, autotransfer_profile=lambda dataset: {"rows": len(dataset)})
    assert registry.profile_facts(ItemDataset("mine", ["a", "b"], {})) == {"toy.rows": 2}


def test_hook_score(monkeypatch: pytest.MonkeyPatch) -> None:
    def autotransfer_score(survey: Any, specs: Any) -> dict[str, float]:
        return {s.id: float(len(s.id)) for s in specs}

    registry = _registry(monkeypatch, autotransfer_score=autotransfer_score)
    specs = [BackboneSpec(id=f"toy/{'x' * n}", factory="toy:build") for n in (3, 1, 2)]
    survey = [SurveyRecord(backbone=s.id, status="done") for s in specs]
    assert registry.scores(survey, specs) == {"toy/x": 0.0, "toy/xx": 0.5, "toy/xxx": 1.0}


def test_hook_trial_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    registry = _registry(monkeypatch, autotransfer_trial_finished=lambda record: seen.append(record.id))
    registry.trial_finished(TrialRecord(id="t001", recipe=Recipe(backbone="a/b", strategy="c/d"), status="done"))
    assert seen == ["t001"]

    def broken(record: TrialRecord) -> None:
        raise RuntimeError("the tracker is down")

    registry = _registry(monkeypatch, autotransfer_trial_finished=broken)
    registry.trial_finished(TrialRecord(id="t001", recipe=Recipe(backbone="a/b", strategy="c/d"), status="done"))
    assert "the tracker is down" in registry.plugins()[0].reason
