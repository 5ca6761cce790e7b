"""Training on groups of answers: a prompt computed with each of its answers beside a prompt computed once, in one run.

    python benchmarks/shared_prompts.py [--shapes 0.5b 1.5b] [--cases 128:8x300 512:8x512 2048:8x1024] [--json FILE]
    python benchmarks/shared_prompts.py --tiny --device cpu

A case is PROMPT:ANSWERSxLENGTH; lengths are drawn from half to one and a half of that. Forward and backward of GRPO's
objective (dapo) over the packs that GRPO makes of ``--groups`` groups, layers compiled on a GPU as in a run. Both are
counted in the tokens that are trained without sharing, so their ratio is that of the time for the same work. Prints a
table, and one JSON line for each shape and case: tokens a second (the best of ``--repeats`` rounds, in turns), tokens
that are computed, packs, peak memory in GiB, and by how much losses and gradients differ.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sft import SHAPES, read_case
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from open_r1.config import GRPOConfig
from open_r1.data.pack import Pack, TrainingSequence, make_pack
from open_r1.model.attention import NAME
from open_r1.model.pack_model import PackModel, padded_sequences
from open_r1.training.grpo_objective import GRPOObjective
from open_r1.training.pack_budget import begins_alike, even_packs, even_shared_packs
from open_r1.training.step import loss_of

CASES = ("128:8x300", "512:8x512", "2048:8x1024")
TINY = ("24:4x30", "96:4x24")
FORWARD = {"temperature": 1.0, "entropy": True}
SETTINGS = {"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o", "reward_funcs": ["accuracy"]}
WARMUP = 2


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=["0.5b", "1.5b"])
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--groups", type=int, default=24)
    parser.add_argument("--pack_length", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and short answers: to see that it runs")
    parser.add_argument("--json", type=Path, help="where to write the lines, too")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.shapes, arguments.cases, arguments.groups, arguments.pack_length = ["tiny"], TINY, 6, 512
    lines = [
        measure(shape, *read(case), arguments) | {"shape": shape, "case": case}
        for shape in arguments.shapes
        for case in arguments.cases
    ]
    print(f"{'shape':6} {'case':>12} {'each':>10} {'once':>10} {'×':>6} {'computed':>9}   (tokens a second)")
    for line in lines:
        each, once = (line[name]["tokens_per_second"] for name in ("each", "once"))
        share = line["once"]["computed"] / line["each"]["computed"]
        print(f"{line['shape']:6} {line['case']:>12} {each:10,} {once:10,} {once / each:6.2f} {share:9.0%}")
    text = "".join(json.dumps(line) + "\n" for line in lines)
    print(text, end="")
    if arguments.json:
        arguments.json.write_text(text)


def read(case: str) -> tuple[int, int, int]:
    """Tokens of a prompt, answers to it, tokens of an answer."""
    prompt, _, rest = case.partition(":")
    answers, _, length = rest.partition("x")
    return int(prompt), int(answers), int(length)


def make_packs(prompt: int, answers: int, answer: int, vocabulary: int, arguments: Any) -> dict[str, list[Pack]]:
    """The same sequences with prompts that are computed with ``each`` answer, and ``once``."""
    chance = np.random.default_rng(0)
    sequences, prompts = [], []
    for _ in range(arguments.groups):
        ids = chance.integers(0, vocabulary, int(chance.integers(prompt // 2, prompt * 3 // 2 + 1)))
        for _ in range(answers):
            size = int(chance.integers(answer // 2, answer * 3 // 2 + 1))
            trained = np.repeat([0.0, 1.0], [len(ids), size]).astype(np.float32)
            sequences.append(
                TrainingSequence(
                    ids=np.concatenate([ids, chance.integers(0, vocabulary, size)]),
                    loss_weight=trained,
                    advantage=trained * np.float32(chance.normal()),
                    behaviour_logprob=trained * np.float32(-np.log(vocabulary)),
                )
            )
            prompts.append(len(ids))
    lengths, prompts = np.array([len(sequence.ids) for sequence in sequences]), np.array(prompts)
    groups, budget = np.repeat(np.arange(arguments.groups), answers), max(arguments.pack_length, int(lengths.max()))
    return {
        "each": [make_pack([sequences[index] for index in pack]) for pack in even_packs(lengths, budget)],
        "once": [
            make_pack([sequences[index] for index in pack], (prompts[pack] * begins_alike(groups[pack])).tolist())
            for pack in even_shared_packs(lengths, prompts, groups, budget)
        ],
    }


def measure(shape: str, prompt: int, answers: int, answer: int, arguments: Any) -> dict[str, Any]:
    """One line: what both ways cost, and how far their results are apart."""
    device = torch.device(arguments.device)
    settings, *_ = read_case(f"{shape}:{arguments.pack_length}")
    torch.manual_seed(0)
    with device:
        config = AutoConfig.for_model(**settings)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.set_attn_implementation(NAME)
    module, objective = PackModel(model).train(), GRPOObjective(GRPOConfig(**SETTINGS))
    packs = make_packs(prompt, answers, answer, settings["vocab_size"], arguments)
    module.full, module.longest = arguments.pack_length, arguments.pack_length // 4
    module.sequences = padded_sequences(max(len(pack.lengths) + 2 for made in packs.values() for pack in made))
    if device.type == "cuda" and not arguments.no_compile:
        module.layers.compile()
    seconds: dict[str, list[float]] = {name: [] for name in packs}
    results: dict[str, tuple[float, list[Tensor]]] = {}
    peaks = dict.fromkeys(packs, 0.0)
    trained = {name: [pack.to(device) for pack in made] for name, made in packs.items()}
    for round_number in range(WARMUP + arguments.repeats):
        for name, made in trained.items():
            module.zero_grad(set_to_none=True)
            took, peaks[name], loss = timed(module, objective, made, device)
            if round_number >= WARMUP:
                seconds[name].append(took)
            if round_number == WARMUP + arguments.repeats - 1:
                results[name] = loss, [parameter.grad.float().cpu() for parameter in module.parameters()]
    tokens = sum(len(pack) for pack in packs["each"])
    apart = sum(float((a - b).norm()) ** 2 for a, b in zip(results["each"][1], results["once"][1], strict=True)) ** 0.5
    norm = sum(float(gradient.norm()) ** 2 for gradient in results["each"][1]) ** 0.5
    line: dict[str, Any] = {
        name: {
            "tokens_per_second": round(tokens / min(seconds[name])),
            "computed": sum(pack.computed for pack in made),
            "packs": len(made),
            "peak_gib": round(peaks[name], 2),
            "loss": results[name][0],
        }
        for name, made in packs.items()
    }
    line |= {"tokens": tokens, "gradients_apart": apart / norm}
    line["device"] = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    del module, model, trained, results
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    torch._dynamo.reset()
    return line


def timed(module: PackModel, objective: GRPOObjective, packs: list[Pack], device: torch.device) -> tuple[float, ...]:
    """Seconds of forward and backward over all packs, the most memory in GiB, the loss."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    start, losses = time.perf_counter(), []
    for pack in packs:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            loss, _ = loss_of(module, pack, objective, FORWARD)
        loss.backward()
        losses.append(loss.detach())
    if device.type == "cuda":
        torch.cuda.synchronize()
    took = time.perf_counter() - start
    return (
        took,
        torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0,
        float(torch.stack(losses).sum()),
    )


if __name__ == "__main__":
    main()
