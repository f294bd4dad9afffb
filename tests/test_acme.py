"""A real second distribution, with an in-house backbone and strategy, is found and used without touching the core."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

ACME = Path(__file__).parent / "acme_backbones"
FIT = """
import json, sys
import numpy as np
from autotransfer import engine
from autotransfer.config import Settings

rng = np.random.default_rng(0)
labels = np.arange(90) % 3
images = rng.integers(0, 120, (90, 32, 32, 3)).astype(np.uint8)
for image, label in zip(images, labels):
    image[8 * label : 8 * label + 8, :, label] += 100
model = engine.fit(Settings(data=(images, labels), executor="serial", trials=int(sys.argv[2]), backbones=["acme/*"],
                            out=sys.argv[1], strategies=sys.argv[3:], space={"epochs": 2}))
owner = next(i for i in model._registry.plugins() if i.name == "acme")
print(json.dumps({"tried": [[r.recipe.backbone, r.recipe.strategy, r.status] for r in model.run.trials],
                  "owner": [owner.distribution, owner.version]}))
"""


def _run(code: str, *arguments: str, **environment: str) -> Any:
    path = os.pathsep.join(filter(None, [environment.pop("path", ""), str(ACME), os.environ.get("PYTHONPATH", "")]))
    given = {**os.environ, **environment, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=given, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_a_fit_uses_the_in_house_backbone_and_strategy(tmp_path: Path) -> None:
    plugins = "acme=acme_backbones,baselines=autotransfer_baselines"
    told = _run(FIT, str(tmp_path / "run"), "3", "acme/*", AUTOTRANSFER_PLUGINS=plugins)
    tried = [row for row in told["tried"] if row[0].startswith("acme/")]
    assert len(tried) == 3
    assert {status for _, _, status in tried} == {"done"}
    assert all(strategy.startswith("acme/") for _, strategy, _ in tried)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with what pip writes beside the installed distribution, taken from its own pyproject.toml."""
    project = tomllib.loads((ACME / "pyproject.toml").read_text())["project"]
    notes = tmp_path / "site" / f"acme_backbones-{project['version']}.dist-info"
    notes.mkdir(parents=True)
    (notes / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = [
        f"[{g}]\n" + "".join(f"{n} = {v}\n" for n, v in own.items()) for g, own in project["entry-points"].items()
    ]
    (notes / "entry_points.txt").write_text("\n".join(points))
    (notes / "top_level.txt").write_text("acme_backbones\n")
    return notes.parent


def test_its_strategy_of_30_lines_is_found_by_its_entry_point_and_searched_with_the_rest(
    tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AUTOTRANSFER_PLUGINS", raising=False)
    assert len((ACME / "acme_backbones" / "strategy.py").read_text().splitlines()) <= 30
    chosen = ("acme/*", "core/full", "core/probe", "core/knn")
    told = _run(FIT, str(tmp_path / "run"), "6", *chosen, path=str(installed))
    assert told["owner"] == ["acme-backbones", "1.2.0"]
    assert {s for _, s, _ in told["tried"]} > {"acme/probe-then-tune", "core/full", "core/probe"}
    assert {status for *_, status in told["tried"]} == {"done"}


def test_its_strategy_trains_the_head_and_then_the_upper_half_with_its_loss_term(
    toys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ACME))
    from acme_backbones.strategy import ProbeThenTune

    strategy, values = ProbeThenTune(), {"epochs": 3, "lr": 0.03, "lr_ratio": 0.5}
    phases = strategy.phases(None, SimpleNamespace(stages=("one", "two", "three")), values)
    trainer = toys.trainer(phases, strategy=strategy)
    before = toys.tensors(trainer.job.network)
    trainer.run(1)
    assert {n.split(".")[0] for n in toys.changed(before, toys.tensors(trainer.job.network))} == {"head"}
    trainer.run()
    moved = toys.changed(before, toys.tensors(trainer.job.network))
    assert {n.split(".")[1] for n in moved if n.startswith("backbone.")} == {"two", "three", "last"}
    features = torch.tensor([[3.0, 1.0], [0.0, 2.0]])
    step = SimpleNamespace(stage_features=(features,))
    assert float(trainer.own_term(step)) == pytest.approx(1e-4 * (9 + 1 + 0 + 4) / 4)


def test_the_kit_passes_it() -> None:
    code = """
import json
from autotransfer.testing import check_plugin
print(json.dumps([str(f) for f in check_plugin("acme_backbones") if f.level == "error"]))
"""
    assert _run(code, AUTOTRANSFER_PLUGINS="acme=acme_backbones") == []


def test_installed_it_is_found_through_its_entry_point() -> None:
    try:
        version = importlib.metadata.version("acme-backbones")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("install it with: pip install --no-deps tests/acme_backbones")
    from autotransfer.registry import Registry

    info = next(i for i in Registry.discover().plugins() if i.name == "acme")
    assert (info.status, info.version) == ("ok", version)
