"""The GRPO recipes of Qwen2.5-0.5B: they are accepted, and ask as they say that they ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from open_r1.config import GRPOConfig, parse
from open_r1.config.training import TORCH_OPTIMIZERS
from open_r1.data.prompts import asked_by
from open_r1.evaluation.prompts import math_prompt
from open_r1.rewards.registry import get_reward_funcs

RECIPES = Path(__file__).resolve().parents[3] / "recipes" / "Qwen2.5-0.5B" / "grpo"


def recipe(name: str) -> GRPOConfig:
    return parse(GRPOConfig, ["--config", str(RECIPES / name)], prog="open-r1 grpo").config


def test_training_asks_word_for_word_what_evaluation_asks() -> None:
    config = recipe("config.yaml")
    problem = r"What is \frac{1}{2} of {x}, {{ in words }}?"
    assert asked_by(config.prompt_template, [{"role": "user", "content": problem}]) == math_prompt(problem)
    assert config.system_prompt is None


def test_r1_zero_asks_for_the_form_that_it_rewards() -> None:
    config = recipe("config_r1_zero.yaml")
    form = config.system_prompt.partition("format: ")[2]
    rewards = get_reward_funcs(config)
    assert [reward([[{"role": "assistant", "content": form}]], solution=["1"]) for reward in rewards[1:]] == [[1.0]] * 2


@pytest.mark.parametrize("name", sorted(path.name for path in RECIPES.glob("*.yaml")))
def test_small_updates_are_not_rounded_away(name: str) -> None:
    config = recipe(name)
    exact = config.torch_dtype is None or config.optim not in TORCH_OPTIMIZERS
    assert exact and (config.bf16 or config.torch_dtype), "so small an update is lost on a bf16 weight"
    assert config.prompts_per_step * config.num_generations in (512, 1024)
