"""The GRPO recipes for one consumer GPU: accepted, their batch solved, and within their card's memory by calculation.

What they really take is measured by `benchmarks/grpo_memory.py`.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from published_shapes import QWEN_0_5B, QWEN_1_5B, QWEN_7B
from transformers import Qwen2Config

from open_r1.config import GRPOConfig, parse, solve_batch
from open_r1.config.training import TORCH_OPTIMIZERS
from open_r1.data.prompts import asked_by
from open_r1.errors import UserError
from open_r1.evaluation.prompts import math_prompt
from open_r1.generation.colocated_memory import ASLEEP, Share
from open_r1.model.layers import LEVELS
from open_r1.model.memory import USABLE
from open_r1.training import warm_up
from open_r1.training.pack_budget import longest_sequence
from open_r1.training.rollout_engine import colocated_share
from open_r1.training.warm_up import choose_packs

RECIPES = Path(__file__).resolve().parents[3] / "recipes"
CONTEXT = 0.6e9
"""Bytes that CUDA takes for itself."""
# Recipe, model, bytes of the card, whether vLLM sleeps, the least that packs hold, the most that is recomputed.
CASES = {
    "0.5b": ("Qwen2.5-0.5B/grpo/config_24gb.yaml", QWEN_0_5B, 24e9, False, 4096, ("none",)),
    "1.5b": ("Qwen2.5-1.5B/grpo/config_24gb.yaml", QWEN_1_5B, 24e9, True, 4096, ("none", "selective")),
    "7b": ("Qwen2.5-7B/grpo/config_lora_48gb.yaml", QWEN_7B, 48e9, True, 4096, ("none",)),
}


class OneGPU:
    """A run of one process on a GPU."""

    shards = (1, 1, 1)
    kind = "single"
    device = torch.device("cuda")
    is_main = False

    def max(self, value: float) -> float:
        return value


def recipe(name: str) -> GRPOConfig:
    words = ["--config", str(RECIPES / name)]
    return solve_batch(parse(GRPOConfig, words, prog="open-r1 grpo").config, 1)


def plan(
    config: GRPOConfig, model: Qwen2Config, memory: float, patch: pytest.MonkeyPatch
) -> tuple[int, str, Share, float]:
    """Tokens of a pack, recomputation, what vLLM gets, and the bytes of a training step, as a run chooses them."""
    patch.setattr(warm_up, "device_memory", lambda _device: int(memory))
    layers = SimpleNamespace(compiled=True, recompute="none")
    pack_model: Any = SimpleNamespace(causal_lm=SimpleNamespace(config=model), layers=layers, full=None)
    pack_model.full, layers.recompute = choose_packs(config, OneGPU(), pack_model)
    share, training = colocated_share(
        config,
        OneGPU(),
        pack_model,
        memory=memory,
        longest=longest_sequence(config),
        sequences=config.vllm_max_num_seqs,
        width=2,
    )
    return pack_model.full, layers.recompute, share, training


@pytest.mark.parametrize("case", CASES)
def test_they_ask_as_they_are_evaluated_and_lose_no_update(case: str) -> None:
    config = recipe(CASES[case][0])
    assert asked_by(config.prompt_template, [{"role": "user", "content": "1 + 1?"}]) == math_prompt("1 + 1?")
    assert config.prompts_per_step * config.num_generations in (256, 512)
    assert config.use_peft or config.optim not in TORCH_OPTIMIZERS


@pytest.mark.parametrize("case", CASES)
def test_the_plan_fits(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, model, card, sleeps, least, levels = CASES[case]
    config, memory = recipe(name), card - CONTEXT
    tokens, level, share, training = plan(config, model, memory, monkeypatch)
    assert tokens >= least and level in levels
    assert share.sleeps is sleeps
    assert training + (ASLEEP if sleeps else share.engine) <= USABLE * memory
    # Of all that is decoded at once, a quarter at their longest, else vLLM takes it in many turns.
    a_token = 2 * 2 * model.num_hidden_layers * model.num_key_value_heads * 64 * (1 if model is QWEN_0_5B else 2)
    assert share.cache >= a_token * longest_sequence(config) * config.vllm_max_num_seqs / 4


def test_what_decides_at_1_5b_is_the_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    name, model, card, *_ = CASES["1.5b"]
    config = recipe(name)
    config.torch_dtype = "float32"
    assert plan(config, model, card - CONTEXT, monkeypatch)[1] == "full"
    config = recipe(name)
    config.optim = "adamw_split"
    with pytest.raises(UserError, match=r"lower --max_completion_length, train with less \(--optim adamw_8bit"):
        plan(config, model, card - CONTEXT, monkeypatch)


@pytest.mark.parametrize(("case", "level"), [("1.5b", "full"), ("7b", "selective")])
def test_beside_an_engine_that_is_awake_more_is_recomputed(
    case: str, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, model, card, *_ = CASES[case]
    config = recipe(name)
    _, asleep, *_ = plan(config, model, card - CONTEXT, monkeypatch)
    config.vllm_enable_sleep_mode = False
    _, awake, share, _ = plan(config, model, card - CONTEXT, monkeypatch)
    assert (awake, share.sleeps) == (level, False)
    assert LEVELS.index(awake) > LEVELS.index(asleep)
