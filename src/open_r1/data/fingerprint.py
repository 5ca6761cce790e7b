"""The key under which tokens are kept: equal when rows, tokenizer and chat format say the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import tokenizers
import xxhash

from open_r1.data.columns import Columns

if TYPE_CHECKING:
    from open_r1.data.chat import ChatFormat
    from open_r1.data.rows import Rows

FORMAT = 3
"""To be raised when the same rows are to become other tokens, or other files."""


def token_key(rows: Rows, chat: ChatFormat, columns: Columns) -> str:
    """The key of the tokens that ``rows`` become, 32 hexadecimal digits."""
    facts = {
        "format": FORMAT,
        "tokenizers": tokenizers.__version__,
        "rows": rows.content_hash(columns.conversation),
        "columns": str(columns),
        "tokenizer": chat.encoder.backend.to_str(),
        "special_tokens": chat.tokenizer.special_tokens_map,
        "template": chat.template.text,
        "end_of_turn": chat.end_of_turn,
        "system_prompt": chat.system_prompt,
    }
    return xxhash.xxh3_128_hexdigest(json.dumps(facts, sort_keys=True, default=str).encode())
