"""Configurations of the curated text networks, so that no card needs a file to be built: what differs from defaults."""

from __future__ import annotations

from typing import Any

_MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
_ROBERTA = {"vocab_size": 50_265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
_DEBERTA_V3 = {
    "vocab_size": 128_100,
    "relative_attention": True,
    "position_buckets": 256,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
    "pad_token_id": 0,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "bert-base-uncased": {"model_type": "bert"},
    "bert-large-uncased": {
        "model_type": "bert",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
    "roberta-base": {"model_type": "roberta", "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, **_ROBERTA},
    "distilbert-base-uncased": {"model_type": "distilbert"},
    "electra-small-discriminator": {
        "model_type": "electra",
        "embedding_size": 128,
        "hidden_size": 256,
        "num_hidden_layers": 12,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    },
    "electra-base-discriminator": {
        "model_type": "electra",
        "embedding_size": 768,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "deberta-v3-small": {"model_type": "deberta-v2", "hidden_size": 768, "num_hidden_layers": 6, **_DEBERTA_V3}
    | {"num_attention_heads": 12, "intermediate_size": 3072},
    "deberta-v3-base": {"model_type": "deberta-v2", "hidden_size": 768, "num_hidden_layers": 12, **_DEBERTA_V3}
    | {"num_attention_heads": 12, "intermediate_size": 3072},
    "ModernBERT-base": {"model_type": "modernbert"},
    "all-MiniLM-L6-v2": {"model_type": "bert", **_MINILM},
    "gpt2": {"model_type": "gpt2"},
    "t5-small": {"model_type": "t5"},
}
