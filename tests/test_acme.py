"""A real second distribution, with an in-house backbone and strategy, is found and used without touching the core."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
model = engine.fit(Settings(data=(images, labels), executor="serial", trials=3, backbones=["acme/*"], out=sys.argv[1],
                            strategies=["acme/*"], space={"epochs": 2}))
print(json.dumps({"tried": [[r.recipe.backbone, r.recipe.strategy, r.status] for r in model.run.trials]}))
"""


def _run(code: str, *arguments: str, **environment: str) -> Any:
    given = {**os.environ, **environment, "PYTHONPATH": str(ACME)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=given, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_a_fit_uses_the_in_house_backbone_and_strategy(tmp_path: Path) -> None:
    plugins = "acme=acme_backbones,baselines=autotransfer_baselines"
    told = _run(FIT, str(tmp_path / "run"), AUTOTRANSFER_PLUGINS=plugins)
    tried = [row for row in told["tried"] if row[0].startswith("acme/")]
    assert len(tried) == 3
    assert {status for _, _, status in tried} == {"done"}
    assert all(strategy.startswith("acme/") for _, strategy, _ in tried)


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
