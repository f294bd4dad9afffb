"""Names of the files that tokenizers are read from."""

FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "spm.model", "sentencepiece*.model"),
    "config.json",
)
"""A folder has some of them; where the tokenizer's own files do not tell its kind, ``config.json`` does."""
