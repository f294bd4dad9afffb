"""The input size as a value of the recipe: searched where it is asked for, kept by whatever comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotransfer import engine
from autotransfer.config import Settings
from autotransfer.errors import ConfigError, NoTrialSucceededError
from autotransfer.model import TransferModel, load
from autotransfer.pool import at_sizes
from autotransfer.recipes import input_size, spec_id
from autotransfer.schema import Recipe
from autotransfer.space import Choice
from autotransfer.spec import BackboneSpec, ImageInput, TextInput, card_of, has_size, with_size

SIZES = str(Path(__file__).parent / "toys" / "sizes.py")


@pytest.fixture(autouse=True, scope="module")
def _no_baselines() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")
        yield


def _fit(data: Any, sizes: Any, backbones: list[str], **more: Any) -> TransferModel:
    given = {"executor": "serial", "trials": 5, "plugins": [SIZES], **more}
    return engine.fit(Settings(data=data, backbones=backbones, space={"epochs": 2, "input_size": sizes}, **given))


@pytest.fixture(scope="module")
def fitted(stripes: Any, tmp_path_factory: pytest.TempPathFactory) -> TransferModel:
    return _fit(stripes, [12, 24], ["sizes/any"], out=tmp_path_factory.mktemp("sized") / "run")


def test_each_size_is_surveyed_and_tried_on_its_own(fitted: TransferModel) -> None:
    survey = {r.backbone: r for r in fitted.run.survey if r.backbone.startswith("sizes/")}
    assert sorted(survey) == ["sizes/any@12px", "sizes/any@24px"]
    assert {r.status for r in survey.values()} == {"done"}
    assert survey["sizes/any@24px"].macs == pytest.approx(4 * survey["sizes/any@12px"].macs, rel=0.05)
    tried = [t.recipe for t in fitted.run.trials if t.recipe.backbone == "sizes/any"]
    assert {r.values["input_size"] for r in tried} == {12, 24}
    assert all(spec_id(r) in survey for r in tried)
    assert not [t for t in fitted.run.trials if t.status == "failed"]
    shown = set(fitted.leaderboard()["backbone"])
    assert {"sizes/any@12px", "sizes/any@24px"} <= shown


def test_a_saved_model_keeps_its_size(fitted: TransferModel, stripes: Any) -> None:
    assert fitted.path is not None
    again, size = load(fitted.path, [SIZES]), fitted.recipe.values["input_size"]
    for model in (fitted, again):
        assert isinstance(model.spec.input, ImageInput)
        assert (model.spec.id, model.spec.input.size, model.recipe.values["input_size"]) == ("sizes/any", size, size)
        assert f"input_size | {size}" in (fitted.path / "README.md").read_text()
    assert again.module.backbone.positions.shape[-1] == size // 4
    assert np.array_equal(again.predict_proba(stripes[0][:20]), fitted.predict_proba(stripes[0][:20]))
    assert f"input_size {size}" in again.report()


def test_the_same_recipe_trains_the_same_model(stripes: Any) -> None:
    one, two = (_fit(stripes, 12, ["sizes/any"], trials=2) for _ in range(2))
    assert one.recipe == two.recipe
    assert np.array_equal(one.predict_proba(stripes[0][:9]), two.predict_proba(stripes[0][:9]))


def test_the_same_answer_with_ray(stripes: Any, local_ray: None, tmp_path: Path) -> None:
    here = _fit(stripes, [12, 16], ["sizes/any"], trials=4, out=tmp_path / "a")
    there = _fit(stripes, [12, 16], ["sizes/any"], trials=4, out=tmp_path / "b", executor="ray", max_workers=2)
    found = [[(t.id, t.recipe.key, t.objective) for t in m.run.trials] for m in (here, there)]
    assert found[0] == found[1]


def test_a_network_that_takes_one_size_alone_is_refused_with_the_reason(stripes: Any, toynet: str) -> None:
    model = _fit(stripes, [16, 20], ["sizes/fixed", "toynet/small"], plugins=[SIZES, toynet])
    found = {r.backbone: r for r in model.run.survey}
    assert found["sizes/fixed@16px"].status == found["toynet/small@20px"].status == "done"
    assert found["sizes/fixed@20px"].status == "failed"
    assert "size of tensor" in found["sizes/fixed@20px"].reason
    assert "sizes/fixed@20px: failed" in model.report()
    with pytest.raises(NoTrialSucceededError, match=r"sizes/fixed@20px: .*size of tensor"):
        _fit(stripes, 20, ["sizes/fixed"], strategies=["core/full"])


@pytest.mark.parametrize("wrong", [{"int": [8, 32]}, ["small"], [0], [True], 1.5])
def test_sizes_are_whole_numbers_of_pixels(stripes: Any, wrong: Any) -> None:
    with pytest.raises(ConfigError, match="input_size is .*wanted pixels, such as 96"):
        _fit(stripes, wrong, ["sizes/any"])


def test_without_a_wish_the_card_decides() -> None:
    spec = BackboneSpec(id="m/a", factory="m:f", input=ImageInput(size=32), macs=100, size_option="s")
    recipe = Recipe(backbone="m/a", strategy="core/full")
    assert (spec_id(recipe), input_size(recipe), with_size(spec, None)) == ("m/a", None, spec)
    assert card_of(spec) == ("m/a", None)
    larger = with_size(spec, 64)
    assert (larger.input, larger.options, larger.macs) == (ImageInput(size=64), {"s": 64}, 400)


def test_only_what_has_a_size_can_have_another() -> None:
    text = BackboneSpec(id="m/t", factory="m:f", modality="text", input=TextInput())
    assert has_size(BackboneSpec(id="m/a", factory="m:f"))
    assert not has_size(text)
    assert not has_size(BackboneSpec(id="m/b", factory="m:f", fitted=True))
    assert card_of(text) == ("m/t", None)


def test_baselines_stay_as_they_are_and_no_size_comes_twice() -> None:
    specs = [BackboneSpec(id="m/a", factory="m:f"), BackboneSpec(id="m/b", factory="m:f", transfer=False)]
    assert [s.id for s in at_sizes(specs, Choice((96, 128, 96)))] == ["m/a@96px", "m/a@128px", "m/b"]
    with pytest.raises(ConfigError, match="no backbone here has an input size"):
        at_sizes(specs[1:], Choice((96,)))
