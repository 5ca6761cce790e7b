"""Whole runs by their settings: what they train, refuse and leave behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_checkpoint import save_tiny_checkpoint
from training_runs import Run, assert_different_weights, assert_same_weights, load_weights, train
from transformers import AutoModelForCausalLM, AutoTokenizer

from open_r1.errors import StopRequested, UserError
from open_r1.locks import held
from open_r1.training.checkpoint import Checkpoints
from open_r1.training.run_folder import LOCK_FILE


@pytest.fixture
def rewards(tmp_path: Path) -> str:
    path = tmp_path / "rewards_of_mine.py"
    path.write_text(
        "def constant(completions, **columns):\n    return [0.5] * len(completions)\n\n\n"
        "def broken(completions, **columns):\n    raise KeyError('gold')\n"
    )
    return str(path)


def test_a_folder_that_holds_a_run(sft_settings: dict[str, Any], tmp_path: Path) -> None:
    settings = sft_settings | {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    first = train("sft", tmp_path / "run", **settings)
    assert first.checkpoints == [2]  # the last step is the final model
    with pytest.raises(UserError, match=r"holds a run already; continue it with --resume_from_checkpoint true"):
        train("sft", tmp_path / "run", **settings)
    with pytest.raises(UserError, match="nowhere"):  # what is found out late costs no earlier run
        train("sft", tmp_path / "run", **settings | {"dataset_name": tmp_path / "nowhere"}, overwrite_output_dir=True)
    assert first.checkpoints == [2] and first.weights
    anew = train("sft", tmp_path / "run", **settings | {"max_steps": 2}, overwrite_output_dir=True)
    assert len(anew.losses) == 2
    assert anew.checkpoints == []
    assert json.loads((anew.folder / "settings.json").read_text())["max_steps"] == 2


def test_a_folder_in_which_another_run_is(sft_settings: dict[str, Any], tmp_path: Path) -> None:
    half_written = tmp_path / "run" / ".checkpoint-2.tmp"
    half_written.mkdir(parents=True)
    with held(tmp_path / "run" / LOCK_FILE), pytest.raises(UserError, match=rf"another run \(process {os.getpid()}\)"):
        train("sft", tmp_path / "run", **sft_settings, max_steps=1, overwrite_output_dir=True)
    assert half_written.exists()
    train("sft", tmp_path / "run", **sft_settings, max_steps=1)
    assert not half_written.exists() and not (tmp_path / "run" / LOCK_FILE).exists()


@pytest.mark.parametrize("below", ["", "run"], ids=["a file", "below a file"])
def test_an_output_folder_that_cannot_be(below: str, sft_settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").touch()
    folder = tmp_path / "data.jsonl" / below
    with pytest.raises(UserError, match=rf"output_dir {folder} cannot be used \(.*: name a folder"):
        train("sft", folder, **sft_settings)


def test_the_final_model_is_as_its_base_was_stored(sft_settings: dict[str, Any], tmp_path: Path) -> None:
    base = save_tiny_checkpoint(tmp_path / "base", dtype=torch.bfloat16)
    settings = sft_settings | {"model_name_or_path": base, "save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    run = train("sft", tmp_path / "run", **settings)
    assert {tensor.dtype for tensor in run.weights.values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in load_weights(run.folder / "checkpoint-1").values()} == {torch.float32}
    assert AutoModelForCausalLM.from_pretrained(run.folder).dtype == torch.bfloat16
    assert AutoTokenizer.from_pretrained(run.folder).chat_template


def test_a_merged_model_is_as_its_base_was_stored(sft_settings: dict[str, Any], tmp_path: Path) -> None:
    settings = sft_settings | {"model_name_or_path": save_tiny_checkpoint(tmp_path / "base", dtype=torch.bfloat16)}
    run = train("sft", tmp_path / "run", **settings, use_peft=True, lora_r=4, merge_lora=True, max_steps=1)
    assert {tensor.dtype for tensor in run.weights.values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(run.folder).dtype == torch.bfloat16


def test_the_loss_falls_on_what_was_held_out(sft_settings: dict[str, Any], tmp_path: Path) -> None:
    mixture = {"datasets": [{"id": str(sft_settings["dataset_name"])}], "seed": 0, "test_split_size": 0.2}
    config = tmp_path / "recipe.yaml"
    config.write_text(json.dumps({"dataset_mixture": mixture, "eval_strategy": "steps", "eval_steps": 5}))
    settings = {name: value for name, value in sft_settings.items() if name != "dataset_name"}
    run = train("sft", tmp_path / "run", config=config, **settings, max_steps=20)
    losses = {line["step"]: line["eval_loss"] for line in run.metrics if "eval_loss" in line}
    assert list(losses) == [5, 10, 15, 20]
    assert losses[20] < losses[5] - 0.3


def test_held_out_loss_is_the_loss(sft_settings: dict[str, Any], tmp_path: Path) -> None:
    """Of the same rows, at the same weights: one step over all packs, with rate 0."""
    rows = tmp_path / "rows"
    rows.mkdir()
    for split in ("train", "test"):
        (rows / f"{split}.jsonl").write_text(Path(sft_settings["dataset_name"]).read_text())
    settings = sft_settings | {"dataset_name": rows, "learning_rate": 0, "gradient_accumulation_steps": 40}
    run = train("sft", tmp_path / "run", **settings, eval_strategy="epoch")
    (line,) = run.metrics
    assert line["eval_loss"] == pytest.approx(line["loss"], abs=1e-5)


def test_held_out_rows_of_which_none_fits(sft_settings: dict[str, Any], tmp_path: Path) -> None:
    lines = Path(sft_settings["dataset_name"]).read_text().splitlines()
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "train.jsonl").write_text("\n".join(lines))
    (rows / "test.jsonl").write_text(json.dumps(json.loads(lines[0]) | {"solution": "5" * 200}))
    settings = sft_settings | {"dataset_name": rows, "max_steps": 1, "overlong": "drop", "eval_strategy": "epoch"}
    with pytest.raises(UserError, match="no held-out sequence has a token to predict within max_length 96; raise it"):
        train("sft", tmp_path / "run", **settings)


@pytest.mark.parametrize("command", ["sft", "grpo"])
def test_adapters_alone_are_trained_and_saved(
    command: str, sft_settings: dict[str, Any], grpo_settings: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"sft": sft_settings, "grpo": grpo_settings | {"beta": 0.1}}[command]
    settings = settings | {"use_peft": True, "lora_r": 4, "max_steps": 3}
    run = train(command, tmp_path / "run", **settings)
    files = {path.name for path in run.folder.glob("*.safetensors")}
    assert files == {"adapter_model.safetensors"}
    adapters = load_file(run.folder / "adapter_model.safetensors")
    assert all("lora_" in name for name in adapters)
    assert any(tensor.any() for name, tensor in adapters.items() if "lora_B" in name)

    base = AutoModelForCausalLM.from_pretrained(settings["model_name_or_path"])
    ids = torch.tensor([[1, 2, 3, 4]])
    before = base(ids).logits
    tuned = PeftModel.from_pretrained(base, run.folder)
    assert not torch.allclose(tuned(ids).logits, before)
    with tuned.disable_adapter():
        assert torch.equal(tuned(ids).logits, before)


def test_lora_target_modules_that_are_not_there(sft_settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lora_target_modules.*nowhere_proj"):
        train("sft", tmp_path, **sft_settings, max_steps=1, use_peft=True, lora_target_modules="nowhere_proj")


@pytest.mark.parametrize("adapters", [False, True])
def test_the_reference_is_where_training_started(adapters: bool, grpo_settings: dict[str, Any], tmp_path: Path) -> None:
    settings = grpo_settings | {"beta": 0.1, "temperature": 0.7, "use_peft": adapters, "max_steps": 3}
    kl = [line["kl_reference"] for line in train("grpo", tmp_path, **settings).metrics]
    assert kl[0] == pytest.approx(0.0, abs=1e-9)
    assert min(kl[1:]) > 1e-4


def test_without_beta_there_is_no_reference(grpo_settings: dict[str, Any], tmp_path: Path) -> None:
    assert "kl_reference" not in train("grpo", tmp_path, **grpo_settings, max_steps=1).metrics[0]


def test_rewards_that_are_all_equal_train_nothing(rewards: str, grpo_settings: dict[str, Any], tmp_path: Path) -> None:
    settings = grpo_settings | {"reward_funcs": [f"{rewards}:constant"], "weight_decay": 0.5, "max_resample_rounds": 1}
    run = train("grpo", tmp_path / "run", **settings, max_steps=2)
    assert_same_weights(run.weights, load_weights(settings["model_name_or_path"]))
    assert [(line["skipped"], line["groups_trained"], line["prompts_drawn"]) for line in run.metrics] == [(1, 0, 4)] * 2
    assert run.results["train_tokens"] == 0


def test_rewards_that_fail_on_everything_stop_the_run(
    rewards: str, grpo_settings: dict[str, Any], tmp_path: Path
) -> None:
    settings = grpo_settings | {"reward_funcs": [f"{rewards}:broken"]}
    with pytest.raises(UserError, match=r"failed on .* in a row; the last error: broken: KeyError: 'gold'"):
        train("grpo", tmp_path / "run", **settings, max_steps=1)


def test_one_reward_of_two_may_fail(
    rewards: str, grpo_settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    mine = grpo_settings["reward_funcs"][0]
    settings = grpo_settings | {"reward_funcs": [mine, f"{rewards}:broken"]}
    run = train("grpo", tmp_path / "run", **settings, max_steps=2)
    assert_different_weights(run.weights, load_weights(settings["model_name_or_path"]))
    assert all(line["reward_errors"] == 2 for line in run.metrics)  # one for each group
    assert capsys.readouterr().err.count("a reward function failed") == 1
    alone = train("grpo", tmp_path / "alone", **grpo_settings, max_steps=2)
    assert run.losses == alone.losses


def test_a_step_must_hold_whole_groups(grpo_settings: dict[str, Any], tmp_path: Path) -> None:
    settings = grpo_settings | {"per_device_train_batch_size": 6, "max_steps": 1}
    with pytest.raises(UserError, match="are not whole groups of num_generations 4"):
        train("grpo", tmp_path / "refused", **settings, gradient_accumulation_steps=1)
    # What is left out is solved for: 12 completions are the fewest whole groups.
    (line,) = train("grpo", tmp_path / "solved", **settings).metrics
    assert line["prompts_drawn"] == 3
    del settings["per_device_train_batch_size"]
    (line,) = train("grpo", tmp_path / "asked", **settings, prompts_per_step=5).metrics
    assert line["prompts_drawn"] == 5


@pytest.mark.parametrize(("count", "written"), [(3, 3), (6, 6), (0, 0), (None, 4)])
def test_completions_are_logged_when_asked(
    count: int | None, written: int, grpo_settings: dict[str, Any], tmp_path: Path
) -> None:
    settings = {} if count is None else {"num_completions_to_print": count}
    run = train("grpo", tmp_path, **grpo_settings, max_steps=2, log_completions=True, **settings)
    entries = completions_of(run)
    assert [entry["step"] for entry in entries] == [1] * written + [2] * written
    assert all(entry["prompt"][-1]["content"].endswith("?") for entry in entries)
    assert all(0 <= entry["reward"] <= 1 for entry in entries)


def test_completions_of_steps_that_are_taken_again_stand_there_once(
    grpo_settings: dict[str, Any], tmp_path: Path
) -> None:
    settings = grpo_settings | {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, "log_completions": True}
    run = train("grpo", tmp_path / "run", **settings, num_iterations=2)
    before = completions_of(run)
    assert sorted({entry["step"] for entry in before}) == [1, 3, 5]
    with (run.folder / "completions.jsonl").open("a") as file:
        file.write('{"draw": 99, "prom')  # where a kill cut it
    again = {"resume_from_checkpoint": run.folder / "checkpoint-2"}
    assert completions_of(train("grpo", run.folder, **settings, num_iterations=2, **again)) == before


def completions_of(run: Run) -> list[dict[str, Any]]:
    """The entries of completions.jsonl."""
    return [json.loads(line) for line in (run.folder / "completions.jsonl").read_text().splitlines()]


def test_a_padding_token_outside_the_embedding(grpo_settings: dict[str, Any], tmp_path: Path) -> None:
    """As of a tokenizer that was given one after the model was made; prompts of several lengths need padding."""
    model = Path(shutil.copytree(grpo_settings["model_name_or_path"], tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    tokenizer.save_pretrained(model)
    config = json.loads((model / "config.json").read_text())
    assert tokenizer.pad_token_id == config["vocab_size"]
    settings = grpo_settings | {"model_name_or_path": model, "per_device_train_batch_size": 32, "max_steps": 1}
    plain = train("grpo", tmp_path / "plain", **settings | {"model_name_or_path": grpo_settings["model_name_or_path"]})
    assert train("grpo", tmp_path / "run", **settings).losses == plain.losses


@pytest.mark.parametrize("command", ["sft", "grpo"])
def test_a_token_outside_the_embedding(
    command: str, sft_settings: dict[str, Any], grpo_settings: dict[str, Any], tmp_path: Path
) -> None:
    """A GPU would say it as an assertion somewhere in the middle of the run."""
    settings = {"sft": sft_settings, "grpo": grpo_settings}[command]
    model = Path(shutil.copytree(settings["model_name_or_path"], tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["<step>"])
    tokenizer.save_pretrained(model)
    settings = settings | {"model_name_or_path": model, "max_steps": 1}
    train(command, tmp_path / "unused", **settings)
    rows = Path(settings["dataset_name"]).read_text().replace("+", "<step>")
    (tmp_path / "rows.jsonl").write_text(rows)
    with pytest.raises(UserError, match=r"the data has the token '<step>' \(259\), and the model's embedding has 259"):
        train(command, tmp_path / "run", **settings | {"dataset_name": tmp_path / "rows.jsonl"})


def test_a_stop_whose_checkpoint_fails_does_not_say_saved(
    sft_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def full(*arguments: Any) -> None:
        attempts.append(arguments)
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "_write", full)
    settings = sft_settings | {"save_strategy": "steps", "save_steps": 2, "max_steps": 9}
    with pytest.raises(StopRequested, match="after step 2 of 9; not saved, there is no earlier one"):
        train("sft", tmp_path, **settings)
    assert Run(tmp_path).checkpoints == []
    assert len(attempts) == 1  # not written twice for the same step


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"save_strategy": "steps", "save_steps": 3, "max_steps": 8}, [3, 6]),
        ({"save_strategy": "steps", "save_steps": 0.25, "max_steps": 8}, [2, 4, 6]),
        ({"save_strategy": "no", "max_steps": 8}, []),
        ({"save_strategy": "epoch", "num_train_epochs": 3, "gradient_accumulation_steps": 16}, None),
    ],
)
def test_when_checkpoints_are_saved(
    settings: dict[str, Any], steps: list[int] | None, sft_settings: dict[str, Any], tmp_path: Path
) -> None:
    run = train("sft", tmp_path, **sft_settings | settings)
    if steps is None:  # after the step in which an epoch ends; the third one's is the final model
        epochs = np.array([line["epoch"] for line in run.metrics])
        steps = [int(np.argmax(epochs >= epoch - 1e-9)) + 1 for epoch in (1, 2)]
    assert run.checkpoints == steps


def test_overwriting_leaves_nothing_of_the_earlier_run(sft_settings: dict, tmp_path: Path) -> None:
    """A stopped run must not lie beside the weights of the one it replaced."""
    (tmp_path / "train_results.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("weights of the earlier run")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="overwrite_output_dir"):
        train("sft", tmp_path, **sft_settings, max_steps=1)
    train("sft", tmp_path, **sft_settings, max_steps=1, overwrite_output_dir=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "model.safetensors").read_bytes()[:7] != b"weights"


def test_training_into_the_models_own_folder_is_refused(sft_settings: dict) -> None:
    with pytest.raises(UserError, match="the model that training starts from"):
        train("sft", sft_settings["model_name_or_path"], **sft_settings, max_steps=1)
