"""Evaluation of a model on tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from open_r1.config.engine import EngineName, ServerConfig, VllmConfig, chosen_engine
from open_r1.config.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
    Settings,
    alias,
)
from open_r1.errors import UserError


@dataclass(kw_only=True)
class SamplingConfig(Settings):
    """Sampling"""

    num_samples: PositiveInt | None = None
    """Answers to each problem; unset is the task's own number."""

    temperature: NonNegativeFloat = 0.6
    """Divides the logits; 0 is greedy."""

    top_p: PositiveShare = 0.95
    """Nucleus mass; 1 is off."""

    top_k: NonNegativeInt = 0
    """Most likely tokens kept; 0 is off."""

    greedy: bool = False
    """Take the most likely token each time: the same as temperature 0."""

    max_new_tokens: PositiveInt = 32768
    """Longest answer in tokens, cut to the model's context."""

    seed: NonNegativeInt = 42
    """Seed of the answers; each one's own follows from it, the problem and the sample (vllm, openai: as far as they
    keep to it)."""


@dataclass(kw_only=True)
class VerificationConfig(Settings):
    """Verification"""

    reward_timeout: PositiveFloat = 10.0
    """Seconds that one answer may take to be checked."""

    reward_workers: PositiveInt | None = None
    """Processes that check answers; unset takes one a core, and leaves one free beside vLLM."""


@dataclass(kw_only=True)
class EvaluateConfig(SamplingConfig, VerificationConfig, VllmConfig, ServerConfig):
    """Evaluation"""

    model: str = field(metadata=alias("model_name_or_path"))
    """Hub id or local folder of the model, or the name of the served one."""

    tasks: list[str]
    """Tasks by name (open-r1 tasks lists them), name=path.jsonl for a local copy, problems=path.jsonl for your own."""

    engine: EngineName = "transformers"
    """What draws the answers: transformers or vllm (the extra of that name) on this machine, or openai, any server that
    speaks that protocol."""

    limit: PositiveInt | None = None
    """Take only the first problems of each task."""

    output_dir: str | None = None
    """Folder of results; unset is runs/evaluate/<model>."""

    overwrite_output_dir: bool = False
    """Start anew in a folder that already holds answers instead of resuming."""

    revision: str = field(default="main", metadata=alias("model_revision"))
    """Branch, tag or commit of the model on the hub."""

    torch_dtype: Literal["auto", "bfloat16", "float16", "float32"] = field(default="auto", metadata=alias("dtype"))
    """Type of the weights; auto is the one they are saved in (vllm: bfloat16 where that is float32)."""

    trust_remote_code: bool = False
    """Run model code that comes with the weights."""

    system_prompt: str | None = None
    """System message put before each problem."""

    chat_template: str | None = None
    """Jinja chat template, or the path of a file that holds one; unset keeps the tokenizer's."""

    batch_size: PositiveInt | None = None
    """Answers decoded at once; unset is chosen from memory."""

    cpu_threads: PositiveInt | None = None
    """Threads on a CPU; unset takes every core."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.engine = chosen_engine(self.engine, self.base_url, "base_url")
        if not self.tasks:
            raise UserError("tasks is empty: name at least one, such as --tasks gsm8k,math_500")
        if self.greedy:
            self.temperature = 0.0
        if self.temperature == 0 and (self.num_samples or 1) > 1:
            raise UserError(f"num_samples {self.num_samples} at temperature 0 gives the same answer each time: set 1")
