"""The audio packs: converters on made-up files, padding, and the real weights where they are cached."""

from __future__ import annotations

import struct

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from autotransfer import weights
from autotransfer.plugin import WeightsError
from autotransfer.train.cuts import check_cuts
from autotransfer.train.stages import find_stages
from autotransfer_packs import build, ctranslate2_file, d_vector, speech_embedding, whisper
from autotransfer_packs.cards import AUDIO


def factory(spec):
    return getattr(build, spec.factory.partition(":")[2])


@pytest.fixture(scope="module", params=AUDIO, ids=lambda s: s.id)
def built(request):
    torch.manual_seed(0)
    return request.param, factory(request.param)(None).eval()


def test_a_card_has_the_sizes_and_stages_of_the_network(built, clips):
    spec, network = built
    inputs = clips([20_000, 9_000])
    assert sum(p.numel() for p in network.parameters()) == spec.params
    stages = find_stages(network, inputs, declared=spec.stages)
    assert stages.width == spec.width
    assert all(stages.widths)
    assert [c for c in check_cuts(network, stages, inputs) if not c.ok] == []
    network(**inputs).square().sum().backward()
    reached = {stages.owners[n] for n, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached == set(range(len(spec.stages)))


def test_padding_does_not_count_in_a_pack(built, padding_does_not_count):
    padding_does_not_count(built[1])


def test_silence_gives_finite_features(built):
    _, network = built
    silent = {"waveform": torch.zeros(2, 30_000), "attention_mask": torch.tensor([[1] * 30_000, [0] * 30_000])}
    with torch.no_grad():
        assert network(**silent).isfinite().all()


def test_a_file_of_something_else_is_refused(tmp_path, built):
    path = tmp_path / "net"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(WeightsError, match=str(path)):
        factory(built[0])(path)


def text(value):
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def write_ctranslate2(path, variables, version=6, aliases=()):
    kinds = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
    body = struct.pack("<I", version) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, values in variables.items():
        body += text(name) + struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
        body += struct.pack("<BI", kinds[str(values.dtype)], values.nbytes) + values.tobytes()
    body += struct.pack("<I", len(aliases)) + b"".join(text(a) + text(b) for a, b in aliases)
    path.write_bytes(body)


def test_variables_are_read_by_name(tmp_path):
    half, whole = np.array([[1.5, -2.0]], np.float16), np.array(3, np.int8)
    given = {"encoder/a": half, "decoder/b": half, "encoder/n": whole}
    write_ctranslate2(tmp_path / "m.bin", given, aliases=[("encoder/c", "encoder/a")])
    found = ctranslate2_file.read(tmp_path / "m.bin", "encoder/")
    assert set(found) == {"encoder/a", "encoder/n", "encoder/c"}
    assert found["encoder/a"].dtype == torch.float32
    assert found["encoder/a"].tolist() == [[1.5, -2.0]]
    assert found["encoder/n"].item() == 3


def test_other_versions_and_cut_files_are_refused(tmp_path):
    path = tmp_path / "m.bin"
    write_ctranslate2(path, {"encoder/a": np.ones((4, 4), np.float32)}, version=5)
    with pytest.raises(WeightsError, match="its version is 5"):
        ctranslate2_file.read(path, "encoder/")
    write_ctranslate2(path, {"encoder/a": np.ones((4, 4), np.float32)})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(WeightsError, match="no CTranslate2 model"):
        ctranslate2_file.read(path, "encoder/")


def whisper_variables(network):
    """Return the encoder's tensors as CTranslate2 names them."""
    state = {n: t.numpy() for n, t in network.encoder.state_dict().items()}
    theirs = {"weight": "weight", "bias": "bias"}
    norms = {"weight": "gamma", "bias": "beta"}
    found = {"encoder/num_heads": np.array(6, np.int16)}
    found["encoder/position_encodings/encodings"] = state["embed_positions.weight"]
    for kind in theirs:
        for room in ("conv1", "conv2"):
            found[f"encoder/{room}/{kind}"] = state[f"{room}.{kind}"]
        found[f"encoder/layer_norm/{norms[kind]}"] = state[f"layer_norm.{kind}"]
        for i in range(whisper.LAYERS):
            ours, layer = f"layers.{i}", f"encoder/layer_{i}"
            for mine, room in (("self_attn_layer_norm", "self_attention"), ("final_layer_norm", "ffn")):
                found[f"{layer}/{room}/layer_norm/{norms[kind]}"] = state[f"{ours}.{mine}.{kind}"]
            for mine, room in (("self_attn.out_proj", "self_attention/linear_1"), ("fc1", "ffn/linear_0")):
                found[f"{layer}/{room}/{kind}"] = state[f"{ours}.{mine}.{kind}"]
            found[f"{layer}/ffn/linear_1/{kind}"] = state[f"{ours}.fc2.{kind}"]
            size = state[f"{ours}.self_attn.q_proj.bias"].shape
            parts = [state.get(f"{ours}.self_attn.{p}_proj.{kind}", np.zeros(size, np.float32)) for p in "qkv"]
            found[f"{layer}/self_attention/linear_0/{kind}"] = np.concatenate(parts)
    return found


def test_whisper_is_read_from_its_file(tmp_path, clips):
    torch.manual_seed(1)
    network = whisper.network().eval()
    variables = whisper_variables(network)
    write_ctranslate2(tmp_path / "m.bin", variables)
    inputs = clips([8_000, 3_000])
    with torch.no_grad():
        assert torch.equal(build.whisper_tiny_en(tmp_path / "m.bin").eval()(**inputs), network(**inputs))
    del variables["encoder/layer_2/ffn/linear_0/weight"]
    write_ctranslate2(tmp_path / "m.bin", variables)
    with pytest.raises(WeightsError, match=r"Missing.*layers\.2\.fc1\.weight"):
        build.whisper_tiny_en(tmp_path / "m.bin")


def test_keys_with_a_bias_are_another_network(tmp_path):
    variables = whisper_variables(whisper.network())
    variables["encoder/layer_1/self_attention/linear_0/bias"] += 1.0
    write_ctranslate2(tmp_path / "m.bin", variables)
    with pytest.raises(WeightsError, match=r"also holds layers\.1\.self_attn\.k_proj\.bias"):
        build.whisper_tiny_en(tmp_path / "m.bin")


def test_the_d_vector_is_that_of_one_lstm_over_each_part(tmp_path, clips):
    torch.manual_seed(0)
    lstm, linear = torch.nn.LSTM(40, 256, 3, batch_first=True), torch.nn.Linear(256, 256)
    state = {f"lstm.{n}": t for n, t in lstm.state_dict().items()}
    state |= {f"linear.{n}": t for n, t in linear.state_dict().items()}
    torch.save({"model_state": {**state, "similarity_weight": torch.ones(1)}, "step": 3}, tmp_path / "d.pt")
    network = build.d_vector(tmp_path / "d.pt").eval()
    inputs = clips([40_000])
    with torch.no_grad():
        parts = [d_vector.STEP * i for i in range(int(d_vector.parts_of(torch.tensor([40_000]))[0]))]
        wave = torch.nn.functional.pad(inputs["waveform"], (0, (parts[-1] + 160) * 160 - 40_000))
        frames = network.front(wave)  # loud enough: nothing is raised
        _, (hidden, _) = lstm(torch.cat([frames[:, p : p + 160] for p in parts]))
        each = torch.nn.functional.normalize(torch.relu(linear(hidden[-1])), dim=1)
        wanted = torch.nn.functional.normalize(each.mean(0), dim=0)
        assert torch.allclose(network(**inputs)[0], wanted, atol=1e-5)
    torch.save({"model_state": {n: t for n, t in state.items() if "l2" not in n}}, tmp_path / "short.pt")
    with pytest.raises(WeightsError, match=r"Missing.*lstm\.2"):
        build.d_vector(tmp_path / "short.pt")


def test_parts_are_those_that_resemblyzer_takes():
    def theirs(samples):
        frames, step = int(np.ceil((samples + 1) / 160)), 77
        starts = list(range(0, max(1, frames - 160 + step + 1), step))
        covered = (samples - starts[-1] * 160) / 25_600
        return len(starts) - (covered < 0.75 and len(starts) > 1)

    lengths = [1, 159, 160, 25_599, 25_600, 25_601, *range(30_000, 170_000, 777)]
    assert d_vector.parts_of(torch.tensor(lengths)).tolist() == [theirs(n) for n in lengths]


def test_quiet_clips_are_raised_and_loud_ones_left(clips):
    network = d_vector.DVector().eval()
    inputs = clips([20_000])
    mask, wave = inputs["attention_mask"], inputs["waveform"]
    with torch.no_grad():
        quiet = [network(wave * gain, mask) for gain in (1e-3, 1e-4)]
        loud = [network(wave * gain, mask) for gain in (1.0, 2.0)]
    assert torch.allclose(*quiet, atol=1e-6)
    assert not torch.equal(*loud)


def embedding_graph(network):
    """Return nodes and tensors as the pack has them."""
    nodes, tensors = [], {}

    def convolution(name, module):
        tensors[f"{name}_w"] = module.weight
        inputs = ["x", f"{name}_w"]
        if module.bias is not None:
            tensors[f"{name}_b"] = module.bias
            inputs.append(f"{name}_b")
        nodes.append(helper.make_node("Conv", inputs, [f"{name}_y"]))

    for i, block in enumerate(network.blocks):
        for j, unit in enumerate(list(block)[:-1]):
            convolution(f"c{i}{j}", unit.conv)
    first = network.blocks[0][0]
    tensors |= {"scale": first.scale * 2, "mean": torch.full((24,), 0.5), "variance": torch.full((24,), 4.0 - 1e-3)}
    tensors["shift"] = first.shift + 0.5 * first.scale
    nodes.append(helper.make_node("BatchNormalization", ["c00_y", "scale", "shift", "mean", "variance"], ["n"]))
    convolution("last", network.last)
    return nodes, tensors


def test_the_speech_embedding_is_read_from_its_graph(tmp_path, clips):
    torch.manual_seed(0)
    network = speech_embedding.SpeechEmbedding().eval()
    torch.nn.init.normal_(network.blocks[0][0].shift)
    nodes, tensors = embedding_graph(network)
    stored = [numpy_helper.from_array(v.detach().numpy(), n) for n, v in tensors.items()]
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    onnx.save(helper.make_model(helper.make_graph(nodes, "made up", [], [value], stored)), tmp_path / "e.onnx")
    inputs = clips([20_000, 13_000])
    with torch.no_grad():
        found = build.speech_embedding(tmp_path / "e.onnx").eval()(**inputs)
        assert torch.allclose(found, network(**inputs), rtol=1e-4, atol=1e-5)


def test_one_pass_gives_the_embedding_of_every_window():
    torch.manual_seed(0)
    network = speech_embedding.SpeechEmbedding().eval()
    frames = torch.randn(1, 76 + 8 * 3 + 5, 32)
    with torch.no_grad():
        found = network.embeddings(frames)
        single = torch.cat([network.embeddings(frames[:, at : at + 76]) for at in (0, 8, 16, 24)], dim=1)
    assert found.shape == (1, 4, 96)
    assert torch.allclose(found, single, atol=1e-5)


KNOWN: dict[str, list[float]] = {
    "packs/whisper-tiny-en": [18.34987, 0.00349, 3.18074],
    "packs/d-vector": [1.00000, 0.04276, 0.46429],
    "packs/speech-embedding": [154.84186, 2.40263, 72.15553],
}
"""Fingerprints, taken when the networks agreed with the packs' own graphs under onnxruntime and CTranslate2."""


def fingerprint(features):
    ramp = torch.linspace(-1, 1, len(features))
    return [features.norm().item(), features.mean().item(), (features @ ramp).item()]


@pytest.mark.weights
@pytest.mark.parametrize("spec", AUDIO, ids=lambda s: s.id)
def test_a_pack_gives_the_features_that_it_gave(spec, clips):
    missing = weights.available(spec.weights, offline=True)
    if missing:
        pytest.skip(f"{spec.id}: {missing}; autotransfer weights fetch {spec.id}")
    network = factory(spec)(weights.fetch(spec.weights, offline=True)).eval()
    with torch.no_grad():
        features = network(**clips([32_000]))[0]
    assert fingerprint(features) == pytest.approx(KNOWN[spec.id], rel=2e-3)
