"""The size of GRPO's packs by what fits, and packs of one size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2Config

from open_r1.config import GRPOConfig
from open_r1.data.packing import best_fit
from open_r1.generation.colocated_memory import ASLEEP
from open_r1.model.layers import LEVELS
from open_r1.model.memory import ModelShape
from open_r1.training.pack_budget import (
    choose_pack,
    engine_bytes,
    even_packs,
    even_shared_packs,
    frozen_bytes,
    large_packs,
    may_sleep,
    pack_sizes,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MEMORY = 80 * 2**30


def settings(**more: Any) -> GRPOConfig:
    common = {"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o", "reward_funcs": ["accuracy"]}
    common |= {"max_prompt_length": 512, "max_completion_length": 512}
    common |= {"per_device_train_batch_size": 64, "gradient_accumulation_steps": 1}
    return GRPOConfig(**(common | more))


def test_a_cpu_and_the_person_decide() -> None:
    assert pack_sizes(settings(), CPU) == [4096]
    assert pack_sizes(settings(max_completion_length=8000), CPU) == [8512]
    for device in (CPU, GPU):
        assert pack_sizes(settings(pack_length=6000), device) == [6000]
        assert pack_sizes(settings(pack_length=6000, max_completion_length=8000), device) == [8512]


def test_a_gpu_has_halves_that_hold_the_longest_sequence() -> None:
    assert pack_sizes(settings(), GPU) == [16_384, 8192, 4096, 2048, 1024]
    assert pack_sizes(settings(max_completion_length=4096), GPU) == [16_384, 8192, 4608]
    assert pack_sizes(settings(max_completion_length=32_768), GPU) == [36_864]  # the next of eight sizes an octave
    assert pack_sizes(settings(max_prompt_length=None, max_completion_length=16_384), GPU) == [16_384]


def test_no_larger_than_a_step() -> None:
    few = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    assert pack_sizes(settings(**few, num_generations=4), GPU)[0] == 4096
    assert pack_sizes(settings(**few, num_generations=4, max_completion_length=600), GPU)[0] == 8192


SIZES = [16_384, 8192, 4096, 2048, 1024]
COST = {"none": 4, "selective": 2, "full": 1}


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (4 * 16_384, (16_384, "none")),
        (4 * 16_384 - 1, (8192, "none")),
        (4 * 4096, (4096, "none")),
        (4 * 4096 - 1, (4096, "selective")),  # not 2,048 tokens
        (16_383, (4096, "selective")),
        (2 * 4096 - 1, (4096, "full")),
        (4095, (2048, "full")),
        (10, (1024, "full")),
    ],
)
def test_halves_go_before_recomputation_down_to_4096(memory: int, expected: tuple[int, str]) -> None:
    assert choose_pack(SIZES, LEVELS, lambda tokens, level: tokens * COST[level] <= memory) == expected


def test_long_sequences_and_a_level_that_is_given() -> None:
    assert large_packs(SIZES) == SIZES[:3] and large_packs([2048, 1024]) == [2048]
    assert choose_pack([36_864], LEVELS, lambda _tokens, level: level == "selective") == (36_864, "selective")
    assert choose_pack(SIZES, ["selective"], lambda tokens, level: tokens * COST[level] < 3000) == (1024, "selective")


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return ModelShape.of(
        Qwen2Config(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=500,
        )
    )


def test_what_a_colocated_engine_is_left(shape: ModelShape) -> None:
    assert engine_bytes(settings(), shape, 2, MEMORY) == 0
    assert engine_bytes(settings(use_vllm=True, vllm_mode="server"), shape, 2, MEMORY) == 0
    assert engine_bytes(settings(use_vllm=True, vllm_enable_sleep_mode=True), shape, 2, MEMORY) == ASLEEP
    assert engine_bytes(settings(use_vllm=True, vllm_gpu_memory_utilization=0.25), shape, 2, MEMORY) == 20 * 2**30
    cache = 64 * 1024 * 2 * 3 * 32 * 2  # completions, tokens, keys and values, layers, width, bytes
    assert engine_bytes(settings(use_vllm=True), shape, 2, MEMORY) == 2 * shape.parameters + 2.5 * 2**30 + cache / 4
    assert may_sleep(settings()) and not may_sleep(settings(async_steps=1))
    assert not may_sleep(settings(vllm_enable_sleep_mode=False))


def test_copies_that_do_not_train(shape: ModelShape) -> None:
    def copies(**more: Any) -> float:
        return frozen_bytes(settings(**more), shape, torch.bfloat16) / shape.parameters

    assert copies() == 0
    assert copies(beta=0.1) == 4 and copies(beta=0.1, torch_dtype="auto") == 2
    assert copies(beta=0.1, use_peft=True) == 0  # the policy with its adapters off
    assert copies(beta=0.1, async_steps=1) == 8
    assert copies(async_steps=1, use_vllm=True) == 0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("longest", [300, 1024, 4000])
def test_packs_of_one_size(seed: int, longest: int) -> None:
    lengths = np.random.default_rng(seed).integers(60, longest + 1, 400)
    packs, fewest = even_packs(lengths, 16_384), best_fit(lengths, 16_384)
    assert sorted(np.concatenate(packs)) == list(range(400))
    assert len(packs) == len(fewest)
    sizes = [int(lengths[pack].sum()) for pack in packs]
    assert max(sizes) <= 16_384
    if longest < 2000 and len(packs) > 4:
        assert min(sizes) > 0.75 * 16_384  # all of them the full size to compiled layers


def test_a_pack_or_none() -> None:
    assert [list(pack) for pack in even_packs(np.array([5, 3]), 10)] == [[0, 1]]
    assert [sorted(pack) for pack in even_packs(np.array([9, 8]), 10)] == [[0], [1]]


def computed(members: np.ndarray, lengths: np.ndarray, prompts: np.ndarray, groups: np.ndarray) -> int:
    again = np.diff(groups[members], prepend=-1) == 0
    return int((lengths[members] - again * prompts[members]).sum())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("prompt", "answer", "budget"), [(100, 300, 16_384), (512, 512, 16_384), (2048, 1024, 8192)])
def test_packs_in_which_a_prompt_counts_once(seed: int, prompt: int, answer: int, budget: int) -> None:
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(40), random.integers(1, 9, 40))
    prompts = random.integers(prompt // 2, prompt, 40)[groups]
    lengths = prompts + random.integers(1, answer, len(groups))
    packs = even_shared_packs(lengths, prompts, groups, budget)
    assert sorted(np.concatenate(packs)) == list(range(len(groups)))
    sizes = [computed(pack, lengths, prompts, groups) for pack in packs]
    assert max(sizes) <= budget
    whole = computed(np.arange(len(groups)), lengths, prompts, groups)
    assert sum(sizes) - whole <= (len(packs) - 1) * prompt  # at each end of a pack one prompt goes on at most
    assert len(packs) <= np.ceil(whole / (budget - prompt - answer))
    if len(packs) > 4 and budget > 8192:
        assert min(sizes) > 0.75 * budget  # all of them the full size to compiled layers
    for pack in packs:
        assert (np.diff(groups[pack]) >= 0).all()  # sequences of a group are together


def test_groups_stay_whole_where_they_fit() -> None:
    groups, prompts = np.array([0, 0, 0, 1, 1, 1]), np.array([4, 4, 4, 2, 2, 2])
    lengths = prompts + np.array([1, 3, 2, 5, 1, 2])
    assert [list(pack) for pack in even_shared_packs(lengths, prompts, groups, 20)] == [[1, 2, 0, 3, 5, 4]]
    # 4 + 3 + 2 + 1 and 2 + 5 + 2 + 1 tokens.
    assert [list(pack) for pack in even_shared_packs(lengths, prompts, groups, 11)] == [[1, 2, 0], [3, 5, 4]]
    # 4 + 3 and 4 + 2 + 1: one prompt in both.
    assert [list(pack) for pack in even_shared_packs(lengths[:3], prompts[:3], groups[:3], 8)] == [[1], [2, 0]]
