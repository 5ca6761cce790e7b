"""Training on short sequences on a CPU: the attention of packs beside its two rivals, in one run.

    python benchmarks/pack_attention.py [--model recipes/demo/base] [--tokens 8192] [--threads 2]

Forward and backward of the same sequences (lengths of the demo's traces, 30 to 120 tokens):

* ``packed``: one pack, attention by groups of similar length (this project).
* ``dense mask``: one pack, SDPA with a dense document mask.
* ``padded``: a [B, T] batch padded to the longest, as TRL without padding_free trains.

Prints one JSON line of tokens (without padding) a second, the best of ``--repeats``; losses agree to 1e-4.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from open_r1.data.pack import TrainingSequence, make_pack
from open_r1.model.load import load_model
from open_r1.model.pack_model import PackModel


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="recipes/demo/base")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = PackModel(load_model(arguments.model, dtype="float32"))
    rng = np.random.default_rng(0)
    lengths = []
    while sum(lengths) < arguments.tokens:
        lengths.append(int(rng.integers(30, 120)))
    vocabulary = model.causal_lm.config.vocab_size
    sequences = [rng.integers(0, vocabulary, length) for length in lengths]
    pack = make_pack([TrainingSequence(ids, np.ones(len(ids), np.float32)) for ids in sequences])
    padded = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    labels = torch.full_like(padded, -100)
    for row, ids in enumerate(sequences):
        padded[row, : len(ids)] = labels[row, : len(ids)] = torch.from_numpy(ids)

    def packed(implementation: str) -> torch.Tensor:
        model.causal_lm.set_attn_implementation(implementation)
        return -model(pack).logprobs.mean()

    def in_rows() -> torch.Tensor:
        model.causal_lm.set_attn_implementation("sdpa")
        logits = model.causal_lm(padded, attention_mask=(labels != -100).long()).logits[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)

    runs: dict[str, Callable[[], torch.Tensor]] = {
        "packed": lambda: packed("open_r1"),
        "dense mask": lambda: packed("sdpa"),
        "padded": in_rows,
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    losses = {}
    for _ in range(arguments.repeats):
        for name, run in runs.items():
            model.zero_grad()
            start = time.perf_counter()
            loss = run()
            loss.backward()
            seconds[name].append(time.perf_counter() - start)
            losses[name] = loss.item()
    assert max(losses.values()) - min(losses.values()) < 1e-4, losses
    rate = {name: round(sum(lengths) / min(times)) for name, times in seconds.items()}
    print(json.dumps({"tokens": sum(lengths), "threads": arguments.threads, "tokens_per_second": rate}))


if __name__ == "__main__":
    main()
