"""Answers to prompts, as data to train on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from open_r1.config.engine import EngineName, VllmConfig, chosen_engine
from open_r1.config.no_effect import GENERATE_NO_EFFECT
from open_r1.config.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
    PublishedSettings,
    alias,
)
from open_r1.errors import UserError


@dataclass(kw_only=True)
class GenerateConfig(VllmConfig, PublishedSettings):
    """Data generation"""

    NO_EFFECT: ClassVar[Mapping[str, str]] = GENERATE_NO_EFFECT

    dataset: str = field(metadata=alias("dataset_name", "hf_dataset"))
    """Hub id, local folder or file of the prompts."""

    model: str = field(metadata=alias("model_name_or_path"))
    """Hub id or local folder of the model, or the name of the served one."""

    dataset_config: str | None = field(default=None, metadata=alias("hf_dataset_config"))
    """Configuration (subset) of the data set on the hub."""

    dataset_split: str = field(default="train", metadata=alias("hf_dataset_split"))
    """Split of the data set."""

    prompt_column: str | None = None
    """Column of the prompt; unset is found by its name."""

    answer_column: str | None = None
    """Column of the gold answer; unset is found by its name."""

    prompt_template: str = "{{ instruction }}"
    """Template of the user's message; {{ instruction }} stands for the prompt."""

    system_prompt: str | None = None
    """System message put before each prompt."""

    chat_template: str | None = None
    """Jinja chat template, or the path of a file that holds one; unset keeps the tokenizer's."""

    revision: str = field(default="main", metadata=alias("model_revision"))
    """Branch, tag or commit of the model on the hub."""

    trust_remote_code: bool = False
    """Run model code that comes with the weights."""

    torch_dtype: Literal["auto", "bfloat16", "float16", "float32"] = field(default="auto", metadata=alias("dtype"))
    """Type of the weights; auto is the one they are saved in (vllm: bfloat16 where that is float32)."""

    temperature: NonNegativeFloat = 0.6
    """Divides the logits; 0 is greedy."""

    top_p: PositiveShare = 0.95
    """Nucleus mass; 1 is off."""

    top_k: NonNegativeInt = 0
    """Most likely tokens kept; 0 is off."""

    max_new_tokens: PositiveInt = 8192
    """Longest answer in tokens."""

    num_generations: PositiveInt = 1
    """Answers to each prompt."""

    limit: PositiveInt | None = field(default=None, metadata=alias("num_samples"))
    """Take only the first prompts."""

    keep: Literal["all", "verified"] = "all"
    """Keep every answer, or only those equal to the gold answer."""

    output: str | None = None
    """JSONL file of the answers; a second start resumes from it. Unset is runs/generate/<data set>.jsonl."""

    output_dataset: str | None = field(default=None, metadata=alias("hf_output_dataset"))
    """Repository on the hub that the answers are pushed to."""

    private: bool = False
    """Make that repository private."""

    overwrite_output: bool = False
    """Start anew instead of resuming from the output file."""

    engine: EngineName = "transformers"
    """What draws the answers: transformers or vllm (the extra of that name) on this machine, or openai, any server that
    speaks that protocol."""

    vllm_server_url: str | None = field(default=None, metadata=alias("base_url"))
    """Address of a server that speaks the OpenAI protocol, such as http://localhost:8000/v1; chooses engine openai."""

    api_key_env: str | None = None
    """Environment variable that holds the server's key; unset is OPENAI_API_KEY at OpenAI itself, elsewhere no key."""

    input_batch_size: PositiveInt = field(default=64, metadata=alias("concurrency"))
    """Prompts decoded at once, or requests in flight at a server."""

    client_replicas: PositiveInt = 1
    """Multiplies the requests in flight at a server."""

    timeout: PositiveFloat = 600.0
    """Seconds that one request to a server may take."""

    retries: NonNegativeInt = 5
    """How often a failed request is sent again, each time after a longer pause."""

    reward_timeout: PositiveFloat = 10.0
    """Seconds that one answer may take to be verified."""

    reward_workers: PositiveInt | None = None
    """Processes that verify answers; unset takes one a core, and leaves one free beside vLLM."""

    seed: NonNegativeInt = 42
    """Seed of the answers."""

    cpu_threads: PositiveInt | None = None
    """Threads on a CPU; unset takes every core."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.engine = chosen_engine(self.engine, self.vllm_server_url, "vllm_server_url")
        if "{{" not in self.prompt_template:
            raise UserError("prompt_template has no {{ instruction }}, so that every prompt would be the same")
        if self.temperature == 0 and self.num_generations > 1:
            raise UserError(f"num_generations {self.num_generations} at temperature 0 gives the same answer each time")
