"""Command lines and YAML files become typed settings whose origin is known."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from open_r1.config import GRPOConfig, Parsed, RunConfig, SFTConfig, parse, parse_mapping
from open_r1.errors import UserError

REQUIRED = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o"]


def sft(*words: str) -> SFTConfig:
    return parse(SFTConfig, [*REQUIRED, *words], prog="open-r1 sft").config


def grpo(*words: str) -> GRPOConfig:
    return parse(GRPOConfig, [*REQUIRED, *words], prog="open-r1 grpo").config


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def sft_recipe(folder: Path, text: str, *words: str) -> Parsed[SFTConfig]:
    return parse(SFTConfig, ["--config", str(recipe(folder, text)), *REQUIRED, *words], prog="open-r1 sft")


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--learning_rate", "1.0e-5"], "learning_rate", 1e-5),
        (["--learning_rate", "1e-5"], "learning_rate", 1e-5),
        (["--learning-rate=3"], "learning_rate", 3.0),
        (["--max_steps", "-1"], "max_steps", -1),
        (["--max_steps", "1e3"], "max_steps", 1000),
        (["--packing"], "packing", True),
        (["--packing", "false"], "packing", False),
        (["--no_packing"], "packing", False),
        (["--no-packing"], "packing", False),
        (["--packing=True"], "packing", True),
        (["--max_seq_length", "4096"], "max_length", 4096),
        (["--use-liger"], "use_liger_kernel", True),
        (["--dataset_prompt_column", "problem"], "prompt_column", "problem"),
        (["--resume_from_checkpoint"], "resume_from_checkpoint", True),
        (["--resume_from_checkpoint", "data/checkpoint-5"], "resume_from_checkpoint", "data/checkpoint-5"),
        (["--save_steps", "0.05"], "save_steps", 0.05),
        (["--save_steps", "50"], "save_steps", 50),
        (["--lora_target_modules", "q_proj", "v_proj"], "lora_target_modules", ["q_proj", "v_proj"]),
        (["--lora_target_modules", "q_proj,v_proj"], "lora_target_modules", ["q_proj", "v_proj"]),
        (["--lora_target_modules", "all-linear"], "lora_target_modules", "all-linear"),
        (["--benchmarks", "gsm8k"], "benchmarks", ["gsm8k"]),
        (["--benchmarks", "[gsm8k, math_500]"], "benchmarks", ["gsm8k", "math_500"]),
        (["--lr_scheduler_kwargs", '{"num_cycles": 0.5}'], "lr_scheduler_kwargs", {"num_cycles": 0.5}),
        (["--lr_scheduler_kwargs", "{num_cycles:", "5e-1}"], "lr_scheduler_kwargs", {"num_cycles": 0.5}),
        (["--system_prompt", "- be brief"], "system_prompt", "- be brief"),
        (["--system_prompt", "none"], "system_prompt", None),
        (["--hub_model_revision", "1.0"], "hub_model_revision", "1.0"),
        (["--seed", "1", "--seed", "2"], "seed", 2),
    ],
)
def test_flags_are_read_as_their_types(words: list[str], name: str, value: Any) -> None:
    read = getattr(sft(*words), name)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("learning_rate: 1e-5", "learning_rate", 1e-5),
        ("learning_rate: '1e-5'", "learning_rate", 1e-5),
        ("num_train_epochs: 3", "num_train_epochs", 3.0),
        ("eval_strategy: no", "eval_strategy", "no"),
        ("eval_strategy: 'no'", "eval_strategy", "no"),
        ("save_strategy: false", "save_strategy", "no"),
        ("max-seq-length: 100", "max_length", 100),
        ("report_to:\n- wandb\n- trackio", "report_to", ["wandb", "trackio"]),
        ("report_to: none", "report_to", "none"),
        ("lr_scheduler_kwargs: {num_cycles: 5e-1}", "lr_scheduler_kwargs", {"num_cycles": 0.5}),
        ("save_total_limit: null", "save_total_limit", None),
        ("benchmarks: gsm8k", "benchmarks", ["gsm8k"]),
        ("do_eval: true\ndo_eval: true", "do_eval", True),
        ("<<: {seed: 7}", "seed", 7),
    ],
)
def test_yaml_is_read_as_its_types(line: str, name: str, value: Any, tmp_path: Path) -> None:
    read = getattr(sft_recipe(tmp_path, line).config, name)
    assert read == value
    assert type(read) is type(value)


def test_lists_of_numbers_and_names() -> None:
    config = grpo("--reward_funcs", "accuracy", "format", "--reward_weights", "1.0", "0.5")
    assert (config.reward_funcs, config.reward_weights) == (["accuracy", "format"], [1.0, 0.5])
    config = grpo("--reward_funcs", "accuracy,mine:score", "--reward_weights=1,2")
    assert (config.reward_funcs, config.reward_weights) == (["accuracy", "mine:score"], [1.0, 2.0])


@pytest.mark.parametrize(
    ("given", "read"), [("true", "group"), ("false", "none"), ("batch", "batch"), ("none", "none"), ("group", "group")]
)
def test_scale_rewards_takes_a_bool_or_a_name(given: str, read: str) -> None:
    assert grpo("--scale_rewards", given).scale_rewards == read


def test_flags_override_the_recipe_and_origins_are_kept(tmp_path: Path) -> None:
    path = recipe(tmp_path, "# comment\nlearning_rate: 4.0e-05\nmax_seq_length: 100\n\nseed: 3\n")
    parsed = parse(SFTConfig, [f"--config={path}", *REQUIRED, "--max_length", "200"], prog="open-r1 sft")
    assert (parsed.config.learning_rate, parsed.config.max_length, parsed.config.seed) == (4e-5, 200, 3)
    assert parsed.origins["learning_rate"] == f"{path}:2"
    assert parsed.origins["seed"] == f"{path}:5"
    assert parsed.origins["max_length"] == "flag"
    assert parsed.origins["packing"] == "default"


def test_a_mapping_is_parsed_as_strictly() -> None:
    values = {"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o", "max-seq-length": "64"}
    parsed = parse_mapping(SFTConfig, values, where="pipeline.yaml: stage sft")
    assert (parsed.config.max_length, parsed.origins["max_length"]) == (64, "pipeline.yaml: stage sft")
    with pytest.raises(
        UserError, match=r"^pipeline.yaml: stage sft: pakcing: unknown setting; did you mean packing\?$"
    ):
        parse_mapping(SFTConfig, {**values, "pakcing": True}, where="pipeline.yaml: stage sft")


def test_the_pipeline_is_the_word_without_a_flag() -> None:
    for words in (["p.yaml", "--dry_run", "--from", "sft"], ["--from_stage", "sft", "--dry-run", "p.yaml"]):
        config = parse(RunConfig, words, prog="open-r1 run").config
        assert (config.pipeline, config.from_stage, config.dry_run) == ("p.yaml", "sft", True)


def test_a_mixture_in_yaml(tmp_path: Path) -> None:
    text = """
model_name_or_path: m
output_dir: o
dataset_mixture:
  datasets:
    - {id: a, columns: [messages], weight: 0.5}
    - {id: b, config: c, split: test, columns: [messages], weight: 1}
  seed: 3
  test_split_size: 0.1
"""
    mixture = parse(SFTConfig, ["--config", str(recipe(tmp_path, text))], prog="open-r1 sft").config.dataset_mixture
    assert (mixture.seed, mixture.test_split_size) == (3, 0.1)
    assert [(part.id, part.config, part.split, part.weight) for part in mixture.datasets] == [
        ("a", None, "train", 0.5),
        ("b", "c", "test", 1.0),
    ]


def test_importing_and_parsing_need_no_library() -> None:
    """Neither torch nor anything else that is slow is imported; yaml only when there is YAML to read."""
    script = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "numpy", "datasets", "yaml", "rich", "accelerate"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Refuse())
from open_r1.config import GRPOConfig, parse
import open_r1.cli, open_r1.configs
words = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o", "--bf16", "--beta", "0.1"]
assert parse(GRPOConfig, words, prog="x").config.beta == 0.1
"""
    subprocess.run([sys.executable, "-c", script], check=True)
