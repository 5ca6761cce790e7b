"""One side of `benchmarks/grpo.py`, in a process of its own: trains some steps and writes as JSON what they cost.

    python benchmarks/grpo_sides.py JOB.json RESULT.json        (started by benchmarks/grpo.py)

One hook after each optimizer step takes the time on both sides. What belongs to the other sides' same samples
(`Job.record`) is in `grpo_record`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from grpo_job import IMPORTANCE_CAP, LEARNING_RATE, PROMPT_TOKENS, SEED, Job, coin
from grpo_phases import Phases
from grpo_record import Gradients, record_draws, replayed
from torch.optim.optimizer import register_optimizer_step_post_hook

from open_r1.machine.cards import card_named
from open_r1.training.meters import StepMeter

OUR_PHASES = {
    "generate": "seconds_generate",
    "reward": "seconds_reward_wait",
    "logprobs": "seconds_reference",
    "train": "seconds_train",
    "sync": "seconds_sync",
}
WATCHED = 0.05  # seconds between looks at the GPU


class Clock:
    """Called after each optimizer step, whoever's optimizer it is.

    Attributes:
        seconds: from one step to the next, of the steps under the clock.
        memory: bytes taken on the whole GPU after a step, the most of all steps.
    """

    def __init__(self, job: Job, phases: Phases) -> None:
        self._job, self._phases = job, phases
        self._start = self._last = time.perf_counter()
        self._count = 0
        self.first_step = 0.0
        self.seconds: list[float] = []
        self.rows: list[dict[str, float]] = []
        self.memory = 0

    def __call__(self, *_: Any) -> None:
        self._count += 1
        if self._job.device == "cuda":
            # Only at both ends: in between a side may run ahead of the GPU, which is its own affair.
            if self._count in (1, self._job.warmup, self._job.total_steps):
                torch.cuda.synchronize()
            free, total = torch.cuda.mem_get_info()
            self.memory = max(self.memory, total - free)
        now = time.perf_counter()
        row = self._phases.take()
        if self._count == 1:
            self.first_step = now - self._start
        if self._count > self._job.warmup:
            self.seconds.append(now - self._last)
            self.rows.append(row)
        self._last = now


class BusyMeter(threading.Thread):
    """Share of the time in which a kernel ran, as the driver says; None where it does not."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(daemon=True)
        self._clock, self._shares, self._over = clock, [], threading.Event()

    def run(self) -> None:
        with suppress(Exception):  # the binding or the driver is not there
            while not self._over.wait(WATCHED):
                if self._clock.seconds:
                    self._shares.append(torch.cuda.utilization())

    def stop(self) -> float | None:
        """Ends the thread; the mean share, of 1."""
        self._over.set()
        return sum(self._shares) / len(self._shares) / 100 if self._shares else None


def run(job: Job) -> dict[str, Any]:
    """Trains; what it cost, or ``error``."""
    begin = time.perf_counter()
    phases = Phases(job.device)
    clock = Clock(job, phases)
    register_optimizer_step_post_hook(clock)
    on_gpu = job.device == "cuda"
    busy = BusyMeter(clock) if on_gpu else None
    if busy:
        busy.start()
    result: dict[str, Any] = {"versions": {"torch": torch.__version__, "transformers": transformers.__version__}}
    try:
        result |= (train_ours if job.system == "ours" else train_trl)(job, phases)
    except torch.OutOfMemoryError as error:
        result["error"] = f"out of memory: {' '.join(str(error).split())[:200]}"
    except BaseException as error:
        traceback.print_exc()
        result["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    device = torch.cuda.get_device_name() if on_gpu else "cpu"
    result |= {
        "device": device,
        "peak_tflops": (card := card_named(device)) and card.bf16 / 1e12,
        "seconds": clock.seconds,
        "first_step_s": round(clock.first_step, 1),
        "side_s": round(time.perf_counter() - begin, 1),
    }
    result.setdefault("phases", clock.rows)
    if on_gpu:
        result |= {"peak_gib": torch.cuda.max_memory_allocated() / 2**30, "device_gib": clock.memory / 2**30}
    if busy and (share := busy.stop()) is not None:
        result["busy"] = share
    return result


def train_ours(job: Job, phases: Phases) -> dict[str, Any]:
    """`open-r1 grpo` as it is; with a record, its answers come from there and its gradient goes there."""
    import open_r1.grpo

    costs: list[tuple[float, float, float]] = []
    add = StepMeter.add

    def counted(meter: StepMeter, sequences: float, tokens: float, flops: float) -> None:
        costs.append((sequences, tokens, flops))
        add(meter, sequences, tokens, flops)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(StepMeter, "add", counted))
        if job.record:
            replayed(job, stack)
        open_r1.grpo.main(job.arguments())
    lines = [json.loads(line) for line in Path(job.folder, "run", "metrics.jsonl").read_text().splitlines()]
    timed = lines[job.warmup :]
    return {
        "losses": [line["loss"] for line in lines],
        "grad_norms": [line["grad_norm"] for line in lines],
        "rewards": [line["reward"] for line in lines],
        "mismatch": [line.get("mismatch") for line in lines],
        "completion_tokens": [line["completion_length"] * job.answers for line in timed],
        "trained_tokens": [tokens for _, tokens, _ in costs[job.warmup :]],
        "flops": sum(flops for _, _, flops in costs[job.warmup :]),
        "phases": our_phases(lines)[job.warmup :],
    }


def our_phases(lines: list[dict[str, float]]) -> list[dict[str, float]]:
    """Seconds of each phase of each step."""
    return [{name: line[key] for name, key in OUR_PHASES.items() if key in line} for line in lines]


def train_trl(job: Job, phases: Phases) -> dict[str, Any]:
    """TRL's GRPOTrainer on the same prompts in the same order, with the same reward function."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer
    from trl import __version__ as trl_version

    from open_r1.rewards import accuracy_reward

    rows = [json.loads(line) for line in Path(job.rows).read_text().splitlines()]
    order = json.loads(Path(job.rows).with_suffix(".order").read_text())
    settings = {"vllm_gpu_memory_utilization": 0.3, "use_liger_kernel": False, **job.settings}
    attention = settings.pop("attention")
    vllm = {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_max_model_length": PROMPT_TOKENS + job.completion,
        "vllm_importance_sampling_mode": "token_truncate",
        "vllm_importance_sampling_clip_max": IMPORTANCE_CAP,
    }
    dtype = "float32" if job.dtype == "autocast" else job.dtype
    config = GRPOConfig(
        output_dir=f"{job.folder}/run",
        per_device_train_batch_size=job.micro_batch,
        gradient_accumulation_steps=job.accumulation,
        num_generations=job.group,
        max_completion_length=job.completion,
        temperature=1.0,
        top_p=1.0,
        loss_type="dapo",
        beta=0.0,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_steps=job.total_steps,
        max_grad_norm=1.0,
        optim="adamw_torch_fused" if job.device == "cuda" else "adamw_torch",
        bf16=job.dtype == "autocast",
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        shuffle_dataset=False,
        seed=SEED,
        use_cpu=job.device == "cpu",
        model_init_kwargs={"dtype": dtype, "attn_implementation": attention},
        **(vllm if job.vllm else {}),
        **{name: value for name, value in settings.items() if job.vllm or not name.startswith("vllm_")},
    )
    drawn: list[tuple[list[int], list[int]]] = []  # of each step: completion lengths, whole lengths
    draw = GRPOTrainer._generate_and_score_completions

    def counted(trainer: Any, inputs: Any) -> Any:
        output = draw(trainer, inputs)
        completions = output["completion_mask"].sum(1)
        drawn.append((completions.tolist(), (completions + output["prompt_mask"].sum(1)).tolist()))
        return output

    with ExitStack() as stack:
        phases.of_trl(stack)
        stack.enter_context(mock.patch.object(GRPOTrainer, "_generate_and_score_completions", counted))
        if job.record:
            record_draws(job, stack)
        trainer = GRPOTrainer(
            model=job.model,
            reward_funcs=accuracy_reward if job.reward == "accuracy" else coin,
            args=config,
            train_dataset=Dataset.from_list([rows[index] for index in order]),
        )
        meter = StepMeter(trainer.model, 1)
        with Gradients(trainer.model.named_parameters, job.record, "trl") if job.record else ExitStack():
            trainer.train()
    timed = drawn[job.warmup :]
    lines = [line for line in trainer.state.log_history if "loss" in line]
    differences = "sampling/sampling_logp_difference/mean"
    return {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl_version},
        "losses": [float(line["loss"]) for line in lines],
        "grad_norms": [float(line["grad_norm"]) for line in lines],
        "rewards": [float(line["reward"]) for line in lines],
        "mismatch": [float(line[differences]) if differences in line else None for line in lines],
        "completion_tokens": [sum(completions) for completions, _ in timed],
        "trained_tokens": [sum(lengths) for _, lengths in timed],
        "flops": sum(meter.flops_of(lengths) for _, lengths in timed),
    }


def main(train: Callable[[Job], dict[str, Any]]) -> None:
    """Reads the job, writes the result, and ends without waiting for the threads that engines leave behind."""
    here = str(Path(__file__).resolve().parent)
    sys.path = [entry for entry in sys.path if entry != here]  # files here would shadow libraries (`evaluate`)
    answer = train(Job(**json.loads(Path(sys.argv[1]).read_text())))
    Path(sys.argv[2]).write_text(json.dumps(answer))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(run)
