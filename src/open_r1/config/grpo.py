"""Reinforcement learning with verifiable rewards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from open_r1.config.batch_arithmetic import BatchConfig
from open_r1.config.data import DataConfig
from open_r1.config.model import ModelConfig
from open_r1.config.no_effect import GRPO_NO_EFFECT, GRPO_NOT_OFFERED, TRAINING_NO_EFFECT, TRAINING_NOT_OFFERED
from open_r1.config.policy_loss import PolicyLossConfig
from open_r1.config.rollouts import RolloutConfig
from open_r1.config.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
    Range,
    Settings,
)
from open_r1.config.training import TrainingConfig
from open_r1.config.watch import WatchConfig
from open_r1.errors import UserError


@dataclass(kw_only=True)
class RewardConfig(Settings):
    """Rewards"""

    reward_funcs: list[str] = field(default_factory=lambda: ["accuracy", "format"])
    """Names of rewards, or import paths of your own as module:function."""

    reward_weights: list[float] | None = None
    """Weight of each reward; unset weighs each 1."""

    cosine_min_value_wrong: float = 0.0
    """Cosine reward of a wrong answer of no length."""

    cosine_max_value_wrong: float = -0.5
    """Cosine reward of a wrong answer of cosine_max_len."""

    cosine_min_value_correct: float = 0.5
    """Cosine reward of a right answer of cosine_max_len."""

    cosine_max_value_correct: float = 1.0
    """Cosine reward of a right answer of no length."""

    cosine_max_len: PositiveInt = 1000
    """Length at which the cosine reward ends."""

    repetition_n_grams: PositiveInt = 3
    """Words in an n-gram of the repetition penalty."""

    repetition_max_penalty: Annotated[float, Range(-float("inf"), 0)] = -1.0
    """Repetition penalty of a text that only repeats itself, at most 0."""

    max_completion_len: PositiveInt = 16384
    """Tokens at which soft_overlong_punishment reaches -1."""

    soft_punish_cache: PositiveInt = 4096
    """Tokens before max_completion_len at which soft_overlong_punishment starts."""

    code_language: str = "python"
    """Language of the fenced block that code rewards take, where the data names none."""

    code_provider: str = "local"
    """Where code rewards run programs: local, piston, e2b or morph."""

    ioi_provider: str | None = None
    """Where ioi_code runs programs; unset is code_provider."""

    e2b_router_url: str | None = None
    """host:port of a router that shares out E2B sandboxes among jobs."""

    morph_router_url: str | None = None
    """host:port of a router that shares out Morph sandboxes among jobs."""

    code_eval_test_batch_size: PositiveInt = 1
    """Tests of one program run at once; the first batch with a failure is the last."""

    code_eval_scoring_mode: Literal["pass_fail", "partial", "weighted_sum"] = "weighted_sum"
    """How cf_code scores tests."""

    parallel_code_exec_per_proc: PositiveInt = 2
    """Programs that one process runs at once."""

    reward_timeout: PositiveFloat = 10.0
    """Seconds that one answer may take to be scored before its worker is killed."""

    reward_workers: PositiveInt | None = None
    """Processes that score answers; unset takes one a core, and leaves one free beside a GPU."""

    gold_check: bool = True
    """Run the rewards on the data's own gold answers before training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.reward_funcs:
            raise UserError("reward_funcs is empty: name at least one reward")
        if self.reward_weights is not None and len(self.reward_weights) != len(self.reward_funcs):
            raise UserError(
                f"reward_weights has {len(self.reward_weights)} values for {len(self.reward_funcs)} reward_funcs "
                f"({', '.join(self.reward_funcs)}): give one weight for each"
            )
        if self.soft_punish_cache >= self.max_completion_len and "soft_overlong_punishment" in self.reward_funcs:
            raise UserError(
                f"soft_punish_cache {self.soft_punish_cache} must be smaller than max_completion_len "
                f"{self.max_completion_len}"
            )


@dataclass(kw_only=True)
class GRPOConfig(
    ModelConfig, DataConfig, RewardConfig, PolicyLossConfig, BatchConfig, RolloutConfig, WatchConfig, TrainingConfig
):
    """Reinforcement learning"""

    NO_EFFECT: ClassVar[Mapping[str, str]] = {**TRAINING_NO_EFFECT, **GRPO_NO_EFFECT}
    NOT_OFFERED: ClassVar[Mapping[str, tuple[Any, ...]]] = {**TRAINING_NOT_OFFERED, **GRPO_NOT_OFFERED}

    prompt_template: str = "{{ instruction }}"
    """What is asked; {{ instruction }} stands for the prompt of the row."""

    learning_rate: NonNegativeFloat = 1e-6
    """Peak learning rate."""

    max_prompt_length: PositiveInt | None = 512
    """Longest prompt in tokens; unset is no limit."""

    max_completion_length: PositiveInt = 256
    """Longest completion in tokens."""

    temperature: PositiveFloat = 1.0
    """Divides the logits when completions are drawn."""

    top_p: PositiveShare = 1.0
    """Nucleus mass when completions are drawn; 1 is off."""

    top_k: Annotated[int, Range(-1)] | None = 0
    """Most likely tokens kept when completions are drawn; 0, -1 or null is off."""

    drop_zero_signal_groups: bool = True
    """Drop groups whose rewards are all equal, and draw other prompts in their place."""

    max_resample_rounds: NonNegativeInt = 3
    """How often other prompts are drawn in one step."""

    log_completions: bool = False
    """Write a sample of each step's completions to completions.jsonl in output_dir."""

    num_completions_to_print: NonNegativeInt | None = None
    """How many completions of a step are written; unset is one prompt's group."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.top_k = max(self.top_k or 0, 0)
        if not re.search(r"\{\{\s*instruction\s*\}\}", self.prompt_template):
            raise UserError("prompt_template has no {{ instruction }}, so that every prompt would be the same")

    def notes(self) -> list[str]:
        lines = super().notes()
        if self.generation_batch_size is not None:
            lines.append(
                f"generation_batch_size {self.generation_batch_size} is how many completions are decoded at once; a "
                "step trains on per_device_train_batch_size × gradient_accumulation_steps × processes of them"
            )
        return lines


@dataclass(kw_only=True)
class GRPOScriptArguments(DataConfig, RewardConfig):
    """The published project's script arguments of GRPO: data and rewards, without model and trainer."""
