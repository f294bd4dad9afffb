"""Networks as ONNX: the runtime's answers are the model's, and what cannot be exported says why and leaves nothing."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autotransfer import export
from autotransfer.cli import main
from autotransfer.data.modalities import modality
from autotransfer.data.rows import stack
from autotransfer.errors import ConfigError, ModelError
from autotransfer.export import Subject, note_of, write
from autotransfer.model import load
from autotransfer.protocols import Task
from autotransfer.schema import Recipe
from autotransfer.spec import AudioInput, BackboneSpec, ImageInput, Input, TextInput
from autotransfer.strategy import NeighbourState
from autotransfer.tasks import make_task
from autotransfer.tasks.several import Several
from autotransfer.train.depths import DepthNetwork
from autotransfer.train.neighbours import with_state
from autotransfer.train.network import TransferNetwork, call

needs = pytest.mark.skipif(
    any(importlib.util.find_spec(n) is None for n in export.NEEDED), reason="needs autotransfer[export]"
)
CLASSES = make_task("multiclass", ["a", "b", "c"])
LABELS = make_task("multilabel", [["a"], ["b"], ["a", "b"]])
NUMBERS = make_task("regression", [900.0, 1000.0, 1300.0])


class Words:
    """A tokenizer: the id of a word is its length; special tokens stand on both sides."""

    key, pad, max_length = "words", 0, 12

    def __call__(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        rows = [[1, *(min(19, 2 + len(w)) for w in t.split()), 1] for t in texts]
        return [r[: self.max_length] for r in rows], [len(r) for r in rows]


class Reader(nn.Module):
    """Embeds ids, lets each token see the others under the mask, and gives all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.mixer = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        return x + self.mixer(x, x, x, key_padding_mask=attention_mask == 0, need_weights=False)[0]


class Listener(nn.Module):
    """The logarithm of the power in frames, with a floor so low that only exact arithmetic keeps it."""

    def forward(self, waveform: Tensor, attention_mask: Tensor) -> Tensor:
        frames = (waveform * attention_mask).unflatten(1, (-1, 40))
        return (frames.square().mean(2) + 1e-9).log().unflatten(1, (-1, 5)).mean(1)


class Image(nn.Module):
    """Two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def subject(
    backbone: nn.Module, given: Input, task: Task, output: str, tools: Any = None, depths: Any = None
) -> Subject:
    """Return a model with fixed random weights."""
    spec = BackboneSpec(id="tiny/net", factory="tiny:net", modality=given.kind, input=given, output=output)
    torch.manual_seed(0)
    probe = stack(modality(given.kind).samples(given, 2), given, tools=tools)
    with torch.no_grad():
        width = call(backbone.eval(), probe).shape[2 if output == "tokens" else 1]
    head: Any = task.head(output, width + sum((depths or {}).values()))
    nn.init.normal_(head.linear.weight)
    network = TransferNetwork(backbone, head) if depths is None else DepthNetwork(backbone, head, depths)
    return Subject(network, task, spec, Recipe(backbone=spec.id, strategy="core/probe"), tools, None)


def told_of(path: Path) -> Any:
    return json.loads(note_of(path).read_text(encoding="utf-8"))


def run(path: Path, inputs: Any) -> list[Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {n: v.contiguous().numpy() for n, v in inputs.items()})


@needs
def test_an_image_network_answers_for_any_number_of_images(tmp_path: Path) -> None:
    own = subject(Image(), ImageInput(size=16, crop=1.0), CLASSES, "map")
    told = told_of(write(own, tmp_path / "net.onnx"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "net.onnx.json"]
    assert told["inputs"] == [{"name": "inputs", "type": "tensor(float)", "shape": ["batch", 3, 16, 16]}]
    assert [o["name"] for o in told["outputs"]] == ["outputs", "probabilities"]
    assert told["classes"] == ["a", "b", "c"]
    assert told["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert told["checked"]["largest_difference"] < 1e-5
    for count in (1, 7):
        x = torch.randn(count, 3, 16, 16)
        outputs, chances = run(tmp_path / "net.onnx", {"inputs": x})
        with torch.no_grad():
            truth = own.network(x)
        np.testing.assert_allclose(outputs, truth.numpy(), atol=1e-4)
        np.testing.assert_allclose(chances, CLASSES.probabilities(truth), atol=1e-4)


@needs
def test_a_text_network_takes_ids_and_mask_of_any_length(tmp_path: Path) -> None:
    own = subject(Reader(), TextInput(tokenizer="tiny:words"), LABELS, "tokens", Words())
    told = told_of(write(own, tmp_path / "net.onnx"))
    assert [(i["name"], i["shape"]) for i in told["inputs"]] == [
        ("input_ids", ["batch", "length"]),
        ("attention_mask", ["batch", "length"]),
    ]
    assert "with the id 0" in " ".join(told["preprocessing"]["steps"])
    for texts in (["one"], ["a few words more", "two words"], [" ".join(["long"] * 30)] * 3):
        inputs: Any = stack(texts, own.spec.input, tools=own.tools)
        with torch.no_grad():
            truth = own.network(inputs)
        outputs, chances = run(tmp_path / "net.onnx", inputs)
        np.testing.assert_allclose(outputs, truth.numpy(), atol=1e-4)
        np.testing.assert_allclose(chances, LABELS.probabilities(truth), atol=1e-4)


@needs
def test_an_audio_network_hears_silence_as_before_and_numbers_come_in_their_unit(tmp_path: Path) -> None:
    own = subject(Listener(), AudioInput(sample_rate=1000, window=1.0), NUMBERS, "vector")
    told = told_of(write(own, tmp_path / "net.onnx"))
    assert [(i["name"], i["shape"]) for i in told["inputs"]] == [
        ("waveform", ["batch", 1000]),
        ("attention_mask", ["batch", 1000]),
    ]
    assert [o["name"] for o in told["outputs"]] == ["outputs", "values"]
    clips = [(np.zeros(400, np.float32), 1000), (np.sin(np.arange(700) / 5).astype(np.float32), 1000)]
    inputs: Any = stack(clips, own.spec.input)
    with torch.no_grad():
        truth = own.network(inputs)
    outputs, values = run(tmp_path / "net.onnx", inputs)
    np.testing.assert_allclose(outputs, truth.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(values, NUMBERS.decode(truth), rtol=1e-4)


@needs
def test_each_of_several_targets_answers_under_its_name(tmp_path: Path) -> None:
    task = Several({"kind": CLASSES, "age": NUMBERS})
    own = subject(Image(), ImageInput(size=16, crop=1.0), task, "map")
    told = told_of(write(own, tmp_path / "net.onnx"))
    assert [o["name"] for o in told["outputs"]] == ["outputs", "kind.probabilities", "age.values"]
    assert told["classes"] == {"kind": ["a", "b", "c"], "age": []}
    x = torch.randn(4, 3, 16, 16)
    outputs, chances, ages = run(tmp_path / "net.onnx", {"inputs": x})
    with torch.no_grad():
        truth = own.network(x)
    np.testing.assert_allclose(outputs, truth.numpy(), atol=1e-4)
    np.testing.assert_allclose(chances, task.probabilities(truth)["kind"], atol=1e-4)
    np.testing.assert_allclose(ages, task.decode(truth)["age"], rtol=1e-4)


@needs
def test_a_head_on_all_depths_is_exported_with_its_depths(tmp_path: Path) -> None:
    own = subject(Image(), ImageInput(size=16, crop=1.0), CLASSES, "map", depths={"first": 6})
    write(own, tmp_path / "net.onnx")
    x = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        np.testing.assert_allclose(run(tmp_path / "net.onnx", {"inputs": x})[0], own.network(x).numpy(), atol=1e-4)


@needs
@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_a_head_that_remembers_rows_is_exported_with_them(link: str, tmp_path: Path) -> None:
    own = subject(Image(), ImageInput(size=16, crop=1.0), CLASSES, "map")
    keys, values = torch.randn(30, 8), torch.nn.functional.one_hot(torch.arange(30) % 3).float()
    state = NeighbourState(
        keys=keys, values=values, mean=keys.mean(0), scale=1 / keys.std(0), neighbours=4, temperature=0.1, link=link
    )
    own.network.head = with_state(own.network.head, state)
    write(own, tmp_path / "net.onnx")
    x = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        np.testing.assert_allclose(run(tmp_path / "net.onnx", {"inputs": x})[0], own.network(x).numpy(), atol=1e-4)


class Branching(nn.Module):
    """Its way depends on what the pixels hold."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if float(x.sum()) > 0 else x.amax((2, 3))


class Restless(nn.Module):
    """Answers otherwise each time."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.mean((2, 3)) + self.calls


@needs
@pytest.mark.parametrize(
    ("backbone", "wanted"),
    [(Branching(), "tiny/net cannot be exported to ONNX: .*nothing was written"), (Restless(), "gives other answers")],
)
def test_what_cannot_be_exported_says_why_and_leaves_what_was_there(
    backbone: nn.Module, wanted: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.onnx").write_text("older")
    with pytest.raises(ModelError, match=wanted):
        write(subject(backbone, ImageInput(size=8, crop=1.0), CLASSES, "vector"), tmp_path / "net.onnx")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("net.onnx", "older")]
    assert tuple(capfd.readouterr()) == ("", "")


class Raw(nn.Module):
    """Takes texts as they are."""

    def forward(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([[float(len(t)), 1.0] for t in texts])


@needs
def test_a_network_that_takes_texts_as_they_are_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="takes texts as they are, not tensors"):
        write(subject(Raw(), TextInput(), CLASSES, "vector"), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_wrong_wishes_are_refused_before_anything_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = subject(Image(), ImageInput(size=16, crop=1.0), CLASSES, "map")
    with pytest.raises(ConfigError, match="no format is called 'onx'; did you mean onnx"):
        write(own, tmp_path / "net.onnx", "onx")
    with pytest.raises(ConfigError, match="wanted a name that ends with .onnx"):
        write(own, tmp_path / "net.pt")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "onnxscript" else found(n))
    with pytest.raises(ConfigError, match=r"needs onnxscript, .*pip install 'autotransfer\[export\]'"):
        write(own, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_fitted_baseline_is_refused_on_the_command_line_with_2(
    tmp_path: Path, stripes: Any, toynet: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from autotransfer import engine
    from autotransfer.config import Settings

    # Each pixel tells a little, and what is pooled of a few convolutions nothing.
    rng, sides = np.random.default_rng(0), np.arange(60) % 2
    signs = rng.choice([-10, 10], (16, 16, 3)) * (2 * sides - 1)[:, None, None, None]
    images = (128 + signs + rng.normal(0, 30, (60, 16, 16, 3))).clip(0, 255).astype(np.uint8)
    labels = np.array(["even", "odd"])[sides]
    given = {"plugins": [toynet], "backbones": "toynet/small", "executor": "serial", "strategies": "core/probe"}
    out, space = tmp_path / "run", {"epochs": 1, "lr": 1e-6, "head_start": False}
    model = engine.fit(Settings(data=(images, labels), trials=1, space=space, out=out, **given))
    assert model.spec.fitted, "the baseline was to win"
    capsys.readouterr()
    with pytest.raises(SystemExit) as leave:
        main(["export", str(out)])
    assert leave.value.code == 2
    assert "is fitted to the training rows and is no network" in capsys.readouterr().err
    assert not list(out.glob("*.onnx*"))


@needs
def test_the_command_line_exports_beside_the_model(
    toy_run: Path, toynet: str, stripes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stripes.onnx"
    with pytest.raises(SystemExit) as leave:
        main(["export", str(toy_run), "--out", str(path), "--plugin", toynet, "--json"])
    assert leave.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["path"], told["note"]) == (str(path), f"{path}.json")
    model = load(toy_run, [toynet])
    inputs: Any = stack(list(stripes[0][:9]), model.spec.input)
    np.testing.assert_allclose(run(path, {"inputs": inputs})[1], model.predict_proba(stripes[0][:9]), atol=1e-4)
