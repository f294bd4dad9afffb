"""timm's backbones: the curated cards against what timm builds, loading, and any other model by name."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import autotransfer_timm
from autotransfer.codec import from_json, to_json
from autotransfer.plugin import BackboneSpec, ImageInput, WeightsError
from autotransfer.spec import with_size
from autotransfer_timm.cards import CARDS

SMALL = 96
"""Pixels at which the stages of a convolutional network are tried: its stages are the same at every size."""
RESIZED = {
    "timm/vit_small_patch16_224": 64,
    "timm/vit_base_patch16_224": 64,
    "timm/deit_small_patch16_224": 64,
    "timm/swin_tiny_patch4_window7_224": 64,
    "timm/vit_small_patch14_dinov2": 56,
}
"""Transformers are built for one size; a smaller one of the same depth is tried."""
FAMILIES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vgg16", "vgg19", "inception_v3")
FAMILIES += ("inception_v4", "efficientnet_b0", "efficientnet_lite0", "mobilenetv2", "mobilenetv3", "convnext")
FAMILIES += ("vit_small", "vit_base", "deit", "swin", "dinov2")


@pytest.fixture(scope="module")
def build():
    return importlib.import_module("autotransfer_timm.build").build


def named(id: str) -> BackboneSpec:
    return next(c for c in CARDS if c.id == id)


def test_the_cards_load_neither_torch_nor_timm():
    code = (
        "import sys, autotransfer_timm\nassert len(autotransfer_timm.autotransfer_backbones()) > 15\n"
        "assert autotransfer_timm.autotransfer_find_backbone('packs/x', {}) is None\n"
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_family_has_a_card():
    ids = [c.id for c in autotransfer_timm.autotransfer_backbones()]
    assert len(set(ids)) == len(ids)
    for part in FAMILIES:
        assert any(part in id for id in ids), part


@pytest.mark.parametrize("spec", CARDS, ids=lambda s: s.id)
def test_a_card_has_the_sizes_of_the_network(spec, build, card_agrees):
    card_agrees(spec, build)


@pytest.mark.parametrize("spec", CARDS, ids=lambda s: s.id)
def test_a_card_has_the_settings_and_weights_that_timm_names(spec):
    from autotransfer_timm.find import find

    own = find(spec.options["name"], {k: v for k, v in spec.options.items() if k != "name"})
    assert own.input == spec.input
    assert own.options == spec.options
    assert own.size_option == spec.size_option == ("img_size" if spec.id in RESIZED else None)
    assert own.licence == spec.licence
    assert replace(own.weights, bytes=spec.weights.bytes) == spec.weights
    assert spec.params * 4 < spec.weights.bytes < spec.params * 4 * 1.5 + 5e6, "a classifier comes with it"
    assert from_json(BackboneSpec, to_json(spec)) == spec


@pytest.mark.parametrize("spec", CARDS, ids=lambda s: s.id)
def test_a_network_can_be_cut_between_the_stages_of_its_card(spec, build, stages_hold):
    resized = with_size(spec, RESIZED.get(spec.id, SMALL))
    torch.manual_seed(0)
    stages_hold(spec, build(None, **resized.options), resized.input.size)


def saved(path, name, head=True, **changes):
    """Save a random network with its classifier, and return it."""
    import timm

    torch.manual_seed(1)
    network = timm.create_model(name, pretrained=False, num_classes=7 if head else 0).eval()
    state = {k: v.contiguous() for k, v in network.state_dict().items()}
    state = {k: v for k, v in {**state, **changes}.items() if v is not None}
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return network


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_fills_the_network_but_for_its_classifier(tmp_path, build, name, suffix):
    path = tmp_path / f"net{suffix}"
    whole = saved(path, name)
    rows = torch.randn(2, 3, 160, 160)
    filled = build(path, name=name).eval()
    with torch.no_grad():
        features = filled(rows)
        assert torch.equal(features, whole.forward_head(whole.forward_features(rows), pre_logits=True))
    assert features.dim() == 2


def test_weights_of_another_image_size_are_resampled(tmp_path, build):
    path = tmp_path / "net.safetensors"
    whole = saved(path, "test_vit")
    larger = build(path, name="test_vit", img_size=192)
    assert larger.pos_embed.shape[1] > whole.pos_embed.shape[1]
    assert torch.equal(larger.blocks[0].attn.qkv.weight, whole.blocks[0].attn.qkv.weight)
    assert larger(torch.randn(2, 3, 192, 192)).shape == (2, larger.num_features)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer2.0.conv1.weight": None}, r"does not hold test_resnet: it lacks layer2\.0\.conv1\.weight"),
        ({"layer1.9.conv1.weight": torch.zeros(1)}, r"also holds layer1\.9\.conv1\.weight"),
        ({"stray": torch.zeros(1)}, "also holds stray"),
        ({"layer1.0.conv1.weight": torch.zeros(3)}, "size mismatch for layer1"),
    ],
)
def test_a_file_of_another_network_is_refused(tmp_path, build, changes, message):
    path = tmp_path / "net.safetensors"
    saved(path, "test_resnet", **changes)
    with pytest.raises(WeightsError, match=message):
        build(path, name="test_resnet")


def test_all_that_a_file_lacks_is_named_in_one_error(tmp_path, build):
    path = tmp_path / "net.safetensors"
    save_file({"x.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"it lacks conv1.*, .* and \d+ more"):
        build(path, name="test_resnet")


def test_parts_that_the_network_leaves_out_may_lie_in_the_file(tmp_path, build):
    path = tmp_path / "net.safetensors"
    saved(path, "test_resnet", **{"AuxLogits.conv.weight": torch.zeros(2)})
    build(path, name="test_resnet")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_that_is_no_weights_file_is_refused(tmp_path, build, suffix):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(WeightsError, match="neither a safetensors file nor"):
        build(path, name="test_resnet")


class Malice:
    """Something that pickle would run."""

    def __reduce__(self):
        return (print, ("run",))


def test_a_pickle_is_never_run(tmp_path, build, capsys):
    torch.save({"conv1.weight": Malice()}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="neither"):
        build(tmp_path / "net.pth", name="test_resnet")
    assert capsys.readouterr().out == ""


def test_a_list_of_tensors_is_no_state_dict(tmp_path, build):
    torch.save([torch.zeros(1)], tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="state_dict"):
        build(tmp_path / "net.pth", name="test_resnet")


def test_any_model_is_found_by_name():
    spec = autotransfer_timm.autotransfer_find_backbone("timm/test_vit", {})
    assert spec.id == "timm/test_vit"
    assert spec.options["name"].startswith("test_vit.")
    assert spec.weights.where == "hub"
    assert spec.weights.name == f"timm/{spec.options['name']}"
    assert spec.input == ImageInput(size=160, mean=(0.5,) * 3, std=(0.5,) * 3, crop=0.95)
    assert (spec.stages, spec.params, spec.width) == ((), None, None), "measured when it is built"


def test_a_tag_and_options_are_kept(build):
    spec = autotransfer_timm.autotransfer_find_backbone("timm/test_vit.r160_in1k", {"img_size": 96})
    assert spec.input.size == 96
    assert build(None, **spec.options)(torch.randn(2, 3, 96, 96)).shape[0] == 2


def test_an_unknown_model_is_not_found():
    assert autotransfer_timm.autotransfer_find_backbone("timm/resnet_of_tomorrow", {}) is None
    assert autotransfer_timm.autotransfer_find_backbone("timm/", {}) is None


def test_a_model_without_weights_is_refused_by_name():
    with pytest.raises(WeightsError, match=r"no pretrained weights of resnet18\.nope.*resnet18\.tv_in1k"):
        autotransfer_timm.autotransfer_find_backbone("timm/resnet18.nope", {})
    with pytest.raises(WeightsError, match="img_size of test_vit is 'big'"):
        autotransfer_timm.autotransfer_find_backbone("timm/test_vit", {"img_size": "big"})
