"""Commands and recipes that people already have are accepted as they are."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from open_r1.config import GenerateConfig, GRPOConfig, SFTConfig, parse
from open_r1.config.no_effect import (
    GRPO_NO_EFFECT,
    GRPO_NOT_OFFERED,
    SFT_NO_EFFECT,
    SFT_NOT_OFFERED,
    TRAINING_NO_EFFECT,
    TRAINING_NOT_OFFERED,
)
from open_r1.config.settings import names_of
from open_r1.configs import DatasetConfig, DatasetMixtureConfig, GRPOScriptArguments, ScriptArguments

# Section 2 of the specification, each key with a value that recipes give it.
SFT_KEYS = """
model_name_or_path: Qwen/Qwen2.5-1.5B-Instruct
model_revision: main
torch_dtype: bfloat16
attn_implementation: flash_attention_2
trust_remote_code: true
dataset_config: default
dataset_mixture: {datasets: [{id: a, config: null, split: train, columns: [messages], weight: 0.5}], seed: 0}
dataset_num_proc: 48
bf16: true
fp16: false
do_eval: false
eval_strategy: 'no'
eval_steps: 100
gradient_accumulation_steps: 1
gradient_checkpointing: true
gradient_checkpointing_kwargs: {use_reentrant: false}
hub_model_id: name/model
hub_strategy: every_save
hub_model_revision: v01.00
push_to_hub: true
learning_rate: 1.0e-05
log_level: info
logging_steps: 1
logging_strategy: steps
logging_first_step: true
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs: {min_lr_rate: 0.1}
packing: true
max_length: 32768
max_steps: -1
num_train_epochs: 5
output_dir: data/out
overwrite_output_dir: true
per_device_train_batch_size: 2
per_device_eval_batch_size: 1
report_to: [wandb]
save_strategy: epoch
save_steps: 0.05
save_total_limit: 1
seed: 42
use_liger_kernel: true
warmup_ratio: 0.03
max_grad_norm: 0.2
weight_decay: 0.01
optim: adamw_torch
chat_template: "{{ messages }}"
system_prompt: Be brief.
eos_token: <|im_end|>
benchmarks: [math_500, aime24]
callbacks: [push_to_hub_revision]
wandb_entity: someone
wandb_project: open-r1
wandb_run_group: group
resume_from_checkpoint: true
use_peft: true
lora_r: 16
lora_alpha: 32
lora_dropout: 0.05
lora_target_modules: [q_proj, v_proj]
load_in_4bit: true
""".strip().splitlines()
GRPO_KEYS = """
reward_funcs: [accuracy, format]
reward_weights: [1.0, 0.5]
num_generations: 16
max_prompt_length: 512
max_completion_length: 2048
temperature: 0.7
top_p: 0.95
top_k: 50
beta: 0.0
epsilon: 0.2
epsilon_high: 0.28
num_iterations: 1
loss_type: dr_grpo
scale_rewards: false
mask_truncated_completions: true
use_vllm: true
vllm_mode: colocate
vllm_gpu_memory_utilization: 0.7
vllm_server_host: 10.0.0.1
vllm_server_port: 8000
log_completions: true
num_completions_to_print: 0
dataset_prompt_column: prompt
cosine_min_value_wrong: 0.0
cosine_max_value_wrong: -0.5
cosine_min_value_correct: 0.5
cosine_max_value_correct: 1.0
cosine_max_len: 1000
repetition_n_grams: 3
repetition_max_penalty: -1.0
max_completion_len: 32768
soft_punish_cache: 4096
code_language: cpp
code_provider: e2b
parallel_code_exec_per_proc: 1
code_eval_test_batch_size: 20
code_eval_scoring_mode: weighted_sum
""".strip().splitlines()
SIMPLE_RL = """
model_name_or_path: Qwen/Qwen2.5-Math-7B
torch_dtype: bfloat16
attn_implementation: flash_attention_2
dataset_name: DigitalLearningGmbH/MATH-lighteval
dataset_config: default
system_prompt: |
  Think.

  Then answer.
bf16: true
use_vllm: true
vllm_device: auto
vllm_gpu_memory_utilization: 0.7
do_eval: true
eval_strategy: steps
eval_steps: 100
gradient_accumulation_steps: 8
gradient_checkpointing: true
gradient_checkpointing_kwargs:
  use_reentrant: false
learning_rate: 3.0e-06
lr_scheduler_type: cosine
max_prompt_length: 512
max_completion_length: 1024
num_generations: 8
report_to:
- wandb
reward_funcs:
- accuracy
- format
reward_weights:
- 1.0
- 1.0
save_strategy: 'no'
warmup_ratio: 0.1
output_dir: data/x
"""
ALIASES = ["max_seq_length: 2048", "use_liger: true"]
HARMLESS = """
ddp_timeout: 1800
dataloader_num_workers: 4
remove_unused_columns: false
log_on_each_node: false
bf16_full_eval: true
tf32: true
pad_token: <|endoftext|>
packing_strategy: bfd
wandb_log_unique_prompts: true
vllm_device: auto
hub_always_push: true
save_only_model: true
hub_token: hf_secret
steps_per_generation: 4
local_rank: 0
""".strip().splitlines()


@pytest.mark.parametrize(
    ("cls", "lines"),
    [(SFTConfig, SFT_KEYS), (GRPOConfig, [*SFT_KEYS, *GRPO_KEYS])],
    ids=["sft", "grpo"],
)
def test_every_published_key_is_a_setting(cls: type, lines: list[str], tmp_path: Path) -> None:
    only_sft = ("packing:", "max_length:")
    lines = [line for line in lines if cls is SFTConfig or not line.startswith(only_sft)]
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join(lines))
    parsed = parse(cls, ["--config", str(path)], prog="open-r1")
    for number, line in enumerate(lines, start=1):
        name = names_of(cls).canonical[line.partition(":")[0]]
        assert parsed.origins[name] == f"{path}:{number}"
    assert parsed.config.dataset_mixture.datasets[0].weight == 0.5
    assert parsed.config.lr_scheduler_kwargs == {"min_lr_rate": 0.1}


@pytest.mark.parametrize("line", ALIASES)
def test_aliases(line: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"model_name_or_path: m\ndataset: d\noutput_dir: o\n{line}")
    parse(SFTConfig, ["--config", str(path)], prog="open-r1")


def test_what_a_run_does_not_do_is_said() -> None:
    words = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "my runs/o", "--bf16", "1"]
    config = parse(SFTConfig, words, prog="open-r1").config
    assert config.bf16 is True and config.notes() == []
    words += ["--per_device_eval_batch_size", "16", "--benchmarks", "math_500", "aime24"]
    first, second = sorted(parse(SFTConfig, words, prog="open-r1").config.notes())
    assert "open-r1 evaluate --model 'my runs/o' --tasks math_500 aime24" in first
    assert second.startswith("per_device_eval_batch_size changes nothing: ")


def test_a_home_folder_is_one_wherever_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "recipe.yaml").write_text("model_name_or_path: ~/m\ndataset_name: d~/x\n")
    config = parse(SFTConfig, ["--config=~/recipe.yaml", "--output_dir=~/my runs"], prog="open-r1").config
    assert config.model_name_or_path == f"{tmp_path}/m" and config.output_dir == f"{tmp_path}/my runs"
    assert config.dataset_name == "d~/x"


def test_the_published_sft_command() -> None:
    words = """--model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name HuggingFaceH4/Bespoke-Stratos-17k
        --learning_rate 1.0e-5 --num_train_epochs 1 --packing --max_seq_length 2048 --per_device_train_batch_size 8
        --gradient_accumulation_steps 2 --gradient_checkpointing --bf16 --output_dir data/Qwen2.5-1.5B-Open-R1-Distill
        --eval_strategy no --resume_from_checkpoint data/Qwen2.5-1.5B-Open-R1-Distill/checkpoint-103500"""
    config = parse(SFTConfig, words.split(), prog="sft.py").config
    assert (config.learning_rate, config.num_train_epochs, config.packing) == (1e-5, 1.0, True)
    assert (config.max_length, config.per_device_train_batch_size, config.gradient_accumulation_steps) == (2048, 8, 2)
    assert (config.gradient_checkpointing, config.bf16, config.fp16, config.eval_strategy) == (True, True, False, "no")
    assert config.resume_from_checkpoint == "data/Qwen2.5-1.5B-Open-R1-Distill/checkpoint-103500"


def test_the_published_grpo_command(tmp_path: Path) -> None:
    """The settings of the "simple RL" recipe: 8 answers a prompt, 512 + 1,024 tokens."""
    recipe = tmp_path / "config_simple_rl.yaml"
    recipe.write_text(SIMPLE_RL)
    parsed = parse(GRPOConfig, ["--config", str(recipe)], prog="grpo.py")
    config = parsed.config
    assert (config.num_generations, config.max_completion_length, config.learning_rate) == (8, 1024, 3e-6)
    assert config.system_prompt == "Think.\n\nThen answer.\n"
    assert any(note.startswith("vllm_device has no effect here: ") for note in config.notes())


def test_the_published_generation_command() -> None:
    words = """--dataset AI-MO/NuminaMath-TIR --prompt-column problem --model deepseek-ai/DeepSeek-R1-Distill-Qwen-7B
        --temperature 0.6 --output-dataset name/generated-r1-dataset"""
    config = parse(GenerateConfig, words.split(), prog="generate.py").config
    assert (config.dataset, config.prompt_column) == ("AI-MO/NuminaMath-TIR", "problem")
    assert (config.temperature, config.output_dataset) == (0.6, "name/generated-r1-dataset")


def test_the_older_generation_flags() -> None:
    words = """--hf-dataset d --hf-dataset-config default --hf-dataset-split train --prompt-column problem
        --prompt-template {{instruction}} --model m --vllm-server-url http://localhost:8000/v1 --temperature 0.6
        --top-p 0.95 --max-new-tokens 8192 --num-generations 4 --input-batch-size 64 --client-replicas 2 --timeout 600
        --retries 1 --hf-output-dataset name/out --private --optimization-level 3"""
    config = parse(GenerateConfig, words.split(), prog="generate.py").config
    assert (config.dataset, config.dataset_config, config.output_dataset) == ("d", "default", "name/out")
    assert (config.num_generations, config.client_replicas, config.private) == (4, 2, True)
    assert config.notes() == ["optimization_level has no effect here: it belongs to another server"]


def test_harmless_keys_are_accepted_and_named_once(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    lines = [line for line in HARMLESS if not line.startswith("packing_strategy")]
    path.write_text("\n".join(["model_name_or_path: m", "dataset_name: d", "output_dir: o", *lines]))
    parsed = parse(GRPOConfig, ["--config", str(path)], prog="open-r1 grpo")
    notes = parsed.config.notes()
    for number, line in enumerate(lines, start=4):
        name = line.partition(":")[0]
        assert parsed.origins[name] == f"{path}:{number}"
        assert sum(note.startswith(f"{name} has no effect here: ") for note in notes) == 1
    assert "hf_secret" not in repr(asdict(parsed.config)), "a token is not kept"


def test_keys_that_would_change_training_are_accepted_only_where_they_ask_for_nothing() -> None:
    words = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o"]
    words += ["--neftune_noise_alpha", "none", "--repetition_penalty=1.0", "--sync_ref_model", "false"]
    assert parse(GRPOConfig, words, prog="open-r1 grpo").config.notes() == []


@pytest.mark.parametrize(
    ("cls", "tables"),
    [
        (SFTConfig, (TRAINING_NO_EFFECT, SFT_NO_EFFECT, TRAINING_NOT_OFFERED, SFT_NOT_OFFERED)),
        (GRPOConfig, (TRAINING_NO_EFFECT, GRPO_NO_EFFECT, TRAINING_NOT_OFFERED, GRPO_NOT_OFFERED)),
    ],
)
def test_no_key_is_both_a_setting_and_without_effect(cls: type, tables: tuple) -> None:
    names = [name for table in tables for name in table]
    assert len(names) == len(set(names))
    assert not set(names) & set(names_of(cls).canonical)


def test_notes_name_what_is_handled_differently() -> None:
    config = SFTConfig(
        model_name_or_path="m",
        dataset_name="d",
        output_dir="o",
        use_liger_kernel=True,
        torch_dtype="bfloat16",
        gradient_checkpointing_kwargs={"use_reentrant": True},
        callbacks=["push_to_hub_revision"],
        do_eval=True,
    )
    said = " ".join(config.notes())
    for name in ("use_liger_kernel", "torch_dtype", "use_reentrant", "push_to_hub_revision", "do_eval"):
        assert name in said
    assert SFTConfig(model_name_or_path="m", dataset_name="d", output_dir="o").notes() == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"torch_dtype": "bfloat16"}, "or keep what is rounded away with --optim adamw_split"),
        ({"torch_dtype": "bfloat16", "optim": "adamw_8bit"}, None),
        ({"torch_dtype": "float16", "optim": "adamw_8bit"}, "leave it out for float32 weights"),
        ({"torch_dtype": "bfloat16", "use_peft": True}, None),
    ],
)
def test_weights_that_round_updates_away_are_named(settings: dict[str, Any], said: str | None) -> None:
    notes = SFTConfig(model_name_or_path="m", dataset_name="d", output_dir="o", **settings).notes()
    assert [note.endswith(said) for note in notes] == [True] if said else notes == []


def test_frozen_float16_weights_train_adapters_in_fp16() -> None:
    config = SFTConfig(
        model_name_or_path="m", dataset_name="d", output_dir="o", torch_dtype="float16", fp16=True, use_peft=True
    )
    assert config.notes() == []


@pytest.mark.parametrize(
    ("given", "level"),
    [("true", "full"), ("false", "none"), ("full", "full"), ("selective", "selective"), ("none", "none"), ("", None)],
)
def test_recompute_is_a_scale(given: str, level: str | None) -> None:
    words = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o"]
    flags = ["--gradient_checkpointing", given] if given else []
    assert parse(SFTConfig, [*words, *flags], prog="sft").config.recompute == level


def test_trackers() -> None:
    def trackers(report_to: str | list[str]) -> tuple[str, ...]:
        return SFTConfig(model_name_or_path="m", dataset_name="d", output_dir="o", report_to=report_to).trackers

    assert trackers("none") == trackers(["none"]) == ()
    assert trackers("all") == ("wandb", "tensorboard", "trackio")
    assert trackers(["trackio", "wandb"]) == trackers("trackio, wandb") == ("wandb", "trackio")


def test_script_arguments_stand_on_their_own() -> None:
    with pytest.raises(ValueError, match="Either `dataset_name` or `dataset_mixture` must be provided"):
        ScriptArguments(dataset_name=None, dataset_mixture=None)
    parts = [DatasetConfig(id="a", config=None, split="train", columns=["x"], weight=None), DatasetConfig(id="b")]
    mixture = ScriptArguments(dataset_mixture=asdict(DatasetMixtureConfig(datasets=parts))).dataset_mixture
    assert isinstance(mixture, DatasetMixtureConfig)
    assert mixture.datasets == parts
    with pytest.raises(ValueError, match="Column names must be consistent"):
        ScriptArguments(dataset_mixture={"datasets": [{"id": "a", "columns": ["x"]}, {"id": "b", "columns": ["y"]}]})


def test_grpo_script_arguments_carry_the_published_reward_parameters() -> None:
    args = GRPOScriptArguments(dataset_name="dummy", reward_funcs=["accuracy", "cosine"], cosine_max_len=100)
    assert (args.cosine_min_value_wrong, args.cosine_max_value_wrong) == (0.0, -0.5)
    assert (args.cosine_min_value_correct, args.cosine_max_value_correct, args.cosine_max_len) == (0.5, 1.0, 100)
    assert (args.repetition_n_grams, args.repetition_max_penalty) == (3, -1.0)
    assert (args.max_completion_len, args.soft_punish_cache) == (16384, 4096)
