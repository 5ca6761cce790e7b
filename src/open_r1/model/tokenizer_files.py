"""Which files of a checkpoint make its tokenizer; read without torch."""

from __future__ import annotations

from pathlib import Path

VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken", "tekken.json")
"""Any of these holds the tokens; tokenizer_config.json and special_tokens_map.json name special ones only."""

MISSING = "tokenizer.json is missing; copy it from the model that this one was made from"


def has_vocabulary(folder: Path) -> bool:
    """Whether a checkpoint's folder holds a file with the tokens of its tokenizer."""
    return any(next(folder.glob(pattern), None) for pattern in VOCABULARIES)
