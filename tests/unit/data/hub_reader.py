"""A process that reads a data set as SFT does and says what it found: libraries read the hub's address when imported.

python hub_reader.py TOKENIZER CACHE NAME [split=train] …
"""

from __future__ import annotations

import json
import sys
import time

from transformers import PreTrainedTokenizerFast

from open_r1.config import DataConfig
from open_r1.data.chat import ChatFormat
from open_r1.data.columns import find_columns
from open_r1.data.sft_rows import load_sft_rows
from open_r1.data.tokens import sample_lengths, tokenize
from open_r1.errors import UserError

time.sleep = lambda seconds: None  # between its attempts the hub's client would wait for half a minute


def main(tokenizer: str, cache: str, name: str, *settings: str) -> dict[str, object]:
    chat = ChatFormat(PreTrainedTokenizerFast.from_pretrained(tokenizer))
    given = dict(setting.split("=") for setting in settings)
    try:
        rows = load_sft_rows(DataConfig(dataset_name=name, **given))
        train = rows["train"]
        columns = find_columns(train.column_names)
        sample = sample_lengths(train, chat, columns)
        store = tokenize(train, chat, columns, cache_dir=cache, num_proc=1)
    except UserError as error:
        return {"error": str(error)}
    return {
        "kind": type(train).__name__,
        "said": str(train),
        "splits": list(rows),
        "sampled": len(sample),
        "cached": store.cached,
        "rows": len(store),
        "tokens": store.input_ids.tolist(),
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
