"""The kit finds planted faults, and passes what is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autotransfer.plugin import Phase, Strategy, Uniform, Verdict
from autotransfer.testing import Finding, assert_strategy, check_plugin, check_strategy

HEAD = """
import torch
from torch import nn
from autotransfer.plugin import BackboneSpec, ImageInput, hookimpl

IMAGE = ImageInput(size=16, crop=1.0)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)
    def forward(self, x):
        return self.two(torch.relu(self.one(x))).mean((2, 3))
"""
FORWARD = "class Bad(Net):\n    def forward(self, x):\n        "
FAULTS = {
    "nan": (
        "class Bad(Net):\n    def forward(self, x):\n        return super().forward(x) * float('nan')",
        {},
        "not finite",
    ),
    "width": ("class Bad(Net):\n    pass", {"width": 9}, "width 9; the network gives 5"),
    "batch": (
        f"{FORWARD}y = super().forward(x)\n        return y - y.mean(0)",
        {},
        "depends on the other rows",
    ),
    "random": (
        f"{FORWARD}y = super().forward(x)\n        return y + torch.rand_like(y)",
        {},
        "another answer the second time",
    ),
    "path": ("class Bad(Net):\n    pass", {"stages": ("on", "two")}, "did you mean one"),
    "order": ("class Bad(Net):\n    pass", {"stages": ("two", "one")}, "does not run after"),
    "kind": ("class Bad(Net):\n    pass", {"output": "tokens"}, "output='vector' fits"),
    "gradient": (
        f"{FORWARD}return self.two(torch.relu(self.one(x)).detach()).mean((2, 3))",
        {"stages": ("one", "two")},
        "no gradient reaches the stages 'one'",
    ),
    "raises": (f"{FORWARD}raise KeyError('lut')", {}, "KeyError"),
}


def _written(folder: Path, name: str, body: str, card: dict[str, Any]) -> Path:
    file = folder / f"{name}_plugin.py"
    more = "".join(f", {key}={value!r}" for key, value in card.items())
    hook = f'    return [BackboneSpec(id="{name}_plugin/net", factory=build, input=IMAGE{more})]'
    build = "def build(weights):\n    torch.manual_seed(0)\n    return Bad()"
    file.write_text(f"{HEAD}\n{body}\n\n{build}\n\n@hookimpl\ndef autotransfer_backbones():\n{hook}\n")
    return file


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_of_a_backbone_is_found(tmp_path: Path, name: str) -> None:
    body, card, wanted = FAULTS[name]
    found = check_plugin(_written(tmp_path, name, body, card))
    assert any(wanted in f.text and f.level == "error" for f in found), found


def test_a_right_backbone_passes(tmp_path: Path, toynet: str) -> None:
    assert check_plugin(_written(tmp_path, "right", "Bad = Net", {"width": 5})) == []
    assert check_plugin(toynet) == []


def test_a_backbone_without_parameters_is_a_warning(tmp_path: Path) -> None:
    body = "class Bad(nn.Module):\n    def forward(self, x):\n        return x.mean((2, 3))"
    (found,) = check_plugin(_written(tmp_path, "bare", body, {}))
    assert found.level == "warning"
    assert "it has no parameters" in found.text


@pytest.mark.parametrize(
    ("hook", "wanted"),
    [
        ("profile(dataset):\n    return {'odd': object()}", "odd is object; wanted scalars"),
        ("profile(dataset):\n    return dataset.nothing", "has no attribute 'nothing'"),
        ("read_dataset(source, options):\n    return source.upper()", "has no attribute 'upper'"),
        ("read_dataset(source, options):\n    raise DataError('no table')", "refuses what is not its own (no table)"),
    ],
)
def test_a_planted_fault_of_a_hook_about_data_is_found(tmp_path: Path, hook: str, wanted: str) -> None:
    file = tmp_path / "hooked.py"
    imports = "from autotransfer.plugin import DataError, hookimpl\n\n"
    file.write_text(f"{imports}@hookimpl\ndef autotransfer_{hook}\n")
    (found,) = check_plugin(file)
    assert (found.level, found.about) == ("error", "hooked")
    assert wanted in found.text


def test_a_cut_over_a_branch_is_a_warning(tmp_path: Path) -> None:
    body = (
        "class Bad(Net):\n    def __init__(self):\n        super().__init__()\n"
        "        self.three = nn.Conv2d(3, 5, 5)\n"
        "    def forward(self, x):\n        y = self.two(torch.relu(self.one(x)))\n"
        "        return (y + self.three(x)).mean((2, 3))"
    )
    found = check_plugin(_written(tmp_path, "branch", body, {"stages": ("one", "two", "three")}))
    assert [f.level for f in found] == ["warning"] * len(found) or found == []


class Good(Strategy):
    id = "kit/good"
    summary = "all of it"

    def phases(self, profile: Any, spec: Any, values: Any) -> list[Phase]:
        return [Phase(epochs=values["epochs"], lr=1e-2)]


class NoReason(Good):
    id = "kit/no-reason"

    def applies(self, profile: Any, spec: Any) -> Verdict:
        return Verdict(False)


class NoDomain(Good):
    id = "kit/no-domain"

    def space(self, profile: Any, spec: Any) -> Any:
        return {"lr": (1e-3, 1e-2)}


class TooDeep(Good):
    id = "kit/too-deep"

    def phases(self, profile: Any, spec: Any, values: Any) -> list[Phase]:
        return [Phase(epochs=1, freeze=len(spec.stages) + 1)]


class Stringly(Good):
    id = "kit/stringly"

    def space(self, profile: Any, spec: Any) -> Any:
        return {"lr": Uniform(0.1, 0.2)}

    def phases(self, profile: Any, spec: Any, values: Any) -> Any:
        return "train everything"


@pytest.mark.parametrize(
    ("strategy", "wanted"),
    [
        (NoReason(), "without a reason"),
        (NoDomain(), "no domains"),
        (TooDeep(), "the phase freezes"),
        (Stringly(), "wanted a list of Phase"),
    ],
)
def test_a_planted_fault_of_a_strategy_is_found(strategy: Strategy, wanted: str) -> None:
    found = check_strategy(strategy)
    assert any(wanted in f.text for f in found), found
    with pytest.raises(AssertionError, match="kit/"):
        assert_strategy(strategy)


def test_a_right_strategy_passes() -> None:
    assert check_strategy(Good()) == []
    assert_strategy(Good())


class ForFew(TooDeep):
    id = "kit/for-few"

    def applies(self, profile: Any, spec: Any) -> Verdict:
        return Verdict(profile.train < 30, "" if profile.train < 30 else "it is for fewer rows")


class ForTexts(TooDeep):
    id = "kit/for-texts"

    def applies(self, profile: Any, spec: Any) -> Verdict:
        return Verdict(profile.modality == "text", "" if profile.modality == "text" else "it is for texts")


class Leaking(Good):
    id = "kit/leaking"

    def phases(self, profile: Any, spec: Any, values: Any) -> list[Phase]:
        return [Phase(epochs=1, freeze=min(2, len(spec.stages)))]

    def adapt(self, backbone: Any, values: Any, rows: Any, owners: Any = None) -> None:
        assert {n: s for n, s in owners.items() if n.endswith("weight")} == {
            f"s{i}.weight": i for i in range(backbone.count)
        }

    def finish(self, context: Any) -> None:
        if context.module.backbone.count:
            context.module.backbone.get_parameter("s0.weight").data.mul_(1.0 + 1e-6)


def test_a_strategy_for_few_rows_is_tried_on_few() -> None:
    assert any("the phase freezes" in f.text for f in check_strategy(ForFew()))


def test_a_strategy_that_applies_to_no_made_up_data_is_a_warning() -> None:
    (found,) = check_strategy(ForTexts())
    assert (found.level, found.about) == ("warning", "kit/for-texts")
    assert "was not tried: it is for texts" in found.text
    assert_strategy(ForTexts())


def test_a_strategy_is_told_the_stages_and_may_not_touch_frozen_ones() -> None:
    (found,) = check_strategy(Leaking())
    assert found.text == "parameters of frozen stages moved: s0.weight"


def test_a_finding_reads_as_one_line() -> None:
    assert str(Finding("error", "a/b", "it is red")) == "error: a/b: it is red"
