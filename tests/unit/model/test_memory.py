"""Predicted memory beside numbers worked out by hand, and beside what autograd keeps."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from published_shapes import QWEN_0_5B, QWEN_1_5B, QWEN_7B
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3MoeConfig

from open_r1.config import GRPOConfig, SFTConfig
from open_r1.data.pack import TrainingSequence, make_pack
from open_r1.model.attention import NAME
from open_r1.model.layers import LEVELS
from open_r1.model.memory import (
    KEPT,
    ModelShape,
    Workload,
    adapter_parameters,
    choose_recompute,
    device_memory,
    estimate_memory,
)
from open_r1.model.pack_model import PackModel

GB = 1e9


def test_shapes_are_the_published_ones() -> None:
    small, large = ModelShape.of(QWEN_1_5B), ModelShape.of(QWEN_7B)
    assert (small.parameters, small.parameters - small.embedding) == (1_543_714_304, 1_310_340_608)  # 1.54 B, 1.31 B
    assert large.parameters == 7_615_616_512
    assert (small.head, large.head) == (0, 152_064 * 3584)
    assert (small.attention, small.key_value) == (1536, 256)
    assert adapter_parameters(large, 16) == 40_370_176  # PEFT's count for r=16 on all linear layers
    q_and_v = 28 * ((3584 + 3584) + (3584 + 512))
    assert adapter_parameters(large, 8, ["q_proj", "v_proj"]) == 8 * q_and_v


def test_1_5b_in_full_by_hand() -> None:
    """float32 weights, gradients and two moments, 16,384 tokens: 6.2 + 6.2 + 12.3 GB, and the layers' inputs."""
    parts = estimate_memory(ModelShape.of(QWEN_1_5B), Workload(tokens=16_384), "full")
    assert parts.weights == parts.gradients == parts.optimizer / 2 == 4 * 1_543_714_304
    assert parts.activations == 28 * 16_384 * 1536 * 4
    logits = 4096 * 151_936 * 2
    assert parts.head == pytest.approx(logits + 16_384 * 1536 * (4 + 3 * 2 + 4) + 151_936 * 1536 * (4 + 2 + 2))
    assert parts.total == parts.weights + parts.optimizer + parts.gradients + max(parts.head, parts.layer)
    accumulated = estimate_memory(ModelShape.of(QWEN_1_5B), Workload(tokens=16_384, accumulates=True), "full")
    assert accumulated.total == parts.total + parts.activations


def test_7b_with_adapters_by_hand() -> None:
    shape = ModelShape.of(QWEN_7B)
    adapters = adapter_parameters(shape, 16)
    work = Workload(tokens=8192, weight_dtype=torch.bfloat16, adapters=adapters)
    parts = estimate_memory(shape, work, "none")
    assert parts.weights == pytest.approx(15.4 * GB, rel=0.01)  # 15.2 of the model, 0.16 of adapters
    assert parts.gradients == 4 * adapters and parts.optimizer == 8 * adapters
    per_token = 2 * (4 * 3584 + 3 * 18_944 + 2 * 3584 + 2 * 512) + 4 * 28
    assert parts.activations == 28 * 8192 * per_token
    four = estimate_memory(shape, replace(work, bits=4), "none")
    # 0.516 bytes for 6.53 B linear weights, 2 for the 1.09 B of embedding and head, adapters in float32
    assert four.weights == pytest.approx(0.516 * 6.525 * GB + 2 * 1.090 * GB + 4 * adapters, rel=0.01)


def test_small_optimizer_states_by_hand() -> None:
    shape = ModelShape.of(QWEN_1_5B)
    rest, embedding = 1_310_340_608, 233_373_696
    expected = {"adamw_torch": 4 * (rest + embedding), "adamw_split": 10 * (rest + embedding)}
    expected |= {"adamw_8bit": (4 + 1 / 32) * rest + 10 * embedding, "paged_adamw_32bit": 0}
    for name, state in expected.items():
        work = Workload(tokens=1024, optimizer=name, weight_dtype=torch.bfloat16)
        assert estimate_memory(shape, work, "full").optimizer == pytest.approx(state)


def test_more_tokens_and_less_memory_never_recompute_less() -> None:
    for config in (QWEN_1_5B, QWEN_7B):
        shape = ModelShape.of(config)
        work = Workload(tokens=1, weight_dtype=torch.bfloat16, optimizer="adamw_8bit")
        seen = set()
        for memory in (24e9, 48e9, 80e9, 141e9):
            chosen = [choose_recompute(shape, replace(work, tokens=2**n), memory) for n in range(8, 19)]
            ranks = [LEVELS.index(level) for level in chosen]
            assert all(first <= then for first, then in pairwise(ranks))
            seen.update(chosen)
        assert seen == set(LEVELS)
        for tokens in (4096, 16_384, 65_536):
            ranks = [
                LEVELS.index(choose_recompute(shape, replace(work, tokens=tokens), gb * 1e9)) for gb in range(8, 160, 8)
            ]
            assert all(first >= then for first, then in pairwise(ranks))


@pytest.mark.parametrize("compiled", [True, False])
def test_more_recomputation_keeps_less(compiled: bool) -> None:
    for accumulates in (True, False):
        work = Workload(tokens=16_384, compiled=compiled, accumulates=accumulates)
        totals = [estimate_memory(ModelShape.of(QWEN_1_5B), work, level).total for level in LEVELS]
        assert totals[0] > totals[1] > totals[2]


def test_shards() -> None:
    work = Workload(tokens=1024)
    shape = ModelShape.of(QWEN_1_5B)
    whole = estimate_memory(shape, work, "full")
    spread = estimate_memory(shape, replace(work, weight_shards=4, gradient_shards=4, optimizer_shards=4), "full")
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(spread, part) == getattr(whole, part) / 4


def test_of_settings() -> None:
    common = {"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o", "bf16": True}
    full = Workload.of(SFTConfig(**common, gradient_accumulation_steps=2), QWEN_7B, tokens=8)
    assert full == Workload(tokens=8, accumulates=True)
    lora = Workload.of(SFTConfig(**common, use_peft=True, load_in_4bit=True), QWEN_7B, tokens=8)
    assert lora == Workload(tokens=8, weight_dtype=torch.bfloat16, adapters=40_370_176, bits=4)
    grpo = Workload.of(GRPOConfig(**common, reward_funcs=["accuracy"]), QWEN_7B, tokens=8)
    assert grpo == Workload(tokens=8, accumulates=True)  # as many packs as completions fill
    plain = Workload.of(SFTConfig(**{**common, "bf16": False}, torch_dtype="auto"), QWEN_7B, tokens=8, compiled=False)
    assert (plain.weight_dtype, plain.compute_dtype, plain.compiled) == (torch.bfloat16, torch.bfloat16, False)


def test_what_others_keep_is_there_at_the_peak() -> None:
    shape, work = ModelShape.of(QWEN_1_5B), Workload(tokens=16_384)
    beside = replace(work, reserved=30 * GB)
    for level in LEVELS:
        alone = estimate_memory(shape, work, level)
        assert estimate_memory(shape, beside, level) == replace(alone, total=alone.total + 30 * GB)
    assert choose_recompute(shape, work, 80 * GB) == "none"
    assert choose_recompute(shape, beside, 80 * GB) != "none"


def test_gradients_exchanged_by_ddp_are_there_twice() -> None:
    shape, work = ModelShape.of(QWEN_1_5B), Workload(tokens=16_384)
    for level in LEVELS:
        alone, ddp = (estimate_memory(shape, replace(work, buckets=each), level) for each in (False, True))
        assert ddp.gradients == 2 * alone.gradients
        assert ddp.total - alone.total == alone.gradients


SECOND_CHUNK = 4096 * 151_936 * 2
"""Bytes of logits that runs of SFT held beside a chunk when these were measured."""
HALF = {"weight_dtype": torch.bfloat16, "accumulates": True}
SHARDED = {"gradient_shards": 2, "optimizer_shards": 2, "accumulates": True}
MEASURED = {
    # docs/performance.md, docs/memory.md, docs/distributed.md: bytes that PyTorch had allocated at most on an H200.
    "0.5b at 16,384": (QWEN_0_5B, Workload(tokens=16_384, **HALF), "none", 22.1 * 2**30),
    "0.5b at 32,768": (QWEN_0_5B, Workload(tokens=32_768, **HALF), "none", 37.9 * 2**30),
    "1.5b at 16,384": (QWEN_1_5B, Workload(tokens=16_384, **HALF), "none", 47.6 * 2**30),
    "1.5b at 32,768": (QWEN_1_5B, Workload(tokens=32_768, **HALF), "none", 80.8 * 2**30),
    "7b at 16,384": (QWEN_7B, Workload(tokens=16_384, **HALF), "none", 133.1 * 2**30),
    "1.5b, 8 bits": (QWEN_1_5B, Workload(tokens=16_384, optimizer="adamw_8bit", **HALF), "full", 18.6e9),
    "7b, 8 bits": (QWEN_7B, Workload(tokens=32_768, optimizer="adamw_8bit", **HALF), "selective", 121.1e9),
    "7b, LoRA": (QWEN_7B, Workload(tokens=8192, adapters=40_370_176, **HALF), "full", 20.4e9),
    "7b, QLoRA": (
        QWEN_7B,
        Workload(tokens=16_384, adapters=40_370_176, bits=4, compiled=False, **HALF),
        "full",
        14.4e9,
    ),
    "1.5b, float32": (QWEN_1_5B, Workload(tokens=16_384, accumulates=True), "none", 63.8 * 2**30),
    "1.5b, LoRA": (QWEN_1_5B, Workload(tokens=16_384, adapters=18_464_768, **HALF), "none", 37.2 * 2**30),
    "1.5b, DDP": (QWEN_1_5B, Workload(tokens=16_384, accumulates=True, buckets=True), "none", 69.6 * 2**30),
    "1.5b, ZeRO-2": (QWEN_1_5B, Workload(tokens=16_384, **SHARDED), "none", 50.5 * 2**30),
    "1.5b, FSDP": (QWEN_1_5B, Workload(tokens=16_384, weight_shards=2, **SHARDED), "none", 48.2 * 2**30),
    "1.5b, ZeRO-3": (
        QWEN_1_5B,
        Workload(tokens=16_384, weight_shards=2, compiled=False, **SHARDED),
        "none",
        63.1 * 2**30,
    ),
}


@pytest.mark.parametrize("case", MEASURED)
def test_what_was_measured(case: str) -> None:
    """To within 3 %."""
    config, work, level, measured = MEASURED[case]
    shape = ModelShape.of(config)
    parts = estimate_memory(shape, work, level)
    second = max(0.0, parts.head + SECOND_CHUNK - max(parts.head, parts.layer))  # where the head was the peak then
    assert parts.total + second == pytest.approx(measured, rel=0.03)


def test_experts() -> None:
    config = Qwen3MoeConfig(
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=48,
        vocab_size=100,
    )
    shape = ModelShape.of(config)
    assert (shape.intermediate, shape.attention, shape.key_value) == (96, 128, 64)
    work = Workload(tokens=512, compiled=True, weight_dtype=torch.float32)
    alone, sharded = (estimate_memory(shape, replace(work, weight_shards=shards), "none") for shards in (1, 2))
    of_experts = 3 * 8 * 48 * 64  # FSDP gathers those of a layer too, though no linear module has them
    assert sharded.layer - alone.layer > work.compute_dtype.itemsize * 2 * of_experts


def test_a_cpu_has_no_device_memory() -> None:
    assert device_memory(torch.device("cpu")) is None


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_memory_of_a_device_with_and_without_its_number(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def share(device: torch.device | int) -> float:
        torch.cuda._utils._get_device_index(device)  # as torch's own: a number, or a device that has one
        return 0.5

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", share)
    assert device_memory(torch.device(name)) == 50


def kept_by_autograd(layers: int, dtype: torch.dtype, level: str) -> int:
    """Bytes of the tensors that a forward pass of 512 tokens saves, weights aside."""
    config = Qwen2Config(
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=256,
    )
    model = Qwen2ForCausalLM(config).to(dtype)
    model.set_attn_implementation(NAME)
    module = PackModel(model).train()
    module.layers.recompute = level
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    storages: dict[int, int] = {}
    alive = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    pack = make_pack([TrainingSequence(np.arange(512) % 256, np.ones(512, np.float32))])
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        module(pack, nll=True)
    return sum(storages.values())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_eager_table_is_what_autograd_keeps(dtype: torch.dtype, level: str) -> None:
    """The kernel of the CPU keeps up to two more copies of attention's output than those of GPUs."""
    measured = (kept_by_autograd(3, dtype, level) - kept_by_autograd(1, dtype, level)) / 2 / 512
    r = dtype.itemsize
    in_residual, in_compute, in_float32, feed_forward, attention = KEPT[False, level]
    expected = 256 * (in_residual * r + in_compute * r + in_float32 * 4) + feed_forward * 768 * r
    expected += attention * (4 * 256 * r + 4 * 4)
    assert 0.99 * expected <= measured <= 1.01 * (expected + attention * 2 * 256 * r)
