"""The key under which tokens are kept: equal when rows, tokenizer and chat format say the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow as pa
import tokenizers
import xxhash

from open_r1.data.columns import Columns

if TYPE_CHECKING:
    from datasets import Dataset

    from open_r1.data.chat import ChatFormat

FORMAT = 1
"""To be raised when the same rows are to become other tokens, or other files."""

BATCH_ROWS = 1000


class _HashSink:
    """A file that only hashes what is written to it."""

    closed = False

    def __init__(self) -> None:
        self.hash = xxhash.xxh3_128()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""


def rows_hash(rows: Dataset) -> str:
    """Hash of the content of all rows in order, over Arrow's buffers; where they lie on disk makes no difference."""
    sink = _HashSink()
    for table in rows.with_format("arrow").iter(BATCH_ROWS):
        # Taking all rows copies them into buffers of their own: a slice brings along bits of its neighbours.
        whole = table.replace_schema_metadata(None).take(pa.array(range(len(table)))).combine_chunks()
        with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), whole.schema) as stream:
            stream.write_table(whole)
    return sink.hash.hexdigest()


def token_key(rows: Dataset, chat: ChatFormat, columns: Columns) -> str:
    """The key of the tokens that ``rows`` become, 32 hexadecimal digits."""
    facts = {
        "format": FORMAT,
        "tokenizers": tokenizers.__version__,
        "rows": rows_hash(rows.select_columns(columns.conversation)),
        "columns": str(columns),
        "tokenizer": chat.tokenizer.backend_tokenizer.to_str(),
        "special_tokens": chat.tokenizer.special_tokens_map,
        "template": chat.template.text,
        "end_of_turn": chat.end_of_turn,
        "system_prompt": chat.system_prompt,
    }
    return xxhash.xxh3_128_hexdigest(json.dumps(facts, sort_keys=True, default=str).encode())
