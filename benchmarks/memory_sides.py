"""One case of `benchmarks/memory.py`, in a process of its own: trains some steps and writes as JSON what they cost.

python benchmarks/memory_sides.py JOB.json RESULT.json        (started by benchmarks/memory.py)
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import sft_sides
import torch
from sft_job import Job
from sft_packs import JobPacks
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from open_r1.config import GRPOConfig, SFTConfig
from open_r1.model.memory import estimate_memory
from open_r1.parallel.runtime import Runtime
from open_r1.training.warm_up import describe_work

Train = Callable[[Job, JobPacks, Any, dict[str, Any]], None]


def limited(train: Train, allowed: float) -> Train:
    """``train`` with the allocator capped to so many bytes; its peaks go into the result, however it ends."""

    def run(job: Job, packs: JobPacks, make_model: Any, result: dict[str, Any]) -> None:
        if job.device == "cpu":
            train(job, packs, make_model, result)
            return
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total))
        try:
            train(job, packs, make_model, result)
        finally:
            free, total = torch.cuda.mem_get_info()
            statistics = torch.cuda.memory_stats()
            result |= {
                "allocated_gb": torch.cuda.max_memory_allocated() / 1e9,
                "reserved_gb": torch.cuda.max_memory_reserved() / 1e9,
                "outside_gb": (total - free - torch.cuda.memory_reserved()) / 1e9,
                "retries": statistics["num_alloc_retries"],
                "failures": statistics["num_ooms"],
            }

    return run


@contextmanager
def predicting(result: dict[str, Any], command: ModuleType) -> Iterator[None]:
    """Puts what a run of `open_r1.sft` or `open_r1.grpo` was predicted to take into the result, and how it went about
    it.
    """
    seen: list[tuple[SFTConfig | GRPOConfig, Runtime, nn.Module]] = []
    warm_up = command.warm_up

    def predict(config: SFTConfig | GRPOConfig, runtime: Runtime, module: nn.Module) -> None:
        pack_model = runtime.unwrap(module)
        level = pack_model.layers.recompute
        parts = estimate_memory(*describe_work(config, runtime, pack_model), level)
        result.update(
            optimizer=config.optim,
            recompute=level,
            compiled=pack_model.layers.compiled,
            predicted_gb=parts.total / 1e9,
            parts_gb={name: round(value / 1e9, 2) for name, value in vars(parts).items()},
        )

    def watched(config: SFTConfig | GRPOConfig, runtime: Runtime, module: nn.Module, *more: Any) -> None:
        seen.append((config, runtime, module))
        if runtime.device.type == "cuda":
            result["loaded_gb"] = torch.cuda.memory_allocated() / 1e9
            result["loading_gb"] = torch.cuda.max_memory_allocated() / 1e9
            torch.cuda.reset_peak_memory_stats()  # `transformers` claims a model's size for a moment
        warm_up(config, runtime, module, *more)
        predict(config, runtime, module)

    try:
        with mock.patch.object(command, "warm_up", watched):
            yield
    finally:
        for one in seen:
            predict(*one)  # more may be recomputed by now


def train_made(job: Job, packs: JobPacks, make_model: Any, result: dict[str, Any]) -> None:
    """`open-r1 sft` on weights that are made."""
    import open_r1.sft

    with predicting(result, open_r1.sft):
        _train_ours(job, packs, make_model, result)


def train_stored(job: Job, packs: JobPacks, _make_model: Any, result: dict[str, Any]) -> None:
    """`open-r1 sft` on a checkpoint: only its tokens come from elsewhere."""
    import open_r1.sft

    try:
        tokens = mock.patch.object(open_r1.sft, "prepare_tokens", lambda *_, **__: (packs.store, None))
        with predicting(result, open_r1.sft), tokens:
            open_r1.sft.main(job.arguments(**job.settings))
    finally:
        metrics = Path(job.folder, "run", "metrics.jsonl")
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        result["losses"] = [json.loads(line)["loss"] for line in lines]


def write_checkpoint(job: Job, folder: str) -> dict[str, Any]:
    """Random bf16 weights of the job's shape beside the configuration in ``folder``."""
    parent = os.getppid()
    while not Path(job.gate).exists():
        if os.getppid() != parent:
            sys.exit("the benchmark has ended")
        time.sleep(0.02)
    began = time.perf_counter()
    torch.manual_seed(0)
    with torch.device(job.device):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=getattr(torch, job.dtype))
    model.save_pretrained(folder, max_shard_size="2GB")
    return {"seconds": time.perf_counter() - began}


_train_ours, _train_trl = sft_sides.train_ours, sft_sides.train_trl


def main() -> None:
    """Reads a job, does it, writes the result."""
    told = json.loads(Path(sys.argv[1]).read_text())
    job, allowed, checkpoint = Job(**told["job"]), told["allowed"], told["checkpoint"]
    if job.system == "checkpoint":
        answer = write_checkpoint(job, checkpoint)
    else:
        sft_sides.train_ours = limited(train_stored if checkpoint else train_made, allowed)
        sft_sides.train_trl = limited(_train_trl, allowed)
        answer = sft_sides.run(job)
    Path(sys.argv[2]).write_text(json.dumps(answer))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # no final save, no waiting for data loaders


if __name__ == "__main__":
    here = str(Path(__file__).resolve().parent)
    sys.path = [entry for entry in sys.path if entry != here]  # files here would shadow libraries (`evaluate`)
    main()
