"""What sft and grpo plan first: pulled by themselves, or said in one line before anything is prepared."""

from __future__ import annotations

import importlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from published_shapes import QWEN_1_5B, QWEN_7B

from open_r1.config import GRPOConfig, SFTConfig, parse
from open_r1.errors import UserError
from open_r1.machine import disks
from open_r1.machine.cards import find_card
from open_r1.model.memory import USABLE
from open_r1.model.shape import ModelShape
from open_r1.planning import first, storage
from open_r1.planning.first import fitted, plan_first
from open_r1.planning.memory import step_memory
from open_r1.planning.situation import Machine, Model
from open_r1.training.integrity import Manifest, write_manifest

RECIPES = Path(__file__).resolve().parents[3] / "recipes"


@cache
def model(name: str) -> Model:
    config = {"1.5b": QWEN_1_5B, "7b": QWEN_7B}[name]
    return Model(name, config, ModelShape.of(config), torch.bfloat16)


def sft(**more: Any) -> SFTConfig:
    return SFTConfig(**{"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o", "bf16": True, **more})


def on(card: str, **more: Any) -> Machine:
    return Machine.of_card(find_card(card), **more)


BATCH_8 = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "max_length": 16_384}


def test_micro_batches_are_made_smaller_and_said() -> None:
    config, lines = fitted(sft(**BATCH_8), model("1.5b"), on("H20"))
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == (1, 16)
    assert config.gradient_checkpointing is None  # chosen later, by what is free then
    assert lines == [
        "plan: micro-batches of 131,072 tokens become 16,384, 16 of them in a step, whose batch stays the same: "
        "66.2 GB at the peak instead of 66.8"
    ]


def test_what_fits_is_left_alone() -> None:
    settings = sft(max_length=4096, torch_dtype="bfloat16")
    assert fitted(settings, model("1.5b"), on("H200")) == (settings, [])
    asked = sft(**BATCH_8, gradient_checkpointing="full")
    assert fitted(asked, model("1.5b"), on("H20")) == (asked, [])


def test_recomputation_that_is_left_to_the_run_is_no_change() -> None:
    settings = sft(torch_dtype="bfloat16", optim="adamw_8bit", max_length=16_384)
    assert step_memory(settings, model("1.5b"), on("4090")).recompute == "full"
    for asked in (settings, replace(settings, plan="warn")):
        assert fitted(asked, model("1.5b"), on("4090")) == (asked, [])


def test_all_that_is_changed_is_said() -> None:
    asked = {"max_length": 16_384, "per_device_train_batch_size": 4, "gradient_checkpointing": "none"}
    config, lines = fitted(sft(**asked), model("1.5b"), on("L40S"))
    assert (config.per_device_train_batch_size, config.gradient_checkpointing) == (1, "selective")
    assert "of them in a step, whose batch stays the same, and gradient_checkpointing selective: " in lines[0]
    common = {"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o", "bf16": True, "prompts_per_step": 32}
    decoded = GRPOConfig(**common, reward_funcs=["accuracy"], max_completion_length=8192, num_generations=16)
    _, lines = fitted(decoded, model("1.5b"), on("A100-80"))
    assert lines[0].startswith("plan: generation_batch_size 64: ")


def test_who_would_have_to_train_adapters_hears_what_all_weights_would_take() -> None:
    with pytest.raises(UserError, match=r"the cheapest change is --use_peft true .*; 1\.1 × as fast\)") as caught:
        fitted(sft(max_length=4096), model("7b"), on("A100-40"))
    assert "; less is changed by --torch_dtype bfloat16 --optim paged_adamw_8bit (" in str(caught.value)


def test_recomputation_that_was_turned_off_is_raised() -> None:
    config, lines = fitted(sft(max_length=16_384, gradient_checkpointing="none"), model("1.5b"), on("A6000"))
    assert config.gradient_checkpointing == "selective"
    assert lines[0].startswith("plan: gradient_checkpointing selective: ")


def test_what_changes_the_training_stops_the_run_in_one_line() -> None:
    with pytest.raises(UserError, match=r"66\.8 GB are expected at its peak, 24\.5 GB are") as caught:
        fitted(sft(**BATCH_8), model("1.5b"), on("4090"))
    said = str(caught.value)
    assert "\n" not in said and said.endswith("--plan warn")
    assert "--torch_dtype bfloat16 --optim adamw_8bit --gradient_checkpointing full (17.4 GB; " in said


def test_warn_says_so_and_goes_on() -> None:
    settings = sft(**BATCH_8, plan="warn")
    config, lines = fitted(settings, model("1.5b"), on("4090"))
    assert config == settings and len(lines) == 1 and "the cheapest change is" in lines[0]
    config, lines = fitted(settings, model("1.5b"), on("H20"))
    assert config == settings and "nothing is changed" in lines[0]


def test_a_launcher_may_be_the_cheapest_change() -> None:
    with pytest.raises(UserError, match=r"launched with (zero2|fsdp)\.yaml"):
        fitted(sft(max_length=16_384), model("7b"), on("H100", gpus=8, launcher="ddp"))


def test_what_is_barely_there_is_no_reason_to_stop() -> None:
    settings = sft(max_length=2048, gradient_checkpointing="full")
    machine = on("H200")
    peak = step_memory(settings, model("1.5b"), machine).peak
    barely = replace(machine, memory=peak / USABLE - 1e9)
    assert barely.memory > peak
    assert fitted(settings, model("1.5b"), barely) == (settings, [])


def test_grpo_that_cannot_hold_its_engine_stops_before_it_is_started() -> None:
    common = {"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o", "bf16": True}
    config = GRPOConfig(**common, reward_funcs=["accuracy"], use_vllm=True, max_completion_length=1024)
    with pytest.raises(UserError, match="the cheapest change is --torch_dtype bfloat16 --optim adamw_8bit"):
        fitted(config, model("1.5b"), on("4090"))
    small = GRPOConfig(
        **common | {"bf16": False}, torch_dtype="bfloat16", optim="adamw_8bit", reward_funcs=["accuracy"], use_vllm=True
    )
    assert fitted(small, model("1.5b"), on("4090")) == (small, [])


@pytest.mark.parametrize("recipe", ["Qwen2.5-1.5B/grpo/config_24gb.yaml", "Qwen2.5-7B/grpo/config_lora_48gb.yaml"])
def test_recipes_for_small_cards_run_as_they_are(recipe: str) -> None:
    config = parse(GRPOConfig, ["--config", str(RECIPES / recipe)], prog="open-r1 grpo").config
    name, memory = ("1.5b", 24e9) if "1.5B" in recipe else ("7b", 48e9)
    machine = Machine(name="small", memory=memory - 0.6e9)
    assert fitted(config, model(name), machine) == (config, [])


class Rank:
    """One of two ranks, the other of which has less memory."""

    device = torch.device("cpu")
    is_main = True
    kind, world_size, whole_weights = "ddp", 2, True

    def max(self, value: float) -> float:
        return max(value, -40e9)

    def gather(self, items: list[str]) -> list[str]:
        return [*items, ""] if self.is_main else [self.first_says, *items]


class SecondRank(Rank):
    """It writes nothing."""

    is_main = False
    first_says = "no room"


def test_ranks_plan_for_the_smallest_gpu(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []
    monkeypatch.setattr(first, "device_memory", lambda _device: 80_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H200")
    monkeypatch.setattr(first, "fitted", lambda config, _, machine: (seen.append(machine), (config, ["one line"]))[1])
    config = sft(model_name_or_path=str(tiny_checkpoint))
    assert plan_first(config, Rank()) == config
    assert (seen[0].memory, seen[0].gpus, seen[0].launcher, seen[0].card.name) == (40e9, 2, "ddp", "H200")
    assert capsys.readouterr().err == "one line\n"
    assert plan_first(replace(config, plan="off"), Rank()) == replace(config, plan="off") and len(seen) == 1


def test_a_cpu_is_not_planned_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first, "read_model", lambda _: pytest.fail("was looked at"))
    config = sft()
    assert plan_first(config, Rank()) is config


def test_checkpoints_that_do_not_fit_on_their_disk_stop_the_run_before_it_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What filled the system disk of the tutorial's user: 1.5B with float32 state, a checkpoint each 500 steps."""
    disk = replace(disks.disk_of(tmp_path), free=30_000_000_000)
    monkeypatch.setattr(disks, "disk_of", lambda _: disk)
    monkeypatch.setattr(first, "device_memory", lambda _device: 140_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H200")
    monkeypatch.setattr(first, "read_model", lambda _: model("1.5b"))
    settings = {"output_dir": str(tmp_path), "max_length": 2048, "save_steps": 500}
    with pytest.raises(UserError, match=r"30\.0 GB are free.*2 checkpoints of 18\.5 GB.*go on all the same"):
        plan_first(sft(**settings, max_steps=1500), Rank())
    with pytest.raises(UserError, match=r"^no room; or go on"):
        plan_first(sft(**settings, max_steps=1500), SecondRank())
    config = sft(**settings, max_steps=1500, plan="warn")
    assert plan_first(config, Rank()) is config
    assert "30.0 GB are free" in capsys.readouterr().err
    one = sft(**settings, max_steps=1500, save_strategy="no")
    assert plan_first(one, Rank()) is one


def test_a_run_that_is_continued_needs_room_for_what_is_left_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A spot machine restarts with the command that it began with; nothing is deleted without save_total_limit."""
    gb = 10**9
    there = disks.disk_of(tmp_path)
    monkeypatch.setattr(storage, "written", lambda *_: (20 * gb, 3 * gb))

    def said(free: int, **settings: Any) -> str:
        monkeypatch.setattr(disks, "disk_of", lambda _: replace(there, free=free * gb))
        config = sft(**{"output_dir": str(tmp_path / "run"), "max_steps": 1000, "save_steps": 100} | settings)
        return first.disk_problem(config, model("1.5b"), on("H200"))

    assert said(200) == ""
    for step in (*range(100, 800, 100), 730):  # what SIGTERM saves is one more
        (tmp_path / "run" / f"checkpoint-{step}").mkdir(parents=True)
    write_manifest(tmp_path / "run" / "checkpoint-500", Manifest(500, "", "SFTConfig", {}, {}, {}))
    assert said(43, resume_from_checkpoint=True) == ""
    assert "43.0 GB (2 checkpoints of 20.0 GB and" in said(42, resume_from_checkpoint=True)
    earlier = str(tmp_path / "run" / "checkpoint-500")
    assert "83.0 GB (4 checkpoints of 20.0 GB and" in said(42, resume_from_checkpoint=earlier)
    elsewhere = {"output_dir": str(tmp_path / "elsewhere")}
    assert "83.0 GB (4 checkpoints of" in said(42, resume_from_checkpoint=earlier, **elsewhere)
    assert "183 GB (9 checkpoints of" in said(42, resume_from_checkpoint=True, **elsewhere)
    assert "183 GB (9 checkpoints of" in said(42, resume_from_checkpoint=str(tmp_path / "absent"))


@pytest.mark.parametrize("program", ["sft", "grpo"])
def test_a_run_that_the_plan_refuses_deletes_nothing(
    program: str, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: Any) -> None:
        raise UserError("this run does not fit")

    module = importlib.import_module(f"open_r1.{program}")
    monkeypatch.setattr(module, "plan_first", refuse)
    earlier = tmp_path / "run" / "checkpoint-10" / "model.safetensors"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"weights")
    words = ["--model_name_or_path", str(tiny_checkpoint), "--dataset_name", "tests/data/gsm8k_train_64.jsonl"]
    words += ["--output_dir", str(tmp_path / "run"), "--overwrite_output_dir"]
    words += ["--reward_funcs", "accuracy"] if program == "grpo" else []
    with pytest.raises(UserError, match="does not fit"):
        module.main(words)
    assert earlier.read_bytes() == b"weights"
    assert not (tmp_path / "run" / "settings.json").exists()
