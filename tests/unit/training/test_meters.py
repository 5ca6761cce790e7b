"""Model FLOPs against arithmetic on paper."""

from __future__ import annotations

import pytest
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


def test_totals_are_sums_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 102.0, 106.0, 110.0])  # made, marked, marked, ended
    monkeypatch.setattr("open_r1.training.meters.time.perf_counter", lambda: next(clock))
    config = Qwen2Config(
        vocab_size=10, hidden_size=4, intermediate_size=6, num_hidden_layers=1, num_attention_heads=2, eos_token_id=1
    )
    meter = StepMeter(Qwen2ForCausalLM(config), world_size=1)
    meter.add(sequences=3, tokens=50, flops=1e6)
    assert meter.since_mark()["tokens_per_second"] == 25
    meter.add(sequences=1, tokens=30, flops=1e6)
    meter.add(sequences=2, tokens=30, flops=1e6)
    assert meter.since_mark()["tokens_per_second"] == 15
    overall = meter.overall(steps=3)
    assert (overall["train_runtime"], overall["train_samples"], overall["train_tokens"]) == (10, 6, 110)
    assert overall["train_tokens_per_second"] == 11
    assert overall["train_samples_per_second"] == pytest.approx(0.6)
    assert overall["train_steps_per_second"] == pytest.approx(0.3)
