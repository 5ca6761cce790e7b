"""Disks beside all steps of a run, once these are known: by the run before it trains, and by the plan."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from published_shapes import QWEN_1_5B
from rich.console import Console
from training_runs import train

from open_r1.config import SFTConfig
from open_r1.errors import UserError
from open_r1.machine import disks
from open_r1.machine.cards import find_card
from open_r1.model.shape import ModelShape
from open_r1.planning import first, known_steps, storage
from open_r1.planning.known_steps import check_disks_again
from open_r1.planning.plan import plan_run
from open_r1.planning.screen import rendered
from open_r1.planning.situation import Data, Machine, Model

GB = 10**9
MODEL = Model("m", QWEN_1_5B, ModelShape.of(QWEN_1_5B), torch.bfloat16)
A100 = Machine.of_card(find_card("A100-80"))
STEPS = 9865
"""Of 40 M tokens in steps of 4,096: 19 checkpoints of 18.5 GB by default."""


class Rank:
    device, is_main, kind, world_size, whole_weights = torch.device("cpu"), True, "single", 1, True

    def gather(self, items: list[str]) -> list[str]:
        return items


class SecondRank(Rank):
    is_main = False

    def gather(self, items: list[str]) -> list[str]:
        assert items == [""]
        return ["no room", *items]


@pytest.fixture(autouse=True)
def small_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """80 GB, on which everything lies; a GPU of 80 GB."""
    disk = replace(disks.disk_of(tmp_path), free=80 * GB)
    monkeypatch.setattr(disks, "disk_of", lambda _: disk)
    monkeypatch.setattr(known_steps, "device_memory", lambda _: 80 * GB)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA A100-SXM4-80GB")
    monkeypatch.setattr(known_steps, "read_model", lambda _: MODEL)


@pytest.fixture
def settings(tmp_path: Path) -> SFTConfig:
    return SFTConfig(
        model_name_or_path="m", dataset_name="d", output_dir=str(tmp_path / "run"), bf16=True, max_length=4096
    )


def test_a_run_stops_before_it_trains_where_its_checkpoints_will_not_fit(
    settings: SFTConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert first.disk_problem(settings, MODEL, A100) == ""  # one fits
    with pytest.raises(UserError) as refused:
        check_disks_again(settings, Rank(), STEPS)
    said = str(refused.value)
    assert said.startswith("9,865 steps: output_dir ") and "80.0 GB are free" in said and "\n" not in said
    assert "355 GB (19 checkpoints of 18.5 GB and the final model of 3.1 GB): set --save_total_limit 3," in said
    assert said.endswith("go on all the same with --plan warn")
    with pytest.raises(UserError, match=r"^9,865 steps: no room; or go on"):
        check_disks_again(settings, SecondRank(), STEPS)
    check_disks_again(replace(settings, plan="warn"), Rank(), STEPS)
    assert "--save_total_limit 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more", [{"save_total_limit": 3}, {"save_strategy": "no"}, {"plan": "off"}, {"use_peft": True}]
)
def test_what_fits_goes_on_in_silence(
    settings: SFTConfig, more: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    check_disks_again(replace(settings, **more), Rank(), STEPS)
    check_disks_again(settings, Rank(), 2000)
    assert capsys.readouterr().err == ""


def test_a_run_that_is_continued_counts_what_is_left_of_it(settings: SFTConfig, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoint-8000").mkdir(parents=True)
    check_disks_again(replace(settings, resume_from_checkpoint=True), Rank(), STEPS)


def test_what_is_overwritten_makes_room(settings: SFTConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (500, 1000, 1500):
        (tmp_path / "run" / f"checkpoint-{step}").mkdir(parents=True)
    sizes = disks.FolderSize(18 * GB, True)
    monkeypatch.setattr(storage, "folder_size", lambda path, **_: sizes)
    anew = replace(settings, overwrite_output_dir=True, max_steps=3500)
    assert first.disk_problem(anew, MODEL, A100) == ""
    assert "adds up to 114 GB" in first.disk_problem(replace(anew, overwrite_output_dir=False), MODEL, A100)


def test_a_download_is_counted_where_it_goes(settings: SFTConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    there = disks.disk_of("/")
    monkeypatch.setattr(storage, "_downloaded", lambda _: 0)
    monkeypatch.setattr(disks, "disk_of", lambda _: replace(there, free=23 * GB))
    assert first.disk_problem(settings, MODEL, A100) == ""
    far = replace(MODEL, name="org/m", local=False)
    assert "3.1 GB of weights of org/m from the hub)" in first.disk_problem(settings, far, A100)
    monkeypatch.setattr(storage, "_downloaded", lambda _: 3 * GB)
    assert first.disk_problem(settings, far, A100) == ""


def lines(settings: SFTConfig, tokens: int | None) -> str:
    console = Console(width=200, highlight=False)
    plan = plan_run(settings, MODEL, A100, Data(10_000, None, tokens, "given"))
    with console.capture() as shown:
        for line in rendered(plan):
            console.print(line, soft_wrap=True)
    return shown.get()


def test_a_plan_names_what_would_fit(settings: SFTConfig) -> None:
    shown = lines(settings, 40_000_000)
    assert "✓ fits into memory\n! not enough room on the disk, see below\n" in shown
    assert "NOT ENOUGH\n" in shown and "→ --save_total_limit 3, or an --output_dir on a larger disk\n" in shown
    changed = lines(replace(settings, save_total_limit=3), 40_000_000)
    assert "✓ fits\n" in changed and "NOT ENOUGH" not in changed and "→" not in changed


def test_a_plan_of_unknown_steps_counts_one_checkpoint(settings: SFTConfig) -> None:
    shown = lines(settings, None)
    assert "18.5 GB a checkpoint (number unknown, one is counted)" in shown and "21.6 GB needed" in shown


def test_epochs_tell_their_checkpoints_without_steps(settings: SFTConfig) -> None:
    by_epochs = replace(settings, save_strategy="epoch", num_train_epochs=3)
    assert "(2 kept)" in lines(by_epochs, None)


@pytest.mark.parametrize("program", ["sft", "grpo"])
def test_the_steps_that_are_looked_at_are_those_that_are_taken(
    program: str, sft_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    module = importlib.import_module(f"open_r1.{program}")
    monkeypatch.setattr(module, "check_disks_again", lambda _config, _runtime, steps: asked.append(steps))
    more: dict[str, Any] = {"gradient_accumulation_steps": 4, "num_train_epochs": 1.5}
    if program == "grpo":
        more = {
            "reward_funcs": "format",
            "prompts_per_step": 16,
            "num_generations": 2,
            "max_completion_length": 2,
            "num_iterations": 2,
            "num_train_epochs": 0.7,
        }
        sft_settings = {name: sft_settings[name] for name in ("model_name_or_path", "dataset_name", "save_strategy")}
    run = train(program, tmp_path / "run", **sft_settings, **more, logging_steps=1)
    assert asked == [len(run.metrics)] and asked[0] > 1
