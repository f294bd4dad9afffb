"""Audio networks of transformers, tiny and with random weights, made from the settings of the curated cards."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from autotransfer.codec import from_json, to_json
from autotransfer.plugin import BackboneSpec, WeightsError
from autotransfer.testing import check_backbone
from autotransfer.train.cuts import check_cuts
from autotransfer.train.stages import find_stages
from autotransfer_transformers import audio_build
from autotransfer_transformers.audio_cards import AUDIO_CARDS
from autotransfer_transformers.find import find

_LAYERS = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
_CONVOLUTIONS = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
TINY = {
    "wav2vec2": {**_LAYERS, **_CONVOLUTIONS},
    "hubert": {**_LAYERS, **_CONVOLUTIONS},
    "wavlm": {**_LAYERS, **_CONVOLUTIONS},
    "audio-spectrogram-transformer": {**_LAYERS, "max_length": 200},
    "whisper": {"d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 64},
}
ONE_OF_EACH = {s.options["kind"]: s for s in AUDIO_CARDS}


def tiny(kind):
    torch.manual_seed(0)
    settings = {**ONE_OF_EACH[kind].options, **TINY[kind]}
    return audio_build.build(None, **settings).eval()


@pytest.fixture(params=list(TINY))
def kind(request):
    return request.param


def test_cards_are_json_and_take_safetensors_only():
    assert len({s.id for s in AUDIO_CARDS}) == len(AUDIO_CARDS)
    for spec in AUDIO_CARDS:
        assert from_json(BackboneSpec, to_json(spec)) == spec
        assert spec.modality == "audio"
        assert spec.weights is not None
        assert spec.weights.member == "/"


def test_every_kind_has_a_card():
    assert set(ONE_OF_EACH) == set(audio_build.KINDS)


@pytest.mark.parametrize("spec", AUDIO_CARDS, ids=lambda s: s.id)
def test_a_card_s_stages_and_width_are_those_of_its_network(spec):
    with torch.device("meta"):
        network = audio_build.build(None, **spec.options)
    modules = dict(network.named_modules())
    assert set(spec.stages) <= set(modules)
    last = spec.stages[-1].rpartition(".")
    assert f"{last[0]}.{int(last[2]) + 1}" not in modules
    config = network.model.config if hasattr(network, "model") else network.encoder.config
    assert config.hidden_size == spec.width


def test_padding_does_not_count_in_transformers(kind, padding_does_not_count):
    padding_does_not_count(tiny(kind))


def test_every_cut_holds_and_every_stage_learns(kind, clips):
    network, inputs = tiny(kind), clips([16_000, 9_000])
    stages = find_stages(network, inputs, declared=ONE_OF_EACH[kind].stages[:3])
    assert stages.width == 32
    failed = [c.reason for c in check_cuts(network, stages, inputs) if not c.ok]
    if kind == "wavlm":  # its layers hand on the bias of their positions, which is no row's own
        assert len(failed) == 2
        assert all("not one a row" in reason for reason in failed)
    else:
        assert failed == []
    network.train()
    network(**inputs).square().sum().backward()
    learns = {stages.owners[n] for n, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert learns == {0, 1, 2}


def test_training_drops_nothing_at_random(kind, clips):
    network, inputs = tiny(kind).train(), clips([16_000, 9_000])
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    once = network(**inputs)
    assert all(torch.equal(network(**inputs), once) for _ in range(5))


def test_a_folder_fills_the_network(tmp_path, kind, clips):
    _, make = audio_build.KINDS[kind]
    network = tiny(kind)
    model = network.model if hasattr(network, "model") else None
    if model is None:
        from transformers import WhisperConfig

        settings = {k: v for k, v in ONE_OF_EACH[kind].options.items() if k != "kind"} | TINY[kind]
        model = make(WhisperConfig(**settings, decoder_layers=1, decoder_ffn_dim=8, decoder_attention_heads=2))
        network.encoder.load_state_dict(model.encoder.state_dict())
    model.save_pretrained(tmp_path / "net")
    filled = audio_build.build(tmp_path / "net", kind=kind, hidden_size=999).eval()
    inputs = clips([16_000, 9_000])
    with torch.no_grad():
        assert torch.allclose(filled(**inputs), network(**inputs), atol=1e-6)


def test_a_folder_without_the_network_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="does not hold this network"):
        audio_build.build(tmp_path, kind="hubert")
    tiny("hubert").model.save_pretrained(tmp_path / "net")
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    (tmp_path / "net" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(WeightsError, match=r"lacks encoder\.layers\.3"):
        audio_build.build(tmp_path / "net", kind="hubert")


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_the_filter_bank_is_kaldi_s():
    from transformers import ASTFeatureExtractor
    from transformers.audio_utils import mel_filter_bank

    theirs = mel_filter_bank(257, 128, 20.0, 8000.0, 16_000, mel_scale="kaldi", triangularize_in_mel_space=True)
    assert np.allclose(audio_build.kaldi_filters(128, 512), theirs, atol=1e-9)
    wave = np.random.default_rng(0).normal(size=20_000).astype(np.float32) * 0.1
    found = audio_build.Fbank(128)(torch.from_numpy(wave)[None])[0].numpy()
    wanted = ASTFeatureExtractor(do_normalize=False)(wave, sampling_rate=16_000, return_tensors="np").input_values[0]
    assert np.allclose(found, wanted[: len(found)], atol=1e-3)
    assert not wanted[len(found) :].any()


def test_a_folder_is_found_by_its_path(tmp_path):
    tiny("hubert").model.save_pretrained(tmp_path / "net")
    spec = find(str(tmp_path / "net"), {})
    assert spec.modality == "audio"
    assert spec.id == f"transformers/{tmp_path / 'net'}"
    assert spec.weights.where == "file"
    again = find(str(tmp_path / "gone"), spec.options)  # a saved model, its folder lost
    assert again.modality == "audio"
    assert again.options == spec.options
    network = audio_build.build(None, **again.options)
    assert network.model.config.hidden_size == 32
    assert network.model.config.layerdrop == 0.0


def test_a_curated_hub_id_is_its_card():
    spec = find("facebook/hubert-base-ls960", {}, offline=True)
    assert spec.stages == ONE_OF_EACH["hubert"].stages
    assert find("facebook/hubert-base-ls960", spec.options, offline=True) == spec


@pytest.mark.parametrize("kind", [k for k in TINY if k != "whisper"])  # an encoder is no folder of its own
def test_a_found_network_passes_the_kit(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "transformers=autotransfer_transformers")
    tiny(kind).model.save_pretrained(tmp_path / "net")
    spec = find(str(tmp_path / "net"), {})
    short = dataclasses.replace(spec, input=dataclasses.replace(spec.input, window=1.0))
    assert [str(f) for f in check_backbone(short) if f.level == "error"] == []


@pytest.mark.parametrize("kind", list(TINY))
def test_a_card_with_tiny_settings_passes_the_kit(monkeypatch, kind):
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "transformers=autotransfer_transformers")
    card = ONE_OF_EACH[kind]
    spec = dataclasses.replace(
        card,
        options={**card.options, **{k: v for k, v in TINY[kind].items() if k != "conv_dim"}},
        stages=card.stages[:3],
        width=32,
        input=dataclasses.replace(card.input, window=1.0),
    )
    assert [str(f) for f in check_backbone(spec) if f.level == "error"] == []
