"""Tiny transformers with random weights as folders that ``save_pretrained`` writes, tokenizers included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = "the a lovely dull film that all none of us would like to see again could sit through number was good bad"
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 3, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0},
    "distilbert": {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 2},
}
PLAIN = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
SPECIAL = {"modernbert": ("pad", "bos", "eos", "cls", "sep")}


def tiny(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration at a tiny size, of the same kind."""
    kind = config["model_type"]
    small = {**config, "vocab_size": 120, **SIZES.get(kind, PLAIN)}
    small |= {"embedding_size": 8} if kind == "electra" else {}
    return small | {f"{n}_token_id": i for i, n in enumerate(SPECIAL.get(kind, ()))}


def folder(path: Path, kind: str = "bert", **given: Any) -> Path:
    """Write a network and a tokenizer of whole words, and return the folder."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = AutoConfig.for_model(**tiny({"model_type": kind}), **given)
    AutoModel.from_config(config).save_pretrained(path)
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS.split()])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    ).save_pretrained(path)
    return path
