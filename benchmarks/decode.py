"""Decoding on this machine: our engine beside `transformers`' own `generate()`, the same model and prompts in one run.

    python benchmarks/decode.py [--model recipes/demo/base] [--threads 2]

16 prompts x 8 answers x 64 tokens, no stop token, so both draw the same number of tokens. Prints one JSON line; the two
take turns and each one's best of ``--repeats`` counts.
"""

from __future__ import annotations

import argparse
import json
import random
import time

import torch
from transformers import AutoModelForCausalLM

from open_r1.generation.engine import Request, SamplingParams
from open_r1.generation.transformers_engine import TransformersEngine

PROMPTS, ANSWERS, TOKENS = 16, 8, 64


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="recipes/demo/base")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype).eval().to(device)

    rng = random.Random(0)
    vocabulary = model.config.vocab_size
    prompts = [tuple(rng.randrange(3, vocabulary) for _ in range(rng.randrange(60, 100))) for _ in range(PROMPTS)]
    requests = [Request(number, prompts[number // ANSWERS], seed=number) for number in range(PROMPTS * ANSWERS)]
    engine = TransformersEngine(model, pad_token_id=0, batch_size=len(requests))
    width = max(map(len, prompts))
    padded = torch.tensor([(0,) * (width - len(p)) + p for p in prompts for _ in range(ANSWERS)], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts for _ in range(ANSWERS)], device=device)

    def ours() -> int:
        return sum(len(answer.token_ids) for answer in engine.generate(requests, SamplingParams(TOKENS)))

    @torch.no_grad()
    def theirs() -> int:
        output = model.generate(
            padded,
            attention_mask=mask,
            max_new_tokens=TOKENS,
            do_sample=True,
            top_k=0,
            pad_token_id=0,
            eos_token_id=None,
        )
        return output[:, width:].numel()

    seconds: dict[str, list[float]] = {"open-r1": [], "generate": []}
    for repeat in range(arguments.repeats + 1):
        for name, run in (("open-r1", ours), ("generate", theirs)):
            start = time.perf_counter()
            tokens = run()
            assert tokens == len(requests) * TOKENS
            if repeat:  # the first is warm-up
                seconds[name].append(time.perf_counter() - start)
    rate = {name: round(len(requests) * TOKENS / min(times)) for name, times in seconds.items()}
    result = {"device": device, "threads": arguments.threads, "model": arguments.model, "tokens_per_second": rate}
    print(json.dumps(result | {"ratio": round(rate["open-r1"] / rate["generate"], 2)}))


if __name__ == "__main__":
    main()
