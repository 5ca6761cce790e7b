"""What every run of `benchmarks/distributed.py` starts from: a model of random weights, rows, and their tokens.

python benchmarks/distributed_inputs.py FOLDER SHAPE DEVICE LENGTH PACKS      (started by benchmarks/distributed.py)
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from sft import TOKENIZER, read_case
from transformers import AutoConfig, AutoModelForCausalLM

from open_r1.config import SFTConfig, parse
from open_r1.sft import prepare_tokens
from open_r1.training.setup import load_chat

SPREAD = 0.75  # standard deviation of the lengths' logarithm
WORDS = ("so", "then", "we", "have", "that", "is", "the", "sum", "of", "both", "and", "thus", "half", "as", "much")


def main(folder: Path, shape: str, device: str, length: int, packs: int) -> None:
    """Writes ``model/``, ``rows.jsonl`` and ``tokens/`` into ``folder``.

    Args:
        shape: a name of `sft.SHAPES`.
        length: tokens of a pack; the rows fill about ``packs`` of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / "model", shape, device)
    write_rows(folder / "rows.jsonl", mean=length // 3, tokens=length * packs)
    arguments = ["--model_name_or_path", folder / "model", "--dataset_name", folder / "rows.jsonl"]
    arguments += ["--token_cache_dir", folder / "tokens", "--output_dir", folder / "none", "--max_length", length]
    config = parse(SFTConfig, [str(word) for word in arguments], prog="open-r1 sft").config
    prepare_tokens(config, load_chat(config)[1], SimpleNamespace(is_main=True))


def write_model(folder: Path, shape: str, device: str) -> None:
    """Seeded random weights, stored in bf16."""
    folder.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TOKENIZER / name, folder)
    (folder / "config.json").write_text(json.dumps(read_case(f"{shape}:1")[0] | {"dtype": "bfloat16"}))
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    model.save_pretrained(folder)


def write_rows(path: Path, mean: int, tokens: int) -> None:
    """Seeded prompts and completions with lognormal lengths; the sums in them are something that can be learnt."""
    rng = np.random.default_rng(0)
    rows, written = [], 0
    while written < tokens:
        wanted = int(rng.lognormal(np.log(mean) - SPREAD**2 / 2, SPREAD))
        parts, characters = [], 0
        while characters < wanted * 5 // 4:  # of which the tokenizer makes about `wanted` tokens
            a, b = rng.integers(0, 100, 2).tolist()
            parts.append(f"{WORDS[rng.integers(len(WORDS))]} {a}+{b}={a + b}. ")
            characters += len(parts[-1])
        rows.append({"prompt": f"{parts[0]}?", "completion": "".join(parts)})
        written += wanted
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
