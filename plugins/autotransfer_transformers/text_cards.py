"""The curated text cards: networks with stages and sizes that were checked against what transformers builds."""

from __future__ import annotations

from autotransfer.plugin import BackboneSpec, TextInput, WeightSource
from autotransfer_transformers.tokenizer_files import FILES

TOKENIZER = "autotransfer_transformers.tokenizer:tokenizer"
MAX_LENGTH = 256
"""Tokens of the longest text; shorter ones are padded to the longest of their batch only."""
TOKENS = 128
"""Tokens of a row that the cards' cost is told for."""
_BOOKS = "English Wikipedia and BookCorpus"


def _card(
    hub: str,
    summary: str,
    *,
    stages: tuple[str, int],
    width: int,
    params: int,
    macs: int,
    licence: str,
    pretrained_on: str,
    pooling: str = "mean",
) -> BackboneSpec:
    """Return the card of a model of the hub, named ``owner/name``; its download is told by its parameters."""
    name = hub.partition("/")[2]
    path, count = stages
    return BackboneSpec(
        id=f"transformers/{name}",
        factory="autotransfer_transformers.text_build:build",
        options={"config": name, "pooling": pooling},
        modality="text",
        summary=summary,
        input=TextInput(tokenizer=TOKENIZER, max_length=MAX_LENGTH, pooling=pooling),
        stages=tuple(f"network.{path}.{i}" for i in range(count)),
        width=width,
        params=params,
        macs=macs,
        weights=WeightSource(where="hub", name=hub, member="/", bytes=4 * params),
        assets=FILES,
        licence=licence,
        pretrained_on=pretrained_on,
    )


TEXT_CARDS = (
    _card(
        "google-bert/bert-base-uncased",
        "BERT base: the yardstick",
        stages=("encoder.layer", 12),
        width=768,
        params=108_891_648,
        macs=10_871_635_968,
        licence="Apache-2.0",
        pretrained_on=_BOOKS,
    ),
    _card(
        "google-bert/bert-large-uncased",
        "BERT large: dear",
        stages=("encoder.layer", 24),
        width=1024,
        params=334_092_288,
        macs=38_654_705_664,
        licence="Apache-2.0",
        pretrained_on=_BOOKS,
    ),
    _card(
        "FacebookAI/roberta-base",
        "RoBERTa base: BERT, trained longer on more",
        stages=("encoder.layer", 12),
        width=768,
        params=124_055_040,
        macs=10_871_635_968,
        licence="MIT",
        pretrained_on="160 GB of English books, news, stories and web pages",
    ),
    _card(
        "distilbert/distilbert-base-uncased",
        "DistilBERT: half of BERT's depth",
        stages=("transformer.layer", 6),
        width=768,
        params=66_362_880,
        macs=5_435_817_984,
        licence="Apache-2.0",
        pretrained_on=f"{_BOOKS}, distilled from BERT",
    ),
    _card(
        "google/electra-small-discriminator",
        "ELECTRA small: cheap",
        stages=("encoder.layer", 12),
        width=256,
        params=13_483_008,
        macs=1_212_153_856,
        licence="Apache-2.0",
        pretrained_on=_BOOKS,
    ),
    _card(
        "google/electra-base-discriminator",
        "ELECTRA base: learned to tell replaced words",
        stages=("encoder.layer", 12),
        width=768,
        params=108_891_648,
        macs=10_871_635_968,
        licence="Apache-2.0",
        pretrained_on=_BOOKS,
    ),
    _card(
        "microsoft/deberta-v3-small",
        "DeBERTa v3 small: positions relative and apart from content",
        stages=("encoder.layer", 6),
        width=768,
        params=141_304_320,
        macs=8_002_732_032,
        licence="MIT",
        pretrained_on="160 GB of English books, news, stories and web pages",
    ),
    _card(
        "microsoft/deberta-v3-base",
        "DeBERTa v3 base: the strongest of its size where there are rows to tune it on",
        stages=("encoder.layer", 12),
        width=768,
        params=183_831_552,
        macs=16_005_464_064,
        licence="MIT",
        pretrained_on="160 GB of English books, news, stories and web pages",
    ),
    _card(
        "answerdotai/ModernBERT-base",
        "ModernBERT base: long texts, code",
        stages=("layers", 22),
        width=768,
        params=149_014_272,
        macs=14_118_027_264,
        licence="Apache-2.0",
        pretrained_on="2 trillion tokens of English text and code",
    ),
    _card(
        "sentence-transformers/all-MiniLM-L6-v2",
        "MiniLM: small, cheap, made for likeness of sentences",
        stages=("encoder.layer", 6),
        width=384,
        params=22_565_376,
        macs=1_358_954_496,
        licence="Apache-2.0",
        pretrained_on="1.17 billion pairs of English sentences",
    ),
    _card(
        "openai-community/gpt2",
        "GPT-2 small: a decoder, read at its last token",
        stages=("h", 12),
        width=768,
        params=124_439_808,
        macs=10_871_635_968,
        licence="MIT",
        pretrained_on="WebText: 40 GB of English web pages",
        pooling="last",
    ),
    _card(
        "google-t5/t5-small",
        "T5 small, its encoder alone",
        stages=("block", 6),
        width=512,
        params=35_330_816,
        macs=2_415_919_104,
        licence="Apache-2.0",
        pretrained_on="C4: 750 GB of English web pages, and many tasks",
    ),
)
