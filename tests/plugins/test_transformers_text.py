"""Text backbones of transformers: cards, folders, tokenizers, and models that outlive their folder."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import autotransfer
from autotransfer.codec import from_json, to_json
from autotransfer.data.tokens import masked, padded
from autotransfer.errors import ModelError, UnknownNameError
from autotransfer.model import load
from autotransfer.plugin import BackboneSpec, TextInput, WeightsError, mend_torchvision
from autotransfer.registry import Registry
from autotransfer.testing import check_backbone

mend_torchvision()

from autotransfer_transformers import find as finding  # noqa: E402
from autotransfer_transformers.text_build import TextEncoder, build  # noqa: E402
from autotransfer_transformers.text_cards import TEXT_CARDS  # noqa: E402
from autotransfer_transformers.text_configs import CONFIGS  # noqa: E402
from autotransfer_transformers.tokenizer import tokenizer  # noqa: E402

_spec: Any = importlib.util.spec_from_file_location("tiny_text", Path(__file__).parents[1] / "toys" / "tiny_text.py")
tiny_text: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny_text)

with pytest.MonkeyPatch.context() as patch:
    patch.setenv("AUTOTRANSFER_PLUGINS", "transformers=autotransfer_transformers")
    REGISTRY = Registry.discover()
STORED_NOWHERE = {"deberta-v2": "parameters that count to a later stage act before the cut", "t5": "not one a row"}
"""Kinds none of whose cuts can be stored, and why."""


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_text.folder(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture
def reviews() -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(0)
    ends = {"good": "that all of us would like to see again", "bad": "that none of us could sit through"}
    labels = ["good", "bad"] * 40
    rows = [
        f"a {('lovely', 'dull')[i % 2]} film {ends[y]} " + "number " * int(rng.integers(1, 20))
        for i, y in enumerate(labels)
    ]
    return [f"{r}{i}" for i, r in enumerate(rows)], labels


@pytest.mark.parametrize("card", TEXT_CARDS, ids=lambda c: c.id)
def test_a_card_has_the_sizes_of_its_network(card: BackboneSpec) -> None:
    with torch.device("meta"):
        network = build(None, **card.options)
    modules = dict(network.named_modules())
    assert sum(p.numel() for p in network.parameters()) == card.params
    assert all(path in modules for path in card.stages)
    last = card.stages[-1].rpartition(".")
    assert f"{last[0]}.{int(last[2]) + 1}" not in modules, "the card names all of its layers"
    assert card.weights is not None
    assert (card.weights.where, card.weights.member) == ("hub", "/")
    assert from_json(BackboneSpec, to_json(card)) == card


@pytest.mark.parametrize("card", TEXT_CARDS, ids=lambda c: c.id)
def test_every_architecture_passes_the_kit_and_its_cuts_are_checked(card: BackboneSpec) -> None:
    config = tiny_text.tiny(CONFIGS[str(card.options["config"])])
    options = {**card.options, "config": json.dumps(config)}
    found = check_backbone(replace(card, options=options, stages=card.stages[:3], width=None), REGISTRY)
    assert [str(f) for f in found if f.level == "error"] == []
    why = STORED_NOWHERE.get(config["model_type"])
    assert len(found) == (2 if why else 0)
    assert all(why in f.text for f in found if why)


def test_cards_are_listed_without_torch() -> None:
    code = "import sys, autotransfer_transformers as a\nassert len(a.autotransfer_backbones()) >= 12\n"
    code += "assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))


@pytest.mark.parametrize(("pooling", "wanted"), [("mean", [2.0, 5.0]), ("first", [1.0, 5.0]), ("last", [3.0, 5.0])])
def test_tokens_are_pooled_under_the_mask(pooling: str, wanted: list[float]) -> None:
    class Ids(torch.nn.Module):
        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return type("Output", (), {"last_hidden_state": input_ids.float().unsqueeze(2)})

    ids, mask = torch.tensor([[1, 2, 3, 90], [5, 91, 92, 93]]), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    assert TextEncoder(Ids(), pooling)(ids, mask).flatten().tolist() == wanted


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(WeightsError, match="pooling is 'max'; wanted mean, first, last"):
        build(None, config="gpt2", pooling="max")


# Tokenizers.


def test_texts_are_cut_with_their_special_tokens_and_the_length_before_is_told(bert: Path) -> None:
    made = tokenizer(bert, max_length=6)
    ids, lengths = made(["the film was good", "", "the " * 50])
    assert lengths == [6, 2, 52]
    assert [len(i) for i in ids] == [6, 2, 6]
    assert [i[0] for i in ids] == [1, 1, 1]
    assert [i[-1] for i in ids] == [2, 2, 2]
    assert made.pad == 0
    assert made.key != tokenizer(bert, max_length=7).key


def test_augmentation_hides_words_behind_the_tokenizers_own_sign_and_no_special_token(bert: Path) -> None:
    made = tokenizer(bert, max_length=30)
    assert made.mask == 3  # this one knows no mask, but what is unknown
    assert made.special == {0, 1, 2, 3}
    ids, _ = made(["the film was good " * 7])
    given = padded([np.array(row) for row in ids], made.pad)
    drawn = [masked(given, made, "strong", np.random.default_rng(s))["input_ids"][0] for s in range(50)]
    for row in drawn:
        assert ((row == given["input_ids"][0]) | (row == 3)).all()
        assert (row[0], row[-1]) == (1, 2)
    assert sum(int((row == 3).sum()) for row in drawn) > 50
    # A sign that also ends a text, as GPT-2's unknown token does, stands for nothing: words are left out then.
    made._tokenizer.unk_token = made._tokenizer.eos_token = "[UNK]"
    assert made._mask() is None


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no tokenizer can be read from"):
        tokenizer(tmp_path, max_length=8)


# Folders and ids.


def test_a_folder_is_a_backbone(bert: Path) -> None:
    spec = REGISTRY.backbone(f"transformers/{bert}")
    assert spec.weights is not None
    assert (spec.weights.where, spec.weights.name) == ("file", str(bert))
    assert isinstance(spec.input, TextInput)
    network = build(bert, **spec.options)
    random = build(None, **spec.options)
    ids = {"input_ids": torch.tensor([[1, 5, 2]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    assert not torch.allclose(network.eval()(**ids), random.eval()(**ids))
    assert [str(f) for f in check_backbone(spec, REGISTRY)] == []


@pytest.mark.parametrize("kind", ["gpt2", "t5", "distilbert"])
def test_folders_of_other_kinds(kind: str, tmp_path: Path) -> None:
    spec = REGISTRY.backbone(f"transformers/{tiny_text.folder(tmp_path / kind, kind)}")
    assert isinstance(spec.input, TextInput)
    assert spec.input.pooling == ("last" if kind == "gpt2" else "mean")
    assert build(tmp_path / kind, **spec.options) is not None


def test_a_pickle_is_never_read(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((bert / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin is a pickle, which is not read"):
        REGISTRY.backbone(f"transformers/{tmp_path}")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "no config.json that can be read"),
        ("[]", "no JSON object"),
        ('{"model_type": "mine"}', "of the kind 'mine'"),
    ],
)
def test_a_damaged_or_unknown_folder_says_why(bert: Path, tmp_path: Path, config: str, message: str) -> None:
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").write_bytes((bert / "model.safetensors").read_bytes())
    with pytest.raises(WeightsError, match=message):
        REGISTRY.backbone(f"transformers/{tmp_path}")


def test_code_that_a_folder_names_is_never_run(bert: Path, tmp_path: Path) -> None:
    for file in bert.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((bert / "config.json").read_text()) | {"auto_map": {"AutoModel": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('run!')")
    spec = REGISTRY.backbone(f"transformers/{tmp_path}")
    assert build(tmp_path, **spec.options) is not None


def test_weights_of_another_network_are_refused(bert: Path) -> None:
    config = json.loads((bert / "config.json").read_text()) | {"num_hidden_layers": 5}
    with pytest.raises(WeightsError, match=r"does not hold this bert network: it lacks.*layer\.[34]"):
        build(bert, config=json.dumps(config))
    with pytest.raises(WeightsError, match="does not hold"):
        build(bert, config=json.dumps({**config, "num_hidden_layers": 3, "intermediate_size": 48}))


def test_a_hub_id_offline_is_refused_with_what_to_do() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(REGISTRY, "offline", True)
        with pytest.raises(WeightsError, match=r"owner/net cannot be had from the hub.*transformers/PATH"):
            REGISTRY.backbone("transformers/owner/net")
        with pytest.raises(UnknownNameError):
            REGISTRY.backbone("transformers/no such/net at/all")


def test_a_full_hub_name_of_a_card_is_the_card() -> None:
    spec = REGISTRY.backbone("transformers/FacebookAI/roberta-base")
    assert replace(spec, id="transformers/roberta-base") == REGISTRY.backbone("transformers/roberta-base")


def test_a_card_of_a_saved_model_needs_no_folder(bert: Path) -> None:
    spec = REGISTRY.backbone(f"transformers/{bert}")
    again = finding.find("nowhere/at/all", spec.options)
    assert again is not None
    assert (again.options, again.input) == (spec.options, spec.input)
    with pytest.raises(WeightsError, match="no options depth"):
        finding.find(str(bert), {"depth": 3})


# Whole runs.


def test_a_saved_model_outlives_its_folder_and_the_cache(
    reviews: tuple[list[str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "AUTOTRANSFER_PLUGINS",
        "core=autotransfer_strategies,transformers=autotransfer_transformers,baselines=autotransfer_baselines",
    )
    source = tiny_text.folder(tmp_path / "bert")
    model = autotransfer.fit(
        reviews, backbones=f"transformers/{source}", trials=4, executor="serial", out=tmp_path / "run", offline=True
    )
    assert {t.status for t in model.run.trials} <= {"done", "promoted", "stopped"}, model.report()
    assert any("tokens a text" in n for s in model.run.survey for n in s.notes)
    assert "baselines/tfidf" in {t.recipe.backbone for t in model.run.trials}
    if not model.spec.transfer:  # random weights seldom win; what is saved must be a network here
        tuned = next(t for t in model.run.trials if t.recipe.backbone.startswith("transformers/"))
        assert tuned.objective is not None
    rows = [*reviews[0][:5], "", "\U0001f600", "film " * 900]
    wanted = model.predict_proba(rows)
    assert np.allclose(np.stack([model.predict_proba(r) for r in rows]), wanted, atol=1e-5)
    for file in source.iterdir():
        file.unlink()
    code = (
        "import sys, json, numpy, autotransfer\nmodel = autotransfer.load(sys.argv[1])\n"
        "rows = json.load(open(sys.argv[2]))\nnumpy.save(sys.argv[3], model.predict_proba(rows))"
    )
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    env = {**os.environ, "AUTOTRANSFER_HOME": str(tmp_path / "empty"), "HF_HUB_OFFLINE": "1"}
    arguments = [str(tmp_path / "run"), str(tmp_path / "rows.json"), str(tmp_path / "p.npy")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, env=env, cwd=tmp_path)
    assert np.allclose(np.load(tmp_path / "p.npy"), wanted, atol=1e-6)


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_a_fine_tuned_folder_is_saved_with_its_tokenizer(
    kind: str, reviews: tuple[list[str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of T5 no cut can be stored: it is trained without."""
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies,transformers=autotransfer_transformers")
    source = tiny_text.folder(tmp_path / kind, kind)
    model = autotransfer.fit(
        reviews,
        backbones=f"transformers/{source}",
        strategies="core/partial",
        space={"epochs": 2, "freeze_fraction": 0.4},
        trials=1,
        executor="serial",
        out=tmp_path / "run",
    )
    assert model.recipe.strategy == "core/partial"
    cuts = next(s for s in model.run.survey).cuts
    assert [c.ok for c in cuts] == ([True] * 3 if kind == "bert" else [False, False, True])
    for file in source.iterdir():
        file.unlink()
    again = load(tmp_path / "run")
    assert (tmp_path / "run" / "model" / "assets" / "tokenizer.json").is_file()
    assert np.allclose(again.predict_proba(reviews[0]), model.predict_proba(reviews[0]), atol=1e-6)
    (tmp_path / "run" / "model" / "assets" / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="another checksum"):
        load(tmp_path / "run")


def test_frozen_layers_are_not_left_out_at_random() -> None:
    from autotransfer_transformers.text_build import _network

    values = {"model_type": "m2m_100", "vocab_size": 50, "d_model": 8, "encoder_layers": 2, "decoder_layers": 1}
    values |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    values |= {"encoder_layerdrop": 0.05, "max_position_embeddings": 16}
    network: Any = _network(None, values)
    assert network.layerdrop == 0.0
