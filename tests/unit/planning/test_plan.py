"""Plans of published shapes: the tutorial's cases, the levers, what is known of steps, hours and disks."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_shapes import QWEN_0_5B, QWEN_1_5B, QWEN_7B

from open_r1.config import GRPOConfig, SFTConfig
from open_r1.machine.cards import find_card
from open_r1.machine.rates import Rate
from open_r1.model.memory import USABLE
from open_r1.model.shape import ModelShape
from open_r1.planning.drawing import step_seconds
from open_r1.planning.levers import Option
from open_r1.planning.plan import Plan, plan_run
from open_r1.planning.situation import Data, Machine, Model

CONFIGS = {"0.5b": QWEN_0_5B, "1.5b": QWEN_1_5B, "7b": QWEN_7B}
TUTORIAL = {"bf16": True, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
TRACES = Data(rows=93_733, tokens=553_000_000, source="given")
GB = 1e9


@cache
def model(name: str) -> Model:
    return Model(name, CONFIGS[name], ModelShape.of(CONFIGS[name]), torch.bfloat16)


def sft(**more: Any) -> SFTConfig:
    return SFTConfig(**{"model_name_or_path": "m", "dataset_name": "d", "output_dir": "/tmp", **more})


def grpo(**more: Any) -> GRPOConfig:
    common = {"model_name_or_path": "m", "dataset_name": "d", "output_dir": "/tmp", "reward_funcs": ["accuracy"]}
    return GRPOConfig(**{**common, "bf16": True, "prompts_per_step": 32, **more})


def planned(settings: Any, name: str, card: str, data: Data = TRACES, **machine: Any) -> Plan:
    return plan_run(settings, model(name), Machine.of_card(find_card(card), **machine), data)


def global_batch(settings: SFTConfig) -> int:
    return settings.per_device_train_batch_size * settings.gradient_accumulation_steps * settings.max_length


def test_the_tutorials_batch_does_not_fit_24_gb_and_what_does_was_measured() -> None:
    """docs/memory.md, full-1.5b: adamw_8bit, all recomputed, 1 × 16,384: 18.6 GB with a second chunk of logits."""
    plan = planned(sft(max_length=16_384, **TUTORIAL), "1.5b", "4090")
    assert plan.memory.verdict == "over" and plan.memory.peak > 2 * plan.memory.limit
    assert plan.adjusted is None
    best = plan.found[0]
    assert best.changes == {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 16,
        "torch_dtype": "bfloat16",
        "optim": "adamw_8bit",
        "gradient_checkpointing": "full",
    }
    assert best.flags.startswith("--per_device_train_batch_size 1 --gradient_accumulation_steps 16 --torch_dtype bf")
    assert best.memory.peak == pytest.approx(18.6 * GB - 4096 * 151_936 * 2, rel=0.02)
    assert [set(option.families) for option in plan.found] == [{"optimizer"}, {"adapters"}, {"4-bit adapters"}]


def test_the_tutorials_batch_on_96_gb_is_cut_instead_of_recomputed() -> None:
    plan = planned(sft(max_length=16_384, **TUTORIAL), "1.5b", "H20")
    assert plan.fits and plan.memory.recompute == "full"
    assert plan.adjusted.changes == {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16}
    assert plan.adjusted.memory.recompute == "none"
    asked = planned(sft(max_length=16_384, gradient_checkpointing=True, **TUTORIAL), "1.5b", "H20")
    assert asked.fits and asked.found == ()  # what the person says goes


def test_the_tutorials_first_command_on_24_gb() -> None:
    """8 × 2,048: float32 weights and moments alone are 24.7 GB, so no micro-batch helps."""
    plan = planned(sft(max_length=2048, **TUTORIAL), "1.5b", "4090")
    assert plan.memory.verdict == "over" and plan.adjusted is None
    best = plan.found[0]
    assert best.changes["optim"] == "adamw_8bit" and best.memory.verdict == "fits"
    assert best.memory.tokens >= 4096


@pytest.mark.parametrize("card", ["3090", "L40S", "A100-40", "A100-80", "H200"])
@pytest.mark.parametrize("name", ["0.5b", "1.5b", "7b"])
@pytest.mark.parametrize("length", [2048, 16_384, 32_768])
def test_what_is_proposed_fits_and_keeps_the_batch(card: str, name: str, length: int) -> None:
    settings = sft(max_length=length, **TUTORIAL)
    plan = planned(settings, name, card)
    assert plan.fits or plan.found, "there is always adapters over 4 bits"
    for option in plan.found:
        room = 1.0 if option.same_result else USABLE  # what a run pulls by itself may leave none for fragments
        assert option.memory.peak <= room * option.memory.limit
        assert global_batch(option.settings) == global_batch(settings)
        assert (
            option.changes.get("gradient_checkpointing") == option.memory.recompute or option.memory.recompute == "none"
        )
    costs = [option.cost for option in plan.found if not option.same_result]
    assert costs == sorted(costs)


def test_only_what_leaves_the_result_the_same_is_pulled_by_the_run() -> None:
    for card in ("3090", "A100-40", "A100-80", "H20"):
        plan = planned(sft(max_length=16_384, **TUTORIAL), "1.5b", card)
        if plan.adjusted:
            assert set(plan.adjusted.changes) <= {
                "per_device_train_batch_size",
                "gradient_accumulation_steps",
                "gradient_checkpointing",
            }


def test_without_packing_the_micro_batch_stays() -> None:
    """It says how many sequences stand in a pack."""
    plan = planned(sft(max_length=16_384, packing=False, **TUTORIAL), "1.5b", "A100-80")
    assert all("per_device_train_batch_size" not in option.changes for option in plan.found)


def test_recomputation_that_the_person_turned_off_is_raised_where_it_must_be() -> None:
    plan = planned(sft(max_length=16_384, bf16=True, gradient_checkpointing=False), "1.5b", "A6000")
    assert plan.memory.verdict != "fits"
    assert plan.adjusted.changes == {"gradient_checkpointing": "selective"}


def test_several_gpus_share_first() -> None:
    plan = planned(sft(max_length=16_384, bf16=True), "7b", "H100", gpus=8, launcher="ddp")
    assert plan.memory.verdict == "over"
    assert plan.found[0].families == ("launcher",) and plan.found[0].machine.launcher in ("zero2", "fsdp")
    alone = planned(sft(max_length=16_384, bf16=True), "7b", "H100")
    assert "launcher" not in {family for option in alone.found for family in option.families}


def test_a_7b_model_on_24_gb_means_adapters() -> None:
    plan = planned(sft(max_length=8192, bf16=True, gradient_accumulation_steps=2), "7b", "4090")
    assert plan.found[0].changes["use_peft"] is True
    assert plan.found[0].memory.peak == pytest.approx(20.4 * GB, rel=0.05)  # lora-7b of docs/memory.md


def test_shorter_packs_are_the_last_resort() -> None:
    tight = planned(sft(max_length=131_072, bf16=True), "7b", "T4")
    families = [set(option.families) for option in tight.found]
    assert not families or "length" in families[0]
    roomy = planned(sft(max_length=16_384, **TUTORIAL), "7b", "4090")
    assert all("length" not in option.families for option in roomy.found)


def test_float32_compute_is_said_to_cost_time() -> None:
    slow: Option = planned(sft(max_length=16_384), "1.5b", "3090").found[0]
    assert slow.slowdown < -0.5
    assert "bf16" in str(slow.changes) or slow.changes.get("torch_dtype") == "bfloat16"


def test_grpo_beside_vllm() -> None:
    plan = planned(grpo(use_vllm=True, max_completion_length=1024), "1.5b", "4090")
    assert plan.memory.verdict == "over" and "keys and values" in plan.memory.problem
    best = plan.found[0]
    assert best.changes["optim"] == "adamw_8bit" and best.memory.engine is not None
    assert best.memory.peak <= USABLE * best.memory.limit
    roomy = planned(grpo(use_vllm=True, max_completion_length=1024), "0.5b", "H200")
    assert roomy.fits and not roomy.memory.engine.sleeps and roomy.memory.recompute == "none"
    assert roomy.memory.drawing > roomy.memory.engine.engine


def test_grpo_without_vllm_decodes_fewer_at_once() -> None:
    plan = planned(grpo(max_completion_length=8192, num_generations=16), "1.5b", "A100-80")
    assert plan.memory.drawing > plan.memory.limit
    assert plan.adjusted is not None and "generation_batch_size" in plan.adjusted.changes


def test_a_cpu_is_planned_without_a_limit() -> None:
    plan = plan_run(sft(), model("0.5b"), Machine(name="CPU", memory=None), Data())
    assert plan.fits and plan.found == () and plan.duration is None
    assert (plan.steps, plan.tokens, plan.hours) == (None, None, None)


def test_steps_of_rows_and_of_tokens() -> None:
    settings = sft(max_length=2048, max_steps=-1, num_train_epochs=2, **TUTORIAL)
    by_tokens = planned(settings, "0.5b", "H200")
    assert by_tokens.steps == pytest.approx(2 * 553e6 / (16 * 2048), rel=0.02)
    assert by_tokens.tokens == 2 * 553_000_000
    lengths = np.full(100, 1024)
    by_rows = planned(settings, "0.5b", "H200", Data(rows=3200, lengths=lengths))
    assert by_rows.steps == pytest.approx(2 * 3200 * 1024 / (16 * 2048), rel=0.03)
    dropped = planned(
        sft(max_length=512, overlong="drop"), "0.5b", "H200", Data(rows=10, lengths=np.array([100] * 5 + [900] * 5))
    )
    assert dropped.tokens == 500
    assert planned(sft(max_steps=7), "0.5b", "H200", Data()).steps == 7
    prompts = planned(grpo(), "0.5b", "H200", Data(rows=100))
    assert prompts.steps == 4  # 100 prompts, 32 a step


def test_hours_on_the_h200_are_those_that_were_measured() -> None:
    """docs/performance.md: tokens/s on one H200, bf16 weights; and docs/grpo.md: 2.5 s drawing, and 3.3
    training, prompts computed with each of their completions."""
    cases = {("1.5b", 16_384): 46_294, ("0.5b", 16_384): 110_971, ("7b", 16_384): 12_932}
    for (name, length), measured in cases.items():
        settings = sft(max_length=length, torch_dtype="bfloat16", gradient_accumulation_steps=2)
        plan = planned(settings, name, "H200")
        assert plan.duration.tokens_per_second == pytest.approx(measured, rel=0.1), name
        assert plan.hours == pytest.approx(plan.steps * plan.duration.step / 3600)
    settings = grpo(use_vllm=True, prompts_per_step=64, max_prompt_length=440, max_completion_length=512, bf16=True)
    plan = planned(replace(settings, share_prompts=False), "0.5b", "H200")
    assert plan.duration.drawing == pytest.approx(2.5, rel=0.15)
    assert plan.duration.training == pytest.approx(3.3, rel=0.2)
    shared = planned(settings, "0.5b", "H200").duration.training
    assert shared == pytest.approx(plan.duration.training * (440 / 8 + 512) / (440 + 512), rel=0.01)


def test_a_measured_rate_goes_before_the_table() -> None:
    flops = 1e10
    rate = Rate(
        kind="sft",
        card="NVIDIA GeForce RTX 4090",
        shape="1.5B",
        tokens=4096,
        settings={
            "parameters": 1.5e9,
            "flops_per_token": flops,
            "adapters": False,
            "recompute": "full",
        },
        value=0.3 * 165e12 / flops,
        unit="tokens/s",
        versions={},
        date="2026-11-28T00:00:00",
    )
    settings = sft(torch_dtype="bfloat16", optim="adamw_8bit", max_length=4096, gradient_checkpointing="full")
    machine = Machine.of_card(find_card("4090"))
    tabled = plan_run(settings, model("1.5b"), machine, TRACES)
    measured = plan_run(settings, model("1.5b"), machine, TRACES, rates=[rate])
    assert "estimate" in tabled.duration.source and "measured on a 4090" in measured.duration.source
    ratio = measured.duration.tokens_per_second / tabled.duration.tokens_per_second
    assert ratio == pytest.approx(0.4 / 0.544)  # 0.3 with a third more compute
    other = plan_run(settings, model("1.5b"), Machine.of_card(find_card("3090")), TRACES, rates=[rate])
    assert "estimate" in other.duration.source


def test_a_measured_engine_corrects_the_time_of_drawing() -> None:
    settings = grpo(use_vllm=True, max_completion_length=256)
    machine = Machine.of_card(find_card("H200"))
    tabled = plan_run(settings, model("1.5b"), machine, Data(rows=100)).duration
    rate = Rate(
        kind="engine",
        card="NVIDIA H200",
        shape="1.5B",
        tokens=256,
        settings={"engine": "vllm", "sequences": 512, "prompt": 128, "dtype": "bfloat16"},
        value=512 / (2 * step_seconds(1.5e9, 512, machine.card, 2)),
        unit="tokens/s",
        versions={},
        date="2026-11-28T00:00:00",
    )
    measured = plan_run(settings, model("1.5b"), machine, Data(rows=100), rates=[rate]).duration
    assert measured.drawing == pytest.approx(2 * tabled.drawing)
    assert measured.training == tabled.training
    without = replace(settings, use_vllm=False)
    assert plan_run(without, model("1.5b"), machine, Data(rows=100), rates=[rate]).duration.drawing == tabled.drawing


def test_the_price_is_of_all_gpus() -> None:
    machine = Machine.of_card(find_card("H100"), gpus=4, launcher="zero2")
    plan = plan_run(sft(bf16=True, max_length=4096), model("1.5b"), machine, TRACES, price=2.5)
    assert plan.cost == pytest.approx(plan.hours * 10)


def test_disks(tmp_path: Path) -> None:
    settings = sft(output_dir=str(tmp_path), token_cache_dir=str(tmp_path / "t"), save_steps=100, save_total_limit=2)
    plan = plan_run(
        replace(settings, max_steps=1000),
        replace(model("1.5b"), local=False),
        Machine.of_card(find_card("H200")),
        TRACES,
    )
    parameters = model("1.5b").shape.parameters
    assert plan.storage.checkpoint == 12 * parameters  # float32 weights and two moments
    assert (plan.storage.kept, plan.storage.final, plan.storage.download) == (2, 2 * parameters, 2 * parameters)
    assert plan.storage.tokens == 5 * 553_000_000
    needed = sum(space.need for space in plan.storage.disks)
    assert needed >= 3 * plan.storage.checkpoint + plan.storage.tokens  # one more while the oldest is still there
    adapters = planned(sft(use_peft=True, bf16=True, save_strategy="no"), "1.5b", "H200")
    assert adapters.storage.final < 0.1 * GB and adapters.storage.kept == 0
    paged = planned(sft(torch_dtype="bfloat16", optim="paged_adamw_32bit"), "1.5b", "H200")
    assert paged.memory.parts.optimizer == 0 and paged.storage.checkpoint == 12 * parameters
