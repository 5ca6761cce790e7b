"""Plans of published shapes: the tutorial's cases, the levers, what is known of steps, hours and disks."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_shapes import QWEN_0_5B, QWEN_1_5B, QWEN_7B, QWEN_14B

from open_r1.config import GRPOConfig, SFTConfig, solve_batch
from open_r1.machine.cards import find_card
from open_r1.machine.rates import Rate, measured_card
from open_r1.model.memory import USABLE
from open_r1.model.shape import ModelShape
from open_r1.planning.drawing import step_seconds
from open_r1.planning.duration import Duration, flops_per_token, step_duration
from open_r1.planning.memory import step_memory
from open_r1.planning.options import Option, options
from open_r1.planning.plan import Plan, plan_run
from open_r1.planning.situation import Data, Machine, Model

CONFIGS = {"0.5b": QWEN_0_5B, "1.5b": QWEN_1_5B, "7b": QWEN_7B, "14b": QWEN_14B}
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


def test_frozen_weights_need_no_float32() -> None:
    """Asked for by name it stayed: adapters over 4 bits were proposed, where over bf16 weights they fit."""
    settings = sft(max_length=8192, bf16=True, torch_dtype="float32", gradient_accumulation_steps=2)
    assert (
        planned(settings, "7b", "4090").found[0].changes.items()
        >= {"use_peft": True, "torch_dtype": "bfloat16"}.items()
    )
    adapters = planned(replace(settings, use_peft=True), "7b", "4090").found[0]
    assert adapters.changes == {"torch_dtype": "bfloat16", "gradient_checkpointing": "full"}


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


def test_transformers_draws_where_vllm_leaves_no_room() -> None:
    """That no change made it fit was said of a card that one flag was enough for."""
    settings = grpo(use_vllm=True, use_peft=True, torch_dtype="bfloat16", max_completion_length=1024)
    plan = planned(settings, "7b", "4090")
    assert plan.memory.verdict == "over" and plan.adjusted is None
    assert [option.changes["use_vllm"] for option in plan.found] == [False]
    assert plan.found[0].memory.verdict == "fits" and plan.found[0].families == ("engine",)
    roomy = planned(settings, "7b", "L40S")
    assert roomy.fits and all("engine" not in option.families for option in roomy.found)


def test_one_group_of_completions_is_drawn_by_transformers_too() -> None:
    """Of sixteen completions or fewer nothing was proposed but a larger GPU."""
    plan = planned(grpo(use_vllm=True, prompts_per_step=1, max_completion_length=4096), "7b", "4090")
    assert plan.memory.verdict == "over" and plan.found
    assert plan.found[0].changes == {"use_vllm": False, "use_peft": True}
    long = planned(grpo(use_peft=True, prompts_per_step=2, max_completion_length=8192), "7b", "4090")
    assert long.memory.verdict == "tight" and long.adjusted.changes == {"generation_batch_size": 4}


def test_another_engine_is_proposed_only_where_nothing_else_fits() -> None:
    """It changes no setting of training, and so was taken for what leaves the result the same: 3.9 times as long."""
    settings = grpo(use_vllm=True, use_peft=True, prompts_per_step=16, max_completion_length=1024)
    plan = planned(settings, "14b", "L40S")
    assert plan.memory.verdict == "over"
    assert [option.changes for option in plan.found] == [{"load_in_4bit": True}]


def test_what_is_drawn_meanwhile_may_be_drawn_in_turn() -> None:
    """An engine that cannot sleep was given up, and a larger GPU proposed."""
    plan = planned(grpo(use_vllm=True, async_steps=1, max_completion_length=1024), "7b", "L4")
    assert plan.found[0].changes.items() >= {"async_steps": 0, "use_vllm": False, "use_peft": True}.items()
    behind = grpo(use_vllm=True, async_steps=1, torch_dtype="bfloat16", optim="adamw_8bit", max_completion_length=4096)
    plan = planned(behind, "1.5b", "L4")
    assert plan.memory.verdict == "over" and plan.adjusted is None
    assert plan.found[0].changes == {"async_steps": 0} and plan.found[0].memory.engine.sleeps


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
    apart = {"eval_holdout": 50, "eval_strategy": "steps"}
    assert planned(grpo(**apart), "0.5b", "H200", Data(rows=100)).steps == 2
    assert planned(grpo(eval_holdout=50), "0.5b", "H200", Data(rows=100)).steps == 4
    again = planned(grpo(num_iterations=2), "0.5b", "H200", Data(rows=100))
    assert again.steps == 7  # two on the same completions
    assert again.duration.drawing == prompts.duration.drawing / 2


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


def test_a_server_draws_for_all_processes() -> None:
    """Each was thought to have a server of its own, so that seven GPUs drew in a seventh of the time."""

    def duration(gpus: int, **more: Any) -> Duration:
        settings = grpo(use_vllm=True, vllm_mode="server", prompts_per_step=64, max_completion_length=1024, **more)
        launcher = "none" if gpus == 1 else "ddp"
        return planned(settings, "1.5b", "H200", Data(rows=100), gpus=gpus, launcher=launcher).duration

    alone, eight = duration(1), duration(8)
    assert eight.drawing == pytest.approx(alone.drawing)
    assert eight.training < alone.training / 4
    assert eight.step == eight.drawing + eight.training
    several = duration(8, vllm_server_devices="4,5,6,7").drawing
    assert eight.drawing / 4 < several < eight.drawing  # what a step of decoding takes beside the GPU stays
    behind = duration(8, async_steps=1)
    assert behind.step == max(behind.drawing, behind.training)


def test_tokens_a_second_are_of_the_whole_step() -> None:
    """As the run itself tells them; those of training alone stood beside hours that they contradicted."""
    plan = planned(grpo(use_vllm=True), "0.5b", "H200", Data(rows=1000))
    assert plan.tokens / plan.duration.tokens_per_second == pytest.approx(3600 * plan.hours)


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
    assert "estimate" in tabled.duration.source and "measured on 4090" in measured.duration.source
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


OPTIONS = {
    "sft": (sft(max_length=4096, bf16=True), "7b", "A100-40", {}),
    "batch": (sft(max_length=16_384, **TUTORIAL), "1.5b", "4090", {}),
    "float32": (sft(max_length=4096, gradient_checkpointing=False), "1.5b", "L40S", {}),
    "gpus": (sft(max_length=16_384, bf16=True), "7b", "H100", {"gpus": 8, "launcher": "ddp"}),
    "grpo": (grpo(max_completion_length=1024), "1.5b", "A6000", {}),
    "vllm": (grpo(use_vllm=True, max_completion_length=1024, vllm_enable_sleep_mode=True), "1.5b", "4090", {}),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_slower_is_what_the_duration_of_each_option_says(case: str) -> None:
    settings, name, card, more = OPTIONS[case]
    machine = Machine.of_card(find_card(card), **more)
    settings = solve_batch(settings, machine.gpus) if isinstance(settings, GRPOConfig) else settings
    boundless = replace(machine, memory=1e15)
    asked = step_duration(settings, model(name), boundless, step_memory(settings, model(name), boundless), Data()).step
    found = options(settings, model(name), machine, verdicts=("fits", "tight", "over"))
    for option in found:
        own = step_duration(option.settings, model(name), option.machine, option.memory, Data()).step
        asleep = 0.02 if "vllm_max_num_seqs" in option.changes else 0.0
        assert 1 + option.slowdown == pytest.approx(own / asked * (1 + asleep)), option.changes
    assert len(found) > 10


def test_all_weights_are_trained_unless_that_takes_far_longer() -> None:
    """An optimizer whose state is in the host's memory moves it in each step: 3.1 s of 7B, however small the step."""
    large = sft(max_length=4096, bf16=True, per_device_train_batch_size=4, gradient_accumulation_steps=8)
    assert planned(large, "7b", "A100-40").found[0].changes["optim"] == "paged_adamw_8bit"
    adapters, *others = planned(sft(max_length=4096, bf16=True), "7b", "A100-40").found
    assert adapters.families == ("adapters",) and adapters.pace == "1.1 × as fast"
    paged = others[-1]  # of those, it changes less than adapters do
    assert paged.changes["optim"] == "paged_adamw_8bit" and paged.pace == "3.7 × as long"
    assert paged.says[-1] == "bf16 weights, 8-bit moments in the host's memory (up to 61 GB of it)"


def test_what_fits_is_not_changed_for_nothing() -> None:
    """Recomputation that is left to the run is no change, nor are smaller micro-batches that save none of it."""
    assert planned(sft(max_length=16_384, bf16=True, use_peft=True), "7b", "H100").found == ()
    settings = sft(max_length=16_384, torch_dtype="bfloat16", optim="adamw_8bit", per_device_train_batch_size=2)
    plan = planned(settings, "1.5b", "A10")
    assert plan.fits and plan.memory.recompute == "full" and plan.found == ()


def test_a_device_that_is_not_in_the_table_is_known_by_its_rates() -> None:
    name = "NVIDIA GeForce RTX 4080"
    half, moved = product_and_copy(name, "bf16", 80e12, 600e9)
    card = measured_card(name, 17.2e9, (8, 9), [half, moved])
    assert (card.bf16, card.bandwidth, card.capability) == (
        pytest.approx(100e12),
        pytest.approx(667e9, rel=0.01),
        (8, 9),
    )
    settings = sft(max_length=2048, bf16=True)
    machine = Machine(name=name, memory=16e9, card=card)
    tabled = plan_run(settings, model("0.5b"), machine, TRACES, rates=[half, moved])
    assert tabled.hours > 0 and "estimate" in tabled.duration.source
    trained = training_rate(name, "0.5B", 0.49e9, 20_000.0)
    measured = plan_run(settings, model("0.5b"), machine, TRACES, rates=[half, moved, trained])
    assert f"measured on {name}" in measured.duration.source
    assert measured.duration.tokens_per_second != tabled.duration.tokens_per_second
    alone = measured_card(name, 17.2e9, (8, 9), [trained])
    again = plan_run(settings, model("0.5b"), replace(machine, card=alone), TRACES, rates=[trained])
    assert again.hours == pytest.approx(measured.hours)
    assert measured_card(name, 17.2e9, (8, 9), [moved]) is None
    assert measured_card("NVIDIA GeForce RTX 3080", 1e10, (8, 6), [half, moved, trained]) is None


def test_a_processor_is_planned_by_the_training_that_was_measured_on_it() -> None:
    name = "AMD EPYC 9B14, 2 cores"
    products = product_and_copy(name, "fp32", 1e11, 2e10)
    assert measured_card(name, 0.0, None, products) is None
    rate = replace(training_rate(name, "0.5B", 0.49e9, 100.0), tokens=2048)
    rates = [*products, rate]
    machine = Machine(name="CPU", memory=None, card=measured_card(name, 0.0, None, rates))
    plan = plan_run(sft(max_length=2048), model("0.5b"), machine, TRACES, rates=rates)
    flops = flops_per_token(model("0.5b"), machine.work(plan.settings, model("0.5b"), 2048), 2048.0)
    assert plan.duration.tokens_per_second == pytest.approx(100.0 * 1e10 / flops)
    assert plan_run(sft(bf16=True), model("0.5b"), machine, TRACES, rates=rates).duration is None
    adapters = plan_run(sft(use_peft=True), model("0.5b"), machine, TRACES, rates=rates)
    assert adapters.duration.tokens_per_second > plan.duration.tokens_per_second


def product_and_copy(card: str, dtype: str, flops: float, moved: float) -> list[Rate]:
    common = {"card": card, "versions": {}, "date": "2026-11-28T00:00:00"}
    product = {"shape": "square", "tokens": 8192, "settings": {"dtype": dtype}, "value": flops, "unit": "FLOP/s"}
    copy = {"shape": "", "tokens": 0, "settings": {}, "value": moved, "unit": "bytes/s"}
    return [Rate(kind="product", **product, **common), Rate(kind="copy", **copy, **common)]


def training_rate(card: str, shape: str, parameters: float, value: float) -> Rate:
    """Of all weights, at 1e10 FLOPs a token."""
    settings = {"parameters": parameters, "flops_per_token": 1e10, "adapters": False, "recompute": "none"}
    common = {"unit": "tokens/s", "versions": {}, "date": "2026-11-28T00:00:00"}
    return Rate(kind="sft", card=card, shape=shape, tokens=16_384, settings=settings, value=value, **common)


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
