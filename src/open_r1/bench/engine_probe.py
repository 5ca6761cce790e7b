"""Child process: completions that an engine draws from a model with random weights; none ends before its length."""

from __future__ import annotations

import importlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from open_r1.bench.cases import SFTCase
from open_r1.bench.gate import wait_for_gate
from open_r1.bench.sft_probe import random_model
from open_r1.errors import UserError
from open_r1.generation.colocated_engine import IN_PROCESS, ColocatedEngine, ColocatedOptions
from open_r1.generation.colocated_memory import cache_bytes_per_token
from open_r1.generation.engine import Request, SamplingParams, TrainableEngine
from open_r1.generation.transformers_engine import TransformersEngine
from open_r1.generation.vllm_process import ENVIRONMENT
from open_r1.machine.answer import Answer
from open_r1.model.published import SHAPES, write_config

GROUP = 8
"""Completions of a prompt, as `open-r1 grpo` asks for them."""
WARM_UP_TOKENS = 16


def main() -> None:
    """Tells ``engine``: its name, ``tokens`` drawn, ``seconds``, ``start`` (until it was up); or ``failed``."""
    answer = Answer()
    asked = answer.asked
    if asked["vllm"]:
        answer.begin("import vLLM")
        for name, value in (ENVIRONMENT | IN_PROCESS).items():
            os.environ.setdefault(name, value)
        _ = importlib.import_module("vllm").LLM  # what takes long is imported only when it is asked for
    wait_for_gate(answer)
    started = time.perf_counter()
    answer.begin("starting the engine")
    try:
        engine = _vllm(asked) if asked["vllm"] else _transformers(asked)
    except UserError as error:
        answer.say(failed=str(error))
        return
    start = time.perf_counter() - started
    requests = make_requests(asked["sequences"], asked["prompt"], SHAPES[asked["shape"]].vocabulary)
    answer.begin("warming up")
    draw(engine, requests, WARM_UP_TOKENS)
    answer.begin("drawing")
    began = time.perf_counter()
    tokens = draw(engine, requests, asked["tokens"])
    seconds = time.perf_counter() - began
    answer.say(at="", engine={"tokens": tokens, "seconds": seconds, "start": start})
    os._exit(0)  # vLLM may take long to end, and nothing of it is needed any more


def make_requests(sequences: int, prompt: int, vocabulary: int) -> list[Request]:
    """Seeded prompts of ``prompt`` random ids, in groups of `GROUP` alike."""
    rng = np.random.default_rng(0)
    prompts = [tuple(rng.integers(3, vocabulary, prompt).tolist()) for _ in range(-(-sequences // GROUP))]
    return [Request(number, prompts[number // GROUP], seed=number) for number in range(sequences)]


def draw(engine: TrainableEngine, requests: list[Request], tokens: int) -> int:
    """Draws ``tokens`` tokens for each request; how many there were."""
    return sum(len(completion.token_ids) for completion in engine.generate(requests, SamplingParams(tokens)))


def _vllm(asked: dict[str, Any]) -> ColocatedEngine:
    shape, longest = SHAPES[asked["shape"]], asked["prompt"] + asked["tokens"]
    folder = write_config(shape, Path(asked["folder"]) / "model", asked["dtype"])
    a_token = cache_bytes_per_token(shape.layers, shape.key_value_heads * shape.head_size, 2)
    options = ColocatedOptions(
        max_model_length=longest,
        max_num_seqs=asked["sequences"],
        cache_bytes=int(1.05 * a_token * asked["sequences"] * longest),
        dtype=asked["dtype"],
    )
    return ColocatedEngine(str(folder), options, log=Path(asked["folder"]) / "vllm.log")


def _transformers(asked: dict[str, Any]) -> TransformersEngine:
    case = SFTCase(asked["shape"], 0, 0, 0)
    model = random_model(case, asked["dtype"], torch.device(asked["device"]))
    return TransformersEngine(model, pad_token_id=0, batch_size=asked["sequences"])


if __name__ == "__main__":
    main()
