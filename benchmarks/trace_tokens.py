"""Reasoning traces as tokens of a real tokenizer, in one file that `benchmarks/sft.py --tokens FILE` trains on.

    python benchmarks/trace_tokens.py MODEL FILE.npz --rows 300

MODEL is a checkpoint or hub id whose tokenizer and chat template are used; the traces are those of `reasoning_traces`.
What a model is fed decides how much power its matrix products draw, and so their rate: random ids are the worst case.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from reasoning_traces import write_traces
from sft_packs import TOKEN_FIELDS

from open_r1.config import SFTConfig, parse
from open_r1.sft import prepare_tokens
from open_r1.training.setup import load_chat

PROBLEMS = Path(__file__).resolve().parents[1] / "tests" / "data"


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=300)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="traces-") as place:
        folder = Path(place)
        data = write_traces(folder, arguments.rows, PROBLEMS)
        words = ["--model_name_or_path", arguments.model, "--dataset_name", data, "--output_dir", folder / "none"]
        words += ["--token_cache_dir", folder / "tokens", "--max_length", 32768]
        config = parse(SFTConfig, [str(word) for word in words], prog="open-r1 sft").config
        store, _ = prepare_tokens(config, load_chat(config)[1], SimpleNamespace(is_main=True))
        np.savez_compressed(arguments.file, **{name: np.asarray(getattr(store, name)) for name in TOKEN_FIELDS})
    print(f"{arguments.file}: {len(store.input_ids):,} tokens of {len(store.rows):,} traces")


if __name__ == "__main__":
    main()
