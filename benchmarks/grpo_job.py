"""What one side of `benchmarks/grpo.py` is to do."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from typing import Any

LEARNING_RATE = 1e-6
SEED = 42
PROMPT_TOKENS = 1024
LONG = 2048
"""Tokens of an answer from which on a step takes half a minute on an H200, and TRL's a whole one."""
IMPORTANCE_CAP = 2.0
"""Of the weights that correct for the engine's numbers, token by token: that of `training.grpo_objective`."""


@dataclass(frozen=True)
class Job:
    """One side of one case.

    Attributes:
        system: "ours" or "trl".
        model: a transformers checkpoint.
        rows: JSON lines of ``prompt`` (messages) and ``solution``, in the order in which both sides draw them.
        prompts, group, completion: prompts of a step, answers to each, and their longest in tokens.
        micro_batch: answers of a micro-batch; ours cuts by tokens instead (``pack_length`` in ``settings``).
        reward: "accuracy", or "coin" for a model that never is right.
        warmup, steps: optimizer steps before the clock starts, and under it.
        dtype: of the weights; "autocast" is float32 weights that are computed with in bf16.
        vllm: answers are drawn by vLLM in the same process, else by transformers.
        settings: further settings, by the names that the system has for them.
        folder: where the side may write.
        record: a file for what the first step drew; the other side's job is to learn from it instead of drawing.
    """

    system: str
    model: str
    rows: str
    prompts: int
    group: int
    completion: int
    micro_batch: int
    reward: str
    warmup: int
    steps: int
    device: str
    dtype: str
    vllm: bool
    settings: dict[str, Any]
    folder: str
    record: str | None = None

    @property
    def answers(self) -> int:
        """Answers of a step."""
        return self.prompts * self.group

    @property
    def accumulation(self) -> int:
        """Micro-batches of a step."""
        return self.answers // self.micro_batch

    @property
    def total_steps(self) -> int:
        """Steps with warm-up."""
        return self.warmup + self.steps

    def arguments(self) -> list[str]:
        """The command line of `open-r1 grpo` for this job."""
        settings: dict[str, Any] = {
            "model_name_or_path": self.model,
            "dataset_name": self.rows,
            "output_dir": f"{self.folder}/run",
            "overwrite_output_dir": True,
            "reward_funcs": "accuracy" if self.reward == "accuracy" else f"{__file__}:{self.reward}",
            "num_generations": self.group,
            "per_device_train_batch_size": self.micro_batch,
            "gradient_accumulation_steps": self.accumulation,
            "max_prompt_length": PROMPT_TOKENS,
            "max_completion_length": self.completion,
            "temperature": 1.0,
            "loss_type": "dapo",
            "beta": 0.0,
            "drop_zero_signal_groups": False,
            "learning_rate": LEARNING_RATE,
            "lr_scheduler_type": "constant",
            "max_steps": self.total_steps,
            "logging_steps": 1,
            "save_strategy": "no",
            "seed": SEED,
            "gold_check": self.reward == "accuracy",
            **({"bf16": True} if self.dtype == "autocast" else {"torch_dtype": self.dtype}),
            **({"use_vllm": True, "vllm_mode": "colocate"} if self.vllm else {}),
            **self.settings,
        }
        return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def steps_of(completion: int, warmup: int | None, steps: int | None) -> tuple[int, int]:
    """Steps before the clock starts and under it, where they are not given: few for answers of `LONG` tokens."""
    usual = (1, 2) if completion >= LONG else (3, 8)
    return usual[0] if warmup is None else warmup, usual[1] if steps is None else steps


def coin(completions: list[Any], **_: Any) -> list[float]:
    """A reward without meaning that splits every group: whether the checksum of an answer's text is even."""
    return [float(zlib.crc32(completion[0]["content"].encode()) % 2 == 0) for completion in completions]


def chance(completions: list[Any], **_: Any) -> list[float]:
    """A random reward: it splits every group, whatever the answers are."""
    return [random.random() for _ in completions]
