"""What settings, launcher and chip cannot do together: the plan says it, and the run, before anything is deleted."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from published_shapes import QWEN_1_5B

from open_r1.cli import main
from open_r1.config import SFTConfig
from open_r1.errors import UserError
from open_r1.planning import refusals
from open_r1.planning.refusals import check_settings, refusal, slow_type

CASES = {
    "grpo --launcher fsdp --gpus 2 --gpu H100": "transformers draws completions from whole weights",
    "grpo --launcher zero3 --gpus 2 --gpu H100": "transformers draws completions from whole weights",
    "sft --use_peft --load_in_4bit --launcher fsdp --gpus 2 --gpu H100": "load_in_4bit and fsdp do not go together",
    "sft --optim adamw_8bit --launcher zero2 --gpus 2 --gpu H100": "optim adamw_8bit holds whole parameters",
    "sft --torch_compile --launcher zero3 --gpus 2 --gpu H100": "torch_compile and ZeRO-3 do not go together",
    "sft --fp8 --gpu A100-80": "fp8 needs a GPU of the Ada or Hopper generation or newer (compute capability 8.9)",
}
KINDS = {"fsdp": ("fsdp", False), "zero2": ("deepspeed", True), "zero3": ("deepspeed", False), "none": ("single", True)}


class Launched:
    """A rank of a run that was launched so, which is not to be asked for more."""

    def __init__(self, launcher: str) -> None:
        self.kind, self.whole_weights = KINDS[launcher]
        self.device, self.is_main, self.world_size = torch.device("cuda"), True, 2


def split(case: str) -> tuple[str, list[str], dict[str, str]]:
    """Program, settings of the run, and what only the plan is told."""
    program, *words = case.split()
    told = {}
    for name in ("--launcher", "--gpus", "--gpu"):
        if name in words:
            at = words.index(name)
            told[name] = words[at + 1]
            del words[at : at + 2]
    return program, words, told


@pytest.mark.parametrize("case", CASES)
def test_plan_and_run_refuse_in_the_same_words_and_nothing_is_lost(
    case: str,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program, settings, told = split(case)
    QWEN_1_5B.save_pretrained(tmp_path / "1.5b")
    rewards = ["--reward_funcs", "accuracy"] if program == "grpo" else []
    words = [program, "--model_name_or_path", str(tmp_path / "1.5b"), *settings, *rewards]
    words += [word for pair in told.items() for word in pair]
    assert main(["plan", *words, "--plan_tokens", "1000000", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["problem"].startswith(CASES[case])
    assert (planned["fits"], planned["hours"], planned["changes"]) == (False, None, [])
    assert main(["plan", *words]) == 0
    shown = capsys.readouterr().out
    assert f"✗ would be refused: {planned['problem']}\n" in shown and "✓" not in shown

    module = importlib.import_module(f"open_r1.{program}")
    monkeypatch.setattr(module, "start_run", lambda _config: Launched(told.get("--launcher", "none")))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0) if "A100" in case else (9, 0))
    earlier = tmp_path / "run" / "checkpoint-10" / "model.safetensors"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"weights")
    words = ["--model_name_or_path", str(tiny_checkpoint), "--dataset_name", "tests/data/gsm8k_train_64.jsonl"]
    words += ["--output_dir", str(tmp_path / "run"), "--overwrite_output_dir", "--plan", "off", *settings, *rewards]
    with pytest.raises(UserError) as refused:
        module.main(words)
    assert str(refused.value) == planned["problem"]
    assert earlier.read_bytes() == b"weights" and not (tmp_path / "run" / "settings.json").exists()


def sft(**more: Any) -> SFTConfig:
    return SFTConfig(**{"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o", **more})


def test_what_goes_together_is_not_refused() -> None:
    assert refusal(sft(optim="adamw_8bit", use_peft=True, load_in_4bit=True), "ddp", (7, 5)) == ""
    assert refusal(sft(optim="adamw_torch", torch_compile=True), "fsdp", (9, 0)) == ""
    assert refusal(sft(fp8=True), "zero3", None) == refusal(sft(fp8=True), "none", (8, 9)) == ""
    assert "there is none here" in refusal(sft(fp8=True), "none", refusals.NO_CUDA)


def test_one_process_has_nothing_to_shard_under_fsdp() -> None:
    card = SimpleNamespace(capability=(9, 0))
    machine = SimpleNamespace(gpus=1, launcher="fsdp", card=card, memory=80e9)
    assert refusals.on_machine(machine) == ("none", (9, 0))
    machine.launcher = "zero3"  # DeepSpeed takes one process too
    assert refusals.on_machine(machine) == ("zero3", (9, 0))


def test_a_missing_package_is_said_before_anything_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="load_in_4bit needs bitsandbytes"):
        check_settings(sft(use_peft=True, load_in_4bit=True), Launched("none"))
    with pytest.raises(UserError, match="fp8 needs torchao"):
        check_settings(sft(fp8=True), Launched("none"))


@pytest.mark.parametrize(
    ("settings", "capability", "advice"),
    [
        ({"bf16": True}, (7, 5), "; --bf16 false --fp16 true is"),
        ({"torch_dtype": "bfloat16"}, (7, 0), "; --torch_dtype float32 --bf16 false --fp16 true is"),
        ({"torch_dtype": "bfloat16", "fp16": True}, (7, 0), ""),
        ({"fp16": True}, (7, 5), ""),
        ({}, (7, 5), ""),
        ({"bf16": True}, (8, 0), ""),
        ({"bf16": True}, refusals.NO_CUDA, ""),
        ({"bf16": True}, None, ""),
    ],
)
def test_bf16_where_it_is_emulated(settings: dict[str, Any], capability: tuple[int, int] | None, advice: str) -> None:
    line = slow_type(sft(**settings), capability)
    assert (advice in line and "bf16 is slow on this GPU" in line) if advice else line == ""


def test_a_run_in_emulated_bf16_begins_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    check_settings(sft(bf16=True), Launched("none"))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "its compute capability is 7.5" in said and "--bf16 false --fp16 true" in said


def test_a_plan_knows_that_emulated_bf16_is_slower(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    QWEN_1_5B.save_pretrained(tmp_path)
    words = ["plan", "sft", "--model_name_or_path", str(tmp_path), "--gpu", "V100-32", "--max_length", "1024"]
    rates = {}
    for name in ("bf16", "fp16"):
        assert main([*words, f"--{name}", "--json"]) == 0
        rates[name] = json.loads(capsys.readouterr().out)
    assert rates["bf16"]["tokens_per_second"] < rates["fp16"]["tokens_per_second"] / 4
    assert "no tensor cores" in rates["bf16"]["slow"] and rates["fp16"]["slow"] == ""
    assert main([*words, "--bf16"]) == 0
    assert "! bf16 is slow on this GPU" in capsys.readouterr().out


@pytest.mark.parametrize("program", ["sft", "grpo"])
def test_a_checkpoint_that_is_not_there_is_said_before_anything_is_prepared(
    program: str, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model_name_or_path", str(tiny_checkpoint), "--dataset_name", str(tmp_path / "gone.jsonl")]
    words += ["--output_dir", str(tmp_path / "run"), "--resume_from_checkpoint", "data/gone/checkpoint-103500"]
    assert main([program, *words]) == 2
    assert "checkpoint-103500: no such folder; give a checkpoint-N folder, or true" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
