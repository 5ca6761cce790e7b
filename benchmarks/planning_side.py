"""Cases of `benchmarks/planning.py`, one after the other in one process: what each was planned to take, and took.

python benchmarks/planning_side.py JOBS.json RESULTS.jsonl        (started by benchmarks/planning.py)
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from sft_job import Job
from sft_packs import JobPacks, repeating
from transformers import AutoConfig, AutoModelForCausalLM

import open_r1.grpo
import open_r1.sft
from open_r1.config import GRPOConfig, SFTConfig, parse, solve_batch
from open_r1.machine.cards import card_named
from open_r1.model.memory import device_memory
from open_r1.planning.memory import step_memory
from open_r1.planning.reading import read_model
from open_r1.planning.situation import Machine
from open_r1.training.step import TrainingStep

ROOT = Path(__file__).resolve().parents[1]
MEAN_LENGTH = 5500
GRPO = {
    "dataset_name": str(ROOT / "tests" / "data" / "gsm8k_train_64.jsonl"),
    "reward_funcs": f"{ROOT}/benchmarks/grpo_job.py:chance",
    "gold_check": False,
    "max_resample_rounds": 0,
}


class Finished(BaseException):
    """All steps that were asked for have been taken; not an error that a run would handle."""


class Watch:
    """Counts steps, and notes the most that each held.

    Attributes:
        before: bytes that were held before the run, or are an engine's.
        peaks: (allocated, reserved) of each step.
        runtimes: those that the run made, to be closed.
    """

    def __init__(self, steps: int) -> None:
        self.before = allocated()
        self.peaks: list[tuple[int, int]] = []
        self.runtimes: list[Any] = []
        self._steps = steps

    def patch(self, stack: ExitStack, program: Any) -> None:
        """Until ``stack`` is closed."""
        start, take = program.start_run, TrainingStep.__call__

        def started(config: Any) -> Any:
            self.runtimes.append(start(config))
            return self.runtimes[-1]

        def taken(step: TrainingStep, *arguments: Any) -> Any:
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            reading = take(step, *arguments)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
                self.peaks.append((torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()))
            else:
                self.peaks.append((0, 0))
            if len(self.peaks) == self._steps:
                raise Finished
            return reading

        stack.enter_context(mock.patch.object(program, "start_run", started))
        stack.enter_context(mock.patch.object(TrainingStep, "__call__", taken))
        if program is open_r1.grpo:
            build = program.build_engine

            def built(*arguments: Any) -> Any:
                held = allocated()
                engine = build(*arguments)
                self.before += allocated() - held
                return engine

            stack.enter_context(mock.patch.object(program, "build_engine", built))


def allocated() -> int:
    """Bytes that PyTorch's allocator holds for tensors."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def run(told: dict[str, Any]) -> dict[str, Any]:
    """One case; what was predicted and measured, or ``error``."""
    began, result = time.perf_counter(), {"case": told["case"]}
    program = open_r1.sft if told["program"] == "sft" else open_r1.grpo
    watch = Watch(told["steps"])
    try:
        arguments = arguments_of(told)
        result |= predicted(told, arguments)
        with ExitStack() as stack:
            watch.patch(stack, program)
            stack.enter_context(made_or_stored(told))
            if program is open_r1.sft:
                stack.enter_context(made_up_tokens(told))
            program.main(arguments)
        result["error"] = "the run ended before its last step"
    except Finished:
        pass
    except BaseException as error:
        traceback.print_exc()
        result["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if watch.peaks and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        result |= {
            "allocated_gb": (max(peak for peak, _ in watch.peaks) - watch.before) / 1e9,
            "reserved_gb": max(reserved for _, reserved in watch.peaks) / 1e9,
            "before_gb": watch.before / 1e9,
            "device_gb": (total - free) / 1e9,
        }
    for runtime in watch.runtimes:
        runtime.close()
    return result | {"steps": len(watch.peaks), "seconds": time.perf_counter() - began}


def arguments_of(told: dict[str, Any]) -> list[str]:
    """The command line."""
    settings = {
        "model_name_or_path": told["model"],
        "dataset_name": f"{told['folder']}/unused.jsonl",
        "output_dir": told["folder"],
        "overwrite_output_dir": True,
        "max_steps": told["steps"] + 2,
        "save_strategy": "no",
        "plan": "off",  # it would say the same, and stop what is meant to be measured
        **(GRPO if told["program"] == "grpo" else {}),
        **told["settings"],
    }
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def predicted(told: dict[str, Any], arguments: list[str]) -> dict[str, Any]:
    """What the plan says, from settings and config.json."""
    kind = SFTConfig if told["program"] == "sft" else GRPOConfig
    config = parse(kind, arguments, prog=f"open-r1 {told['program']}").config
    if kind is GRPOConfig:
        config = solve_batch(config, 1)
    on_gpu = told["device"] == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    memory = device_memory(torch.device("cuda")) if on_gpu else None
    machine = Machine(name=name, memory=memory, card=card_named(name) if on_gpu else None)
    plan = step_memory(config, read_model(config), machine)
    how = [config.optim, plan.recompute, "compiled" if plan.compiled else "eager", f"{plan.tokens:,}"]
    return {
        "run": ", ".join(how),
        "predicted_gb": plan.parts.total / 1e9,
        "planned_peak_gb": plan.peak / 1e9,
        "shown_gb": plan.shown / 1e9,
        "parts_gb": {part: round(value / 1e9, 2) for part, value in vars(plan.parts).items()},
        "engine_gb": plan.engine and plan.engine.engine / 1e9,
        "drawing_gb": plan.drawing / 1e9,
    }


@contextmanager
def made_or_stored(told: dict[str, Any]) -> Iterator[None]:
    """Random weights of the shape: made where the run loads them, or stored before it does."""
    folder = Path(told["model"])

    def make(dtype: torch.dtype, attention: str | None = None) -> Any:
        torch.manual_seed(0)
        with torch.device(told["device"]):
            return AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(folder), dtype=dtype, attn_implementation=attention
            )

    if told["stored"]:
        if not any(folder.glob("*.safetensors")):
            model = make(torch.bfloat16)
            model.save_pretrained(folder, max_shard_size="2GB")
            del model
            tidy()
        yield
        return

    def from_pretrained(_name: str, *, dtype: Any, attn_implementation: str | None = None, **_: Any) -> Any:
        return make(
            torch.bfloat16 if dtype == "auto" else getattr(torch, str(dtype).removeprefix("torch.")),
            attn_implementation,
        )

    with mock.patch.object(AutoModelForCausalLM, "from_pretrained", from_pretrained):
        yield


@contextmanager
def made_up_tokens(told: dict[str, Any]) -> Iterator[None]:
    """Sequences such as those of `benchmarks/sft.py`, in the place of a data set."""
    settings = told["settings"]
    length, batch = settings["max_length"], settings["per_device_train_batch_size"]
    job = Job(
        system="ours",
        shape=told["config"],
        length=length,
        packs=2 * batch,
        batch=batch,
        warmup=0,
        steps=told["steps"],
        profile=False,
        device=told["device"],
        dtype="bfloat16",
        mean=min(MEAN_LENGTH, max(64, length // 3)),
        settings={},
        folder=told["folder"],
        gate="",
    )
    packs = JobPacks(job)
    with (
        mock.patch.object(open_r1.sft, "prepare_tokens", lambda *_, **__: (packs.store, None)),
        mock.patch.object(open_r1.sft, "SFTSource", repeating(job)),
    ):
        yield


def tidy() -> None:
    """Frees what nothing refers to any more, compiled code too."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    """Reads the jobs, does them, writes a line for each."""
    results = Path(sys.argv[2])
    for told in json.loads(Path(sys.argv[1]).read_text()):
        answer = run(told)
        tidy()
        shutil.rmtree(told["folder"], ignore_errors=True)
        with results.open("a") as file:
            file.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # engines leave threads behind


if __name__ == "__main__":
    here = str(Path(__file__).resolve().parent)
    sys.path = [entry for entry in sys.path if entry != here]  # files here would shadow libraries (`evaluate`)
    main()
