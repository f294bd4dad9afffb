"""The packs' text networks: cards, and that real weights know what words mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from autotransfer import weights
from autotransfer.codec import from_json, to_json
from autotransfer.plugin import BackboneSpec, TextInput, WeightsError, mend_torchvision
from autotransfer.registry import Registry
from autotransfer.testing import check_backbone

mend_torchvision()

from autotransfer_packs import text  # noqa: E402
from autotransfer_packs.text_cards import TEXT_CARDS  # noqa: E402

ALIKE = ("The cat sat on the mat.", "A kitten was resting on a rug.", "Interest rates rose again in March.")


def opened(spec: BackboneSpec) -> tuple[Any, Any]:
    missing = weights.available(spec.weights, offline=True)
    if missing:
        pytest.skip(f"{spec.id}: {missing}; autotransfer weights fetch {spec.id}")
    assert spec.weights is not None
    assert isinstance(spec.input, TextInput)
    path = weights.fetch(spec.weights, offline=True)
    name = spec.factory.partition(":")[2]
    tokens = getattr(text, f"{name}_tokenizer")(weights.assets_folder(path), max_length=spec.input.max_length)
    return getattr(text, name)(path).eval(), tokens


def vectors(spec: BackboneSpec, rows: tuple[str, ...]) -> torch.Tensor:
    from autotransfer.data.tokens import padded, tokenised

    network, tokens = opened(spec)
    with torch.no_grad():
        found: torch.Tensor = network(**padded(tokenised(tokens, rows)[0], tokens.pad))
    return found


@pytest.mark.parametrize("spec", TEXT_CARDS, ids=lambda s: s.id)
def test_a_card_has_the_sizes_of_the_network_and_passes_the_kit(spec: BackboneSpec) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOTRANSFER_PLUGINS", "packs=autotransfer_packs")
        registry = Registry.discover()
    network = registry.factory(spec)(None)
    assert sum(p.numel() for p in network.parameters()) == spec.params
    assert [str(f) for f in check_backbone(spec, registry)] == []
    assert from_json(BackboneSpec, to_json(spec)) == spec


@pytest.mark.weights
@pytest.mark.parametrize("spec", TEXT_CARDS, ids=lambda s: s.id)
def test_like_sentences_lie_near_each_other(spec: BackboneSpec) -> None:
    found = torch.nn.functional.normalize(vectors(spec, ALIKE), dim=1)
    near, far = float(found[0] @ found[1]), float(found[0] @ found[2])
    assert near > far + 0.2
    alone = torch.nn.functional.normalize(vectors(spec, ALIKE[1:2]), dim=1)
    torch.testing.assert_close(alone[0], found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.weights
def test_minilm_gives_what_its_folder_gives_to_transformers() -> None:
    from transformers import AutoModel, AutoTokenizer

    spec = TEXT_CARDS[0]
    found = vectors(spec, ALIKE)
    assert spec.weights is not None
    folder = weights.fetch(spec.weights, offline=True)
    given = AutoTokenizer.from_pretrained(folder)(list(ALIKE), padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder)(**given).last_hidden_state
    mask = given["attention_mask"].unsqueeze(2).float()
    torch.testing.assert_close(found, (hidden * mask).sum(1) / mask.sum(1), rtol=1e-4, atol=1e-5)


@pytest.mark.weights
def test_odd_texts_have_tokens_of_the_static_vectors() -> None:
    _, tokens = opened(TEXT_CARDS[1])
    ids, lengths = tokens(["", "\U0001f600", "word " * 2000])
    assert lengths[0] == 0
    assert lengths[1] > 0
    assert (len(ids[2]), lengths[2] > 512) == (512, True)


def test_files_of_other_networks_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"embedding.weight": torch.zeros(3, 256)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="does not hold the vectors"):
        text.wordllama(tmp_path / "x.safetensors")
    (tmp_path / text.WORDLLAMA_TOKENIZER).write_text("{}")
    with pytest.raises(WeightsError, match="is no tokenizer"):
        text.wordllama_tokenizer(tmp_path, max_length=8)
