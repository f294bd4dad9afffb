"""Strategies without phases and heads on all depths, as trials of a search: scored, saved, loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autotransfer import engine
from autotransfer import model_folder as folder
from autotransfer.codec import digest
from autotransfer.config import Settings
from autotransfer.errors import ModelError
from autotransfer.model import TransferModel, load
from autotransfer.search.survey import head_features, write_atomically
from autotransfer.train.depths import DepthNetwork, concatenated

DEEP = '''
import torch
from torch import nn
from autotransfer.plugin import Phase, Strategy, hookimpl


class Deep(Strategy):
    """All depths, the last stages trained, batch norms with the statistics of the training rows."""

    id = "deep/tuned"
    depths = True

    def phases(self, profile, spec, values):
        return [Phase(epochs=2, lr=1e-2, freeze=len(spec.stages)), Phase(epochs=1, lr=1e-3, freeze=1)]

    def adapt(self, backbone, values, rows):
        norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            backbone(rows.batch(range(min(64, len(rows)))))
        for norm in norms:
            norm.eval()


@hookimpl
def autotransfer_strategies():
    return [Deep()]
'''


VIT = """
import torch
from torch import nn
from autotransfer.plugin import BackboneSpec, ImageInput, hookimpl


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True) for _ in range(2))

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return x


def build(weights):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


@hookimpl
def autotransfer_backbones():
    tiny = ImageInput(size=16, crop=1.0)
    return [BackboneSpec(id="tinyvit/net", factory=build, input=tiny, output="tokens", stages=("blocks.0", "blocks.1"))]
"""


@pytest.fixture(autouse=True)
def _own_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")


def _fit(data: Any, plugins: list[str], strategy: str, **more: Any) -> TransferModel:
    given = {"backbones": "toynet/small", "trials": 1, "executor": "serial", "seed": 1, **more}
    return engine.fit(Settings(data=data, plugins=plugins, strategies=[strategy], **given))


@pytest.fixture(scope="module")
def deep_folder(tmp_path_factory: pytest.TempPathFactory, stripes: Any, toynet: str) -> Path:
    """A saved model of core/depths."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")
        return _fit(stripes, [toynet], "core/depths").save(tmp_path_factory.mktemp("deep") / "model")


def resigned(place: Path, edit: Any) -> Path:
    """Change a note as a JSON object, and make its checksum right."""
    body = json.loads((place / folder.RECIPE).read_text())
    edit(body)
    body["checksum"] = digest({**body, "checksum": ""}, 64)
    (place / folder.RECIPE).write_text(json.dumps(body))
    return place


@pytest.fixture(scope="module")
def shades() -> tuple[np.ndarray, np.ndarray]:
    """Images ``uint8`` [120, 16, 16, 3] of noise, dark, grey or bright."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    images = rng.integers(0, 90, (120, 16, 16, 3)) + 70 * labels[:, None, None, None]
    return images.astype(np.uint8), np.array(["dark", "grey", "bright"])[labels]


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("strategy", ["core/ridge", "core/depths", "core/knn"])
def test_a_head_in_closed_form_is_a_trial_like_any_other(
    shades: Any, toynet: str, tmp_path: Path, strategy: str, refit: bool
) -> None:
    model = _fit(shades, [toynet], strategy, refit=refit)
    (record,) = model.run.trials
    assert (record.status, record.recipe.strategy, record.epochs, record.best_epoch) == ("done", strategy, 0, 0)
    assert record.objective is not None
    assert record.objective > 0.6
    assert len(record.curve) == 1
    assert isinstance(model.module, DepthNetwork) == (strategy == "core/depths")
    model.save(tmp_path / "kept")
    chances = model.predict_proba(shades[0][:20])
    assert np.array_equal(load(tmp_path / "kept", [toynet]).predict_proba(shades[0][:20]), chances)
    assert (model.predict(shades[0][:20]) == shades[1][:20]).mean() > 0.6


def test_class_means_of_few_rows_are_a_trial_too(shades: Any, toynet: str, tmp_path: Path) -> None:
    few = (shades[0][:36], shades[1][:36])
    model = _fit(few, [toynet], "core/prototypes")
    (record,) = model.run.trials
    assert (record.status, record.recipe.strategy) == ("done", "core/prototypes")
    model.save(tmp_path / "kept")
    again = load(tmp_path / "kept", [toynet])
    assert np.array_equal(again.predict_proba(shades[0]), model.predict_proba(shades[0]))
    assert (again.predict(shades[0][36:]) == shades[1][36:]).mean() > 0.6


def test_neighbours_are_named_in_the_folder_and_what_does_not_fit_is_refused(
    shades: Any, toynet: str, tmp_path: Path
) -> None:
    model = _fit(shades, [toynet], "core/knn", refit=True)
    place = model.save(tmp_path / "kept")
    assert folder.read_note(place).head.rows == model.run.profile.train + model.run.profile.validation

    def fewer(body: Any) -> None:
        body["head"]["rows"] = 5

    with pytest.raises(ModelError, match=r"the weights in .* do not fit"):
        load(resigned(place, fewer), [toynet])


def test_models_of_neighbours_and_of_lora_are_read_by_a_fresh_process(shades: Any, toynet: str, tmp_path: Path) -> None:
    (tmp_path / "tinyvit.py").write_text(VIT)
    plugins = [toynet, str(tmp_path / "tinyvit.py")]
    knn = _fit(shades, plugins, "core/knn")
    lora = _fit(shades, plugins, "core/lora", backbones="tinyvit/net", space={"epochs": 3})
    tuned = next(t for t in lora.run.trials if t.id == lora.run.winner)
    assert (tuned.recipe.strategy, tuned.status) == ("core/lora", "done")
    assert lora.run.survey[0].linear == pytest.approx(4096 / 4864)  # the rest are the patches
    plain = {n for n, _ in lora.module.named_parameters()}
    assert not any("parametrizations" in n for n in plain)
    np.save(tmp_path / "x.npy", shades[0][:30])
    script = (
        "import sys, numpy as np, torch, autotransfer\n"
        "torch.set_num_threads(1)\n"
        "model = autotransfer.load(sys.argv[1], plugins=sys.argv[4:])\n"
        "np.save(sys.argv[3], model.predict_proba(np.load(sys.argv[2])))\n"
    )
    for name, model in (("knn", knn), ("lora", lora)):
        arguments = [model.save(tmp_path / name), tmp_path / "x.npy", tmp_path / f"{name}.npy", *plugins]
        subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True, env=dict(os.environ))
        wanted = model.predict_proba(shades[0][:30])
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), wanted, atol=1e-5)


def test_depths_that_are_trained_and_adapted_are_saved_whole(stripes: Any, toynet: str, tmp_path: Path) -> None:
    (tmp_path / "deep.py").write_text(DEEP)
    plugins = [toynet, str(tmp_path / "deep.py")]
    model = _fit(stripes, plugins, "deep/tuned")
    record, *finalists = model.run.trials
    assert all(t.id.startswith("f") for t in finalists)
    assert record.status == "done"
    assert record.epochs == 3
    model.save(tmp_path / "kept")
    again = load(tmp_path / "kept", [toynet])  # the strategy is not needed
    images = stripes[0][:16]
    assert np.array_equal(again.predict_proba(images), model.predict_proba(images))
    names = again.module.state_dict()
    assert not torch.equal(names["backbone.0.1.running_mean"], torch.zeros(8))
    held = model.outputs(images).outputs
    torch.testing.assert_close(again.outputs(images).outputs, held)


def test_the_folder_names_what_the_head_sees(deep_folder: Path, toynet: str, stripes: Any) -> None:
    note = folder.read_note(deep_folder)
    assert note.format == folder.FORMAT
    assert note.head.width == 16
    assert note.head.depths is not None
    assert [d.width for d in note.head.depths] == [8, 16]
    network = load(deep_folder, [toynet]).module
    assert len(network.head.mean) == 8 + 16 + 16
    plain = network(torch.zeros(2, 3, 16, 16))
    assert plain.shape == (2, 3)


def test_stages_that_are_not_there_are_refused(deep_folder: Path, toynet: str, tmp_path: Path) -> None:
    def elsewhere(body: Any) -> None:
        body["head"]["depths"][0]["path"] = "9.conv"

    place = resigned(shutil.copytree(deep_folder, tmp_path / "kept"), elsewhere)
    with pytest.raises(ModelError, match=r"the head sees the stages 9\.conv, which toynet/small as the plugin"):
        load(place, [toynet])


def test_a_folder_of_the_first_format_is_read(toy_run: Path, toynet: str, tmp_path: Path, stripes: Any) -> None:
    def first(body: Any) -> None:
        body["format"] = 1
        del body["head"]["depths"]

    place = resigned(shutil.copytree(toy_run / "model", tmp_path / "kept"), first)
    ours, wanted = (load(p, [toynet]).predict_proba(stripes[0][:5]) for p in (place, toy_run / "model"))
    assert np.array_equal(ours, wanted)


def test_features_of_a_survey_are_joined_as_the_head_sees_them(tmp_path: Path) -> None:
    draws = torch.Generator().manual_seed(0)
    parts = {
        f"{split}/{depth}": torch.randn(rows, width, generator=draws).half()
        for split, rows in (("train", 4), ("validation", 3))
        for depth, width in enumerate((2, 0, 11, 3))
    }
    write_atomically(parts, tmp_path / "all.safetensors")
    train, validation = head_features(tmp_path / "all.safetensors", depths=True) or (None, None)
    assert train is not None
    assert validation is not None
    assert torch.equal(train, concatenated([parts[f"train/{d}"] for d in range(4)]))
    assert validation.shape == (3, 16)
    last, _ = head_features(tmp_path / "all.safetensors") or (None, None)
    assert last is not None
    assert torch.equal(last, parts["train/3"].float())
    write_atomically({n: t for n, t in parts.items() if n.startswith("train")}, tmp_path / "part.safetensors")
    assert head_features(tmp_path / "part.safetensors", depths=True) is None
