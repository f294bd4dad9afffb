"""The model: answers in order, honest scores, saved whole, loaded only when nothing was touched."""

import json
import logging
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.utils import parametrize

from autotransfer import model_folder as folder
from autotransfer import tasks
from autotransfer.codec import from_json, to_json
from autotransfer.errors import DataError, ModelError, PluginError, UnknownNameError
from autotransfer.model import TransferModel, load
from autotransfer.protocols import FittedState
from autotransfer.registry import Registry
from autotransfer.schema import Recipe
from autotransfer.train.heads import LinearHead
from autotransfer.train.network import TransferNetwork
from autotransfer.weights import sha256


@pytest.fixture(autouse=True)
def _own_plugins(monkeypatch):
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")


@pytest.fixture
def kept(tmp_path, toy_run):
    """A copy of a saved model's folder, to be damaged."""
    return shutil.copytree(toy_run / "model", tmp_path / "kept")


@pytest.fixture
def model(toy_run, toynet):
    return load(toy_run / "model", [toynet])


@pytest.fixture
def pictures(tmp_path, stripes):
    """A folder of class folders with twelve images, as files."""
    root = tmp_path / "pictures"
    for i in range(12):
        place = root / stripes[1][i]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(stripes[0][i]).save(place / f"{i:02d}.png")
    return root


def signed(place, **changes):
    """Write a note with other fields and a right checksum."""
    body = json.loads((place / "recipe.json").read_text())
    note = replace(from_json(folder.ModelNote, body), **changes).signed()
    (place / "recipe.json").write_text(json.dumps(to_json(note)))


def resigned(place, name):
    """Make a changed file's checksum right."""
    files = json.loads((place / "recipe.json").read_text())["files"]
    signed(place, files={**files, name: sha256(place / name)})


class TestAnswers:
    def test_order_is_kept_over_batches(self, model, stripes):
        images = stripes[0][:70]
        chances = model.predict_proba(images)
        assert chances.shape == (70, 3)
        assert chances.sum(1) == pytest.approx(1)
        turned = model.predict_proba(images[::-1])[::-1]
        assert np.allclose(chances, turned, atol=1e-6)
        assert len({tuple(row) for row in chances.round(9).tolist()}) > 60
        assert (model.predict(images) == np.array(model.classes)[chances.argmax(1)]).all()

    def test_a_batch_and_its_rows_one_by_one_agree(self, model, stripes):
        images = stripes[0][:5]
        alone = np.stack([model.predict_proba(image) for image in images])
        assert np.allclose(model.predict_proba(images), alone, atol=1e-6)

    def test_any_form_of_the_same_images_gives_the_same(self, model, pictures):
        paths = sorted(pictures.rglob("*.png"))
        wanted = model.predict_proba(paths)
        opened = [Image.open(p).convert("RGB") for p in paths]
        forms = [
            [str(p) for p in paths],
            opened,
            [np.asarray(o) for o in opened],
            np.stack([np.asarray(o) for o in opened]),
            pictures,
            str(pictures),
            [p.read_bytes() for p in paths],
        ]
        assert all(np.array_equal(model.predict_proba(form), wanted) for form in forms)

    def test_one_item_gives_one_answer(self, model, pictures):
        path = next(pictures.rglob("*.png"))
        assert model.predict(path) in model.classes
        assert model.predict(Image.open(path)) == model.predict([path])[0]
        assert model.predict_proba(str(path)).shape == (3,)

    def test_no_items_give_no_answers(self, model):
        assert model.predict([]).shape == (0,)
        assert model.predict_proba([]).shape == (0, 3)
        assert model.predict_rows([]) == []

    def test_a_bad_item_is_named(self, model, pictures):
        bad = pictures / "bad.jpg"
        bad.write_text("no image")
        with pytest.raises(DataError, match=r"1 rows cannot be read: .*bad\.jpg"):
            model.predict([*sorted(pictures.rglob("*.png")), bad])

    def test_a_bad_item_does_not_move_the_others(self, model, pictures):
        paths = sorted(pictures.rglob("*.png"))
        bad = pictures / "bad.jpg"
        bad.write_text("no image")
        rows = model.predict_rows([*paths[:3], bad, *paths[3:]])
        assert [("error" in r) for r in rows] == [i == 3 for i in range(13)]
        assert [r["prediction"] for r in rows if "error" not in r] == model.predict(paths).tolist()
        assert rows[3]["row"].endswith("bad.jpg")
        assert all(0 < r["probability"] <= 1 for r in rows if "error" not in r)

    def test_what_is_no_image_is_refused(self, model):
        with pytest.raises(DataError):
            model.predict({"a": 1})
        with pytest.raises(DataError, match="does not exist"):
            model.predict("nowhere")

    def test_the_module_takes_prepared_tensors(self, model, stripes):
        from autotransfer.data.rows import stack

        inputs = stack(list(stripes[0][:4]), model.spec.input)
        with torch.no_grad():
            outputs = model.module(inputs)
        assert not any(m.training for m in model.module.modules())
        assert np.allclose(torch.softmax(outputs.double(), 1).numpy(), model.predict_proba(stripes[0][:4]), atol=1e-6)

    def test_predicting_leaves_random_numbers_and_gradients_alone(self, model, stripes):
        before = torch.get_rng_state()
        assert not model.outputs(stripes[0][:3]).outputs.requires_grad
        assert torch.equal(before, torch.get_rng_state())


class TestScores:
    def test_score_has_all_metrics_and_agrees_with_predict(self, model, stripes):
        scores = model.score(stripes)
        assert set(scores) == set(tasks.METRICS["multiclass"])
        assert scores["accuracy"] == pytest.approx((model.predict(stripes[0]) == stripes[1]).mean())

    def test_folders_are_scored_too(self, model, pictures):
        paths = sorted(pictures.rglob("*.png"))
        right = [p.parent.name == c for p, c in zip(paths, model.predict(paths), strict=True)]
        assert model.score(pictures)["accuracy"] == pytest.approx(np.mean(right))

    def test_of_a_source_with_test_rows_those_alone_count(self, model, pictures, tmp_path):
        both = tmp_path / "both"
        shutil.copytree(pictures, both / "train")
        for place in ("row", "column", "none"):
            one = sorted((pictures / place).glob("*.png"))[0]
            (both / "test" / place).mkdir(parents=True)
            shutil.copy(one, both / "test" / place)
        assert model.evaluate(both)[0].rows == 3

    def test_a_table_is_scored_by_the_column_of_training_or_the_one_named(self, model, pictures):
        paths = sorted(pictures.rglob("*.png"))
        frame = pd.DataFrame({"file": [str(p) for p in paths], "kind": [p.parent.name for p in paths]})
        assert model.evaluate(frame, target="kind")[0].rows == 12
        assert model.score(frame.rename(columns={"kind": "y"})) == model.score(frame, target="kind")
        with pytest.raises(DataError, match="no column 'y'"):
            model.score(frame)

    def test_the_interval_holds_the_value(self, model, stripes):
        found, left_out = model.evaluate(stripes)
        assert found.low <= found.value <= found.high
        assert (found.rows, left_out) == (150, {})

    def test_rows_without_label_are_refused_or_named(self, model, stripes):
        labels = [*stripes[1][:9].tolist(), None]
        with pytest.raises(DataError, match="1 of 10 rows have no label"):
            model.score((stripes[0][:10], labels))
        found, left_out = model.evaluate((stripes[0][:10], labels), on_error="report")
        assert (found.rows, left_out) == (9, {"row 9": "it has no label"})

    def test_rows_that_cannot_be_read_are_refused_or_named(self, model, pictures):
        (pictures / "row" / "bad.jpg").write_text("no image")
        with pytest.raises(DataError, match=r"bad\.jpg"):
            model.score(pictures)
        found, left_out = model.evaluate(pictures, on_error="report")
        assert found.rows == 12
        assert list(left_out) == ["row/bad.jpg"]

    def test_unknown_classes_and_nothing_at_all_are_refused(self, model, stripes):
        with pytest.raises(DataError, match="no class of this model: 'zebra'"):
            model.score((stripes[0][:2], ["row", "zebra"]))
        with pytest.raises(DataError, match="no row that has a label"):
            model.evaluate((stripes[0][:2], [None, None]), on_error="report")


class TestAccount:
    def test_leaderboard_and_report(self, model):
        board = model.leaderboard()
        assert isinstance(board, pd.DataFrame)
        assert board["winner"].sum() == 1
        assert set(board["backbone"]) == {"toynet/small"}
        scores = board["score"].dropna()
        assert scores.is_monotonic_decreasing
        assert f"saved    {model.path}" in model.report()

    def test_recipe_and_run_are_those_of_the_winner(self, model):
        won = next(t for t in model.run.trials if t.id == model.run.winner)
        assert model.recipe == won.recipe
        assert model.run.test.rows == model.run.profile.test
        assert model.modality == "image"
        assert "toynet/small" in repr(model)


class TestSaving:
    def test_a_saved_model_gives_the_same_probabilities(self, model, stripes, tmp_path, toynet):
        wanted = model.predict_proba(stripes[0])
        place = model.save(tmp_path / "deep" / "pets")
        assert model.path == place
        again = load(place, [toynet])
        assert np.array_equal(again.predict_proba(stripes[0]), wanted)
        assert (again.run, again.recipe, again.spec) == (model.run, model.recipe, model.spec)
        assert [p.name for p in place.parent.iterdir()] == ["pets"]

    def test_the_files_are_those_of_the_format(self, kept):
        assert {p.name for p in kept.iterdir()} == {
            "weights.safetensors",
            "recipe.json",
            "labels.json",
            "preprocessing.json",
            "history.json",
            "README.md",
        }

    def test_a_model_is_replaced_and_anything_else_is_not(self, model, kept, tmp_path):
        (kept / "stray.txt").write_text("old")
        model.save(kept)
        assert not (kept / "stray.txt").exists()
        (tmp_path / "empty").mkdir()
        model.save(tmp_path / "empty")
        photos = tmp_path / "photos"
        photos.mkdir()
        (photos / "cat.jpg").write_text("dear")
        (tmp_path / "file").write_text("dear")
        for place in (photos, tmp_path / "file"):
            with pytest.raises(ModelError, match="no model folder, so it is not overwritten"):
                model.save(place)
        assert (photos / "cat.jpg").read_text() == (tmp_path / "file").read_text() == "dear"

    def test_a_save_that_fails_leaves_the_old_model(self, model, kept, monkeypatch, toynet):
        def full(*_args):
            raise OSError("no space left on device")

        before = {p.name: p.read_bytes() for p in kept.iterdir()}
        monkeypatch.setattr(folder, "save_file", full)
        with pytest.raises(OSError, match="no space"):
            model.save(kept)
        assert {p.name: p.read_bytes() for p in kept.iterdir()} == before
        assert [p.name for p in kept.parent.iterdir()] == ["kept"]
        load(kept, [toynet])

    def test_a_run_folder_is_loaded_as_its_model(self, toy_run, toynet):
        assert load(toy_run, [toynet]).path == toy_run / "model"

    def test_another_process_without_ray_and_cache_gives_the_same(self, model, stripes, tmp_path, toynet, toy_run):
        np.save(tmp_path / "x.npy", stripes[0][:40])
        script = (
            "import sys, numpy as np, torch, autotransfer\n"
            "torch.set_num_threads(1)\n"
            "model = autotransfer.load(sys.argv[1], plugins=[sys.argv[2]])\n"
            "np.save(sys.argv[4], model.predict_proba(np.load(sys.argv[3])))\n"
            "assert not [m for m in sys.modules if m.split('.')[0] == 'ray']\n"
        )
        arguments = [toy_run / "model", toynet, tmp_path / "x.npy", tmp_path / "p.npy"]
        environment = {"PATH": "", "AUTOTRANSFER_HOME": str(tmp_path / "none"), "AUTOTRANSFER_PLUGINS": ""}
        subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True, env=environment, cwd=tmp_path)
        assert np.array_equal(np.load(tmp_path / "p.npy"), model.predict_proba(stripes[0][:40]))
        assert not (tmp_path / "none").exists()

    def test_loading_leaves_random_numbers_alone(self, toy_run, toynet):
        before = torch.get_rng_state()
        load(toy_run, [toynet])
        assert torch.equal(before, torch.get_rng_state())

    def test_a_model_can_be_sent_to_another_process(self, model, stripes):
        again = pickle.loads(pickle.dumps(model))
        assert np.array_equal(again.predict_proba(stripes[0][:5]), model.predict_proba(stripes[0][:5]))

    @pytest.mark.parametrize("name", ["recipe.json", "history.json", "preprocessing.json"])
    def test_fields_that_nobody_knows_are_refused_with_the_file(self, name, kept, toynet):
        body = json.loads((kept / name).read_text()) | {"factory": "os:system"}
        (kept / name).write_text(json.dumps(body))
        if name != "recipe.json":
            resigned(kept, name)
        with pytest.raises(ModelError, match=rf"{name} was altered, or another version.*'factory'"):
            load(kept, plugins=[toynet])

    def test_an_edited_card_is_nobodys_business(self, kept, toynet):
        (kept / "README.md").write_text("# Ours")
        load(kept, [toynet])


class TestRefusals:
    """Each damage has its own text, and nothing of the folder is run."""

    def test_no_folder(self, tmp_path):
        with pytest.raises(ModelError, match="does not exist"):
            load(tmp_path / "none")
        with pytest.raises(ModelError, match=r"holds no recipe\.json"):
            load(tmp_path)

    @pytest.mark.parametrize("name", ["weights.safetensors", "labels.json", "preprocessing.json", "history.json"])
    def test_a_missing_file(self, kept, toynet, name):
        (kept / name).unlink()
        with pytest.raises(ModelError, match=f"lacks {name}"):
            load(kept, [toynet])

    @pytest.mark.parametrize("name", ["weights.safetensors", "labels.json", "preprocessing.json", "history.json"])
    def test_an_altered_file(self, kept, toynet, name):
        content = bytearray((kept / name).read_bytes())
        content[-2] ^= 1
        (kept / name).write_bytes(content)
        with pytest.raises(ModelError, match=f"{name} in .* have another checksum"):
            load(kept, [toynet])

    def test_truncated_weights(self, kept, toynet):
        file = kept / "weights.safetensors"
        file.write_bytes(file.read_bytes()[:200])
        with pytest.raises(ModelError, match="another checksum"):
            load(kept, [toynet])
        resigned(kept, "weights.safetensors")
        with pytest.raises(ModelError, match=r"weights\.safetensors cannot be read"):
            load(kept, [toynet])

    @pytest.mark.parametrize("version", [folder.FORMAT + 1, 0, "1", True, None])
    def test_an_unknown_format(self, kept, toynet, version):
        body = json.loads((kept / "recipe.json").read_text()) | {"format": version}
        (kept / "recipe.json").write_text(json.dumps(body))
        with pytest.raises(ModelError, match="reads format 1 and 2 and 3 and"):
            load(kept, [toynet])

    def test_another_callable(self, kept, toynet, tmp_path, monkeypatch):
        (tmp_path / "evil.py").write_text(
            "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\ngo = print\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        body = json.loads((kept / "recipe.json").read_text())
        for altered in (
            body | {"factory": "evil:go"},
            body | {"backbone": "evil:go"},
            body | {"plugin": body["plugin"] | {"module": "evil"}},
            body | {"recipe": body["recipe"] | {"factory": "evil:go"}},
            body | {"backbone": "toynet/wide"},
        ):
            (kept / "recipe.json").write_text(json.dumps(altered))
            with pytest.raises(ModelError, match=r"unknown field|altered by hand"):
                load(kept, [toynet])
        signed_body = {**body["recipe"], "backbone": "evil/go"}
        (kept / "recipe.json").write_text(json.dumps(body))
        signed(kept, backbone="evil/go", recipe=from_json(Recipe, signed_body))
        with pytest.raises(UnknownNameError, match=r"needs the backbone 'evil/go'"):
            load(kept, [toynet])
        assert not (tmp_path / "ran").exists()
        assert "evil" not in sys.modules

    def test_files_that_no_model_has(self, kept, toynet):
        (kept / "more.json").write_text("{}")
        resigned(kept, "more.json")
        with pytest.raises(ModelError, match="files that no model has"):
            load(kept, [toynet])
        signed(kept, files={})
        with pytest.raises(ModelError, match="lacks"):
            load(kept, [toynet])

    @pytest.mark.parametrize("text", ["", "[1]", "{", '"text"'])
    def test_a_note_that_is_none(self, kept, toynet, text):
        (kept / "recipe.json").write_text(text)
        with pytest.raises(ModelError):
            load(kept, [toynet])

    @pytest.mark.parametrize(
        ("name", "body"),
        [
            ("labels.json", {"task": "poetry"}),
            ("labels.json", {"task": "multiclass"}),
            ("labels.json", ["a"]),
            ("labels.json", {"task": "multiclass", "labels": ["a", "b"], "metric": "accuracy"}),
            ("preprocessing.json", {"kind": "smell"}),
            ("preprocessing.json", {"kind": "image", "size": "large"}),
            ("history.json", {"profile": 3}),
        ],
    )
    def test_bodies_that_are_none(self, kept, toynet, name, body):
        (kept / name).write_text(json.dumps(body))
        resigned(kept, name)
        with pytest.raises(ModelError):
            load(kept, [toynet])

    def test_two_backbones(self, kept, toynet):
        signed(kept, backbone="toynet/wide")
        with pytest.raises(ModelError, match="names two backbones"):
            load(kept, [toynet])

    def test_a_backbone_of_another_width(self, kept, toynet):
        note = folder.read_note(kept)
        signed(kept, head=replace(note.head, width=17))
        with pytest.raises(ModelError, match="of width 16 here; the model was saved with vector of width 17"):
            load(kept, [toynet])

    def test_weights_of_another_network(self, kept, toynet):
        signed(kept, backbone="toynet/wide", recipe=replace(folder.read_note(kept).recipe, backbone="toynet/wide"))
        with pytest.raises(ModelError, match="do not fit toynet/wide"):
            load(kept, [toynet])

    def test_a_missing_plugin(self, kept):
        with pytest.raises(UnknownNameError, match=r"the plugin 'toynet' .* --plugin FILE"):
            load(kept)

    def test_a_broken_plugin(self, kept, tmp_path):
        (tmp_path / "toynet.py").write_text("raise RuntimeError('broken on purpose')\n")
        sys.modules.pop("toynet", None)
        with pytest.raises((PluginError, UnknownNameError), match="broken on purpose"):
            load(kept, [tmp_path / "toynet.py"])

    def test_another_version_of_the_plugin_is_said(self, kept, toynet, caplog):
        signed(kept, plugin=replace(folder.read_note(kept).plugin, version="9", distribution="toys"))
        with caplog.at_level(logging.WARNING):
            load(kept, [toynet])
        assert "was saved with the plugin 'toynet' (toys 9)" in caplog.text


class Doubled(nn.Module):
    """An adapter: the weight times two."""

    def forward(self, weight):
        return weight * 2


def test_adapters_are_merged(model, stripes, tmp_path, toynet):
    plain = model.predict_proba(stripes[0][:4])
    names = set(model.module.state_dict())
    convolution = model.module.backbone.get_submodule("1.0")
    convolution.weight.data /= 2
    parametrize.register_parametrization(convolution, "weight", Doubled())
    assert set(model.module.state_dict()) != names
    merged = rebuilt(model, model.module)
    assert set(merged.module.state_dict()) == names
    assert np.allclose(merged.predict_proba(stripes[0][:4]), plain, atol=1e-6)
    merged.save(tmp_path / "merged")
    again = load(tmp_path / "merged", [toynet])
    assert np.array_equal(again.predict_proba(stripes[0][:4]), merged.predict_proba(stripes[0][:4]))


FITTED = """
import torch
from torch import nn
from autotransfer.plugin import BackboneSpec, FittedState, ImageInput, hookimpl


class Contrast(nn.Module):
    def __init__(self, weights=None):
        super().__init__()
        self.power = 1
        self.register_buffer("centre", torch.zeros(0))

    def fit(self, rows, targets):
        return FittedState(tensors={"middle": torch.cat(list(rows)).mean((0, 2, 3))}, values={"power": 2})

    def restore(self, state):
        self.centre, self.power = state.tensors["middle"], state.values["power"]

    def forward(self, x):
        return (x.mean((2, 3)) - self.centre) ** self.power


@hookimpl
def autotransfer_backbones():
    tiny = ImageInput(size=16)
    return [BackboneSpec(id="contrast/fitted", factory=Contrast, fitted=True, transfer=False, input=tiny)]
"""


def rebuilt(model, network, **changes):
    """Return the model around another network."""
    given = {
        "task": model.task,
        "spec": model.spec,
        "recipe": model.recipe,
        "run": model.run,
        "registry": model._registry,
    }
    return TransferModel(network=network, **(given | changes))


def test_a_fitted_backbone_is_saved_with_its_state(model, stripes, tmp_path):
    file = tmp_path / "contrast.py"
    file.write_text(FITTED)
    registry = Registry.discover([file])
    spec = registry.backbone("contrast/fitted")
    module = registry.factory(spec)(None)
    images = torch.rand(4, 3, 16, 16)
    state = module.fit([images], None)
    module.restore(state)
    head = LinearHead("vector", 3, 3)
    nn.init.normal_(head.linear.weight)
    recipe = Recipe(backbone=spec.id, strategy="base/logistic")
    parts = {"spec": spec, "recipe": recipe, "registry": registry}
    with pytest.raises(ModelError, match="needs the state"):
        rebuilt(model, TransferNetwork(module, head), **parts)
    made = rebuilt(model, TransferNetwork(module, head), fitted=state, **parts)
    made.save(tmp_path / "model")
    again = load(tmp_path / "model", [file])
    assert again.module.backbone.power == 2
    assert np.array_equal(again.predict_proba(stripes[0][:9]), made.predict_proba(stripes[0][:9]))
    again.save(tmp_path / "copy")
    assert np.array_equal(
        load(tmp_path / "copy", [file]).predict_proba(stripes[0][:9]), made.predict_proba(stripes[0][:9])
    )
    (tmp_path / "model" / "fitted.json").unlink()
    files = folder.read_note(tmp_path / "copy").files
    signed(tmp_path / "model", files={n: s for n, s in files.items() if n != "fitted.json"})
    with pytest.raises(ModelError, match=r"holds no fitted\.json"):
        load(tmp_path / "model", [file])


@pytest.mark.parametrize(
    ("kind", "values", "outputs"),
    [
        ("regression", [1.0, 2.5, 3.0], 1),
        ("multilabel", [["a"], ["a", "b"], []], 2),
        ("binary", [True, False, True], 2),
    ],
)
def test_every_task_answers_in_its_own_values(model, stripes, tmp_path, toynet, kind, values, outputs):
    task = tasks.make_task(kind, values)
    head = LinearHead("vector", 16, outputs)
    nn.init.normal_(head.linear.weight)
    made = rebuilt(model, TransferNetwork(model.module.backbone, head), task=task)
    made.save(tmp_path / "model")
    again = load(tmp_path / "model", [toynet])
    found = again.predict(stripes[0][:3])
    assert [type(v) for v in found.tolist()] == [{"regression": float, "multilabel": list, "binary": bool}[kind]] * 3
    assert found.tolist() == made.predict(stripes[0][:3]).tolist()
    rows = again.predict_rows(stripes[0][:3])
    assert [r["prediction"] for r in rows] == found.tolist()
    json.dumps(rows)
    if kind == "regression":
        with pytest.raises(DataError, match="no probabilities"):
            again.predict_proba(stripes[0][:3])
        assert again.classes == ()
    if kind == "multilabel":
        assert set(rows[0]["probabilities"]) == {"a", "b"}
    assert set(again.score((stripes[0][:3], values))) <= set(tasks.METRICS[kind])


def test_a_fitted_state_is_what_the_protocol_says():
    assert FittedState().tensors == {}
