"""Where the time of drawing goes in the engine that shares GRPO's GPU: by the number of completions that are still
being drawn, by GPU kernel, and by Python function.

    python benchmarks/engine_profile.py --model CHECKPOINT --data gsm8k_train.jsonl

The prompts are drawn four times: to warm up, under the clock, under PyTorch's profiler (steps 40 to 80, when all are
being drawn) and under Python's own, which slows it down by about half: its shares count, not its seconds.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import os
import pstats
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from grpo import VLLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from open_r1.evaluation.prompts import math_prompt
from open_r1.generation.colocated_engine import ColocatedEngine, ColocatedOptions
from open_r1.generation.engine import Request, SamplingParams

PROFILED = range(40, 80)
EDGES = (1024, 768, 512, 256, 128, 64, 32, 0)
ROWS = 30


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a transformers checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="JSON lines of question and answer, as GSM8K has them")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--answers", type=int, default=16, help="to each prompt")
    parser.add_argument("--tokens", type=int, default=512, help="of the longest answer")
    parser.add_argument(
        "--own_stream", action="store_true", help="as where the next answers are drawn while one trains"
    )
    arguments = parser.parse_args()
    engine, requests, params = prepare(arguments)
    draw(engine, requests, params)
    print(steps_by_size(engine, requests, params), flush=True)
    print(kernels(engine, requests, params), flush=True)
    print(functions(engine, requests, params), flush=True)
    engine.close()


def prepare(arguments: argparse.Namespace) -> tuple[ColocatedEngine, list[Request], SamplingParams]:
    """The engine with its weights, and what it is asked."""
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16).to("cuda")
    rows = [json.loads(line) for line in arguments.data.read_text().splitlines()[: arguments.prompts]]
    asked = [
        tuple(tokenizer.apply_chat_template(math_prompt(row["question"]), add_generation_prompt=True)["input_ids"])
        for row in rows
    ]
    requests = [
        Request(number, asked[number // arguments.answers], seed=number)
        for number in range(len(asked) * arguments.answers)
    ]
    options = ColocatedOptions(
        max_model_length=max(map(len, asked)) + arguments.tokens,
        max_num_seqs=len(requests),
        cache_bytes=None,
        memory_share=0.5,
        own_stream=arguments.own_stream,
    )
    engine = ColocatedEngine(str(arguments.model), options, log=Path(tempfile.mkdtemp()) / "vllm.log")
    engine.load_weights(model.named_parameters())
    return engine, requests, SamplingParams(arguments.tokens, 1.0, stop_token_ids=(tokenizer.eos_token_id,))


def draw(engine: ColocatedEngine, requests: list[Request], params: SamplingParams) -> int:
    """All completions; the number of their tokens."""
    return sum(len(completion.token_ids) for completion in engine.generate(requests, params))


def stepping(engine: ColocatedEngine, around: Callable[[Callable[[], Any]], Any]) -> None:
    """Has every step of vLLM called by ``around``."""
    step = type(engine.llm.llm_engine).step.__get__(engine.llm.llm_engine)
    engine.llm.llm_engine.step = lambda: around(step)


def steps_by_size(engine: ColocatedEngine, requests: list[Request], params: SamplingParams) -> str:
    """Seconds and tokens a second by how many completions a step decodes."""
    taken: dict[int, list[float]] = defaultdict(list)
    drawn: dict[int, int] = defaultdict(int)

    def timed(step: Callable[[], Any]) -> Any:
        count, begin = len(running_of(engine)), time.perf_counter()
        result = step()
        edge = next(edge for edge in EDGES if count >= edge)
        taken[edge].append(time.perf_counter() - begin)
        drawn[edge] += count
        return result

    stepping(engine, timed)
    begin = time.perf_counter()
    tokens = draw(engine, requests, params)
    seconds = time.perf_counter() - begin
    lines = [f"{tokens:,} tokens in {seconds:.2f} s: {tokens / seconds:,.0f} tokens/s", ""]
    lines += ["| being drawn | steps | ms a step | seconds | tokens/s |", "| ---: | ---: | ---: | ---: | ---: |"]
    for edge in EDGES:
        if taken[edge]:
            total = sum(taken[edge])
            lines.append(
                f"| ≥ {edge:,} | {len(taken[edge])} | {1000 * total / len(taken[edge]):.2f} | {total:.2f} | "
                f"{drawn[edge] / total:,.0f} |"
            )
    return "\n".join(lines)


def running_of(engine: ColocatedEngine) -> list[Any]:
    """The requests that vLLM's scheduler decodes."""
    return engine.llm.llm_engine.engine_core.engine_core.scheduler.running


def kernels(engine: ColocatedEngine, requests: list[Request], params: SamplingParams) -> str:
    """What the GPU did in the steps `PROFILED`, and how long it had nothing to do."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    profiler = torch.profiler.profile(activities=activities)
    count, begin, seconds = 0, 0.0, 0.0

    def watched(step: Callable[[], Any]) -> Any:
        nonlocal count, begin, seconds
        if count == PROFILED.start:
            torch.cuda.synchronize()
            profiler.start()
            begin = time.perf_counter()
        result = step()
        count += 1
        if count == PROFILED.stop:
            torch.cuda.synchronize()
            seconds = time.perf_counter() - begin
            profiler.stop()
        return result

    stepping(engine, watched)
    draw(engine, requests, params)
    averages = profiler.key_averages()
    busy = sum(event.self_device_time_total for event in averages) / 1e6
    table = averages.table(sort_by="self_cuda_time_total", row_limit=ROWS, max_name_column_width=90)
    return f"GPU busy {busy:.3f} of {seconds:.3f} s in {len(PROFILED)} steps\n{table}"


def functions(engine: ColocatedEngine, requests: list[Request], params: SamplingParams) -> str:
    """Python's own time by function."""
    profiler = cProfile.Profile()

    def watched(step: Callable[[], Any]) -> Any:
        return profiler.runcall(step)

    stepping(engine, watched)
    draw(engine, requests, params)
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(2 * ROWS)
    return text.getvalue()


if __name__ == "__main__":
    for name, value in VLLM.items():
        os.environ.setdefault(name, value)
    main()
