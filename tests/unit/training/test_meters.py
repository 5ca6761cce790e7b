"""Model FLOPs against arithmetic on paper."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from open_r1.training.meters import StepMeter


@pytest.mark.parametrize("tied", [False, True])
def test_flops_by_hand(tied: bool) -> None:
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=10,
            hidden_size=4,
            intermediate_size=6,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=1,
        )
    )
    # A layer: q 4·4+4, k and v 4·2+2, o 4·4, three of 4·6, two gains of 4. Then the last gain, and the head of 10·4.
    parameters = 2 * (20 + 10 + 10 + 16 + 72 + 8) + 4 + 40
    meter = StepMeter(model, world_size=1)
    # 6·N·L, and 6·layers·heads·head_dim·L² for the causal half of the scores and of what they weigh.
    assert meter.flops_of([5]) == 6 * parameters * 5 + 6 * 2 * 4 * 25
    assert meter.flops_of([5, 3]) == meter.flops_of([5]) + meter.flops_of([3])
    assert meter.flops_of([8]) > meter.flops_of([5, 3])
    assert meter.flops_of([]) == 0


def small_model(**settings: Any) -> Qwen2ForCausalLM:
    sizes = {"vocab_size": 10, "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 1}
    return Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=2, eos_token_id=1, **settings))


def test_frozen_weights_need_no_gradient_of_their_own() -> None:
    """4 operations a weight and token instead of 6, and adapters on top."""
    model = small_model(num_key_value_heads=2)
    everything = StepMeter(model, world_size=1).flops_of([1])
    adapters = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    wrapped = get_peft_model(model, adapters).get_base_model()
    square = 6 * 1 * 4
    assert (
        StepMeter(wrapped, world_size=1).flops_of([1]) == (everything - square) * 4 / 6 + 6 * (2 * 4 + 4 * 2) + square
    )


def test_weights_in_four_bits_count_whole() -> None:
    model = small_model()
    whole = StepMeter(model, world_size=1).flops_of([3])
    weight = model.model.layers[0].mlp.up_proj.weight
    packed = nn.Parameter(torch.zeros(12, 1, dtype=torch.uint8), requires_grad=False)  # bitsandbytes: two to a byte
    packed.quant_state = SimpleNamespace(shape=weight.shape)
    model.model.layers[0].mlp.up_proj.weight = packed
    assert StepMeter(model, world_size=1).flops_of([3]) == whole - 2 * 24 * 3


class Clock:
    """Stands still until it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("open_r1.training.meters.time.perf_counter", lambda: self.now)


def test_totals_are_sums_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    meter = StepMeter(small_model(), world_size=1)
    clock.now = 102
    meter.add(sequences=3, tokens=50, flops=1e6)
    assert meter.since_mark()["tokens_per_second"] == 25
    meter.add(sequences=1, tokens=30, flops=1e6)
    clock.now = 106
    meter.add(sequences=2, tokens=30, flops=1e6)
    assert meter.since_mark()["tokens_per_second"] == 15
    clock.now = 110
    overall = meter.overall(steps=3)
    assert (overall["train_runtime"], overall["train_samples"], overall["train_tokens"]) == (10, 6, 110)
    assert overall["train_tokens_per_second"] == 11
    assert overall["train_samples_per_second"] == pytest.approx(0.6)
    assert overall["train_steps_per_second"] == pytest.approx(0.3)
    assert "train_steady_tokens_per_second" not in overall


def test_steady_rates_leave_out_the_first_steps_and_what_is_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    meter = StepMeter(small_model(), world_size=1)
    for seconds in (60, 1, 1, 2, 2):
        clock.now += seconds
        meter.add(sequences=1, tokens=10, flops=1.0)
    meter.since_mark()
    with meter.apart():
        clock.now += 30
    clock.now += 1
    meter.add(sequences=1, tokens=10, flops=1.0)
    assert meter.since_mark()["tokens_per_second"] == 10
    overall = meter.overall(steps=6)
    assert overall["train_steady_tokens_per_second"] == 6
    assert overall["train_runtime"] == 97
    assert overall["train_tokens_per_second"] == 60 / 97
