"""A final model that cannot be written costs no step: they are saved, and the next start only writes the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from full_disk import no_file_longer_than
from tiny_checkpoint import save_tiny_checkpoint, save_tiny_moe
from training_runs import Run, assert_same_weights, load_weights, train
from transformers import AutoModelForCausalLM

from open_r1.errors import UserError
from open_r1.training import setup

FINAL = "train_results.json"
CODE = {
    "configuration_mine.py": (
        "from transformers import Qwen2Config\n\n\nclass MineConfig(Qwen2Config):\n    model_type = 'mine'\n"
    ),
    "modeling_mine.py": (
        "from transformers import Qwen2ForCausalLM\n\nfrom .configuration_mine import MineConfig\n\n\n"
        "class MineForCausalLM(Qwen2ForCausalLM):\n    config_class = MineConfig\n"
    ),
}


@pytest.fixture
def remote_code(tmp_path: Path) -> Path:
    """A model that comes with its own classes, stored in bfloat16."""
    folder = save_tiny_checkpoint(tmp_path / "mine", dtype=torch.bfloat16)
    for name, code in CODE.items():
        (folder / name).write_text(code)
    classes = {
        "AutoConfig": "configuration_mine.MineConfig",
        "AutoModelForCausalLM": "modeling_mine.MineForCausalLM",
    }
    values = json.loads((folder / "config.json").read_text())
    values |= {"model_type": "mine", "architectures": ["MineForCausalLM"], "auto_map": classes}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def test_a_model_with_code_of_its_own(remote_code: Path, sft_settings: dict[str, Any], tmp_path: Path) -> None:
    settings = sft_settings | {"model_name_or_path": remote_code, "trust_remote_code": "true", "max_steps": 4}
    settings |= {"save_strategy": "steps", "save_steps": 2}
    whole = train("sft", tmp_path / "whole", **settings)
    assert {tensor.dtype for tensor in whole.weights.values()} == {torch.bfloat16}
    opened = AutoModelForCausalLM.from_pretrained(whole.folder, trust_remote_code=True)
    assert type(opened).__name__ == "MineForCausalLM" and opened.dtype == torch.bfloat16
    resumed = train("sft", tmp_path / "on", **settings, resume_from_checkpoint=whole.folder / "checkpoint-2")
    assert_same_weights(resumed.weights, whole.weights)


def test_experts_with_adapters_that_are_merged(sft_settings: dict[str, Any], tmp_path: Path) -> None:
    base = save_tiny_moe(tmp_path / "base")
    settings = sft_settings | {"model_name_or_path": base, "max_steps": 2, "use_peft": "true", "merge_lora": "true"}
    run = train("sft", tmp_path / "run", **settings, lora_r=4)
    before, after = load_weights(base), run.weights
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"model.layers.0.mlp.experts.2.up_proj.weight", "model.layers.1.mlp.gate.weight"} <= moved
    assert "model.layers.0.input_layernorm.weight" not in moved


def fail(*_: Any, **__: Any) -> None:
    raise KeyError("model.layers.0.abacus")


def refuse(*_: Any, **__: Any) -> None:
    raise UserError("merge_lora: no abacus; leave merge_lora out")


@pytest.mark.parametrize("command", ["sft", "grpo"])
def test_the_next_start_only_writes_the_model(
    command: str,
    sft_settings: dict[str, Any],
    grpo_settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    settings = {"sft": sft_settings, "grpo": grpo_settings}[command] | {"max_steps": 3}
    undisturbed = train(command, tmp_path / "undisturbed", **settings)
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(setup, "save_model", fail)
        with pytest.raises(KeyError, match="abacus"):
            train(command, folder, **settings)
        saved = (
            f"all 3 steps are saved to {folder}/checkpoint-3, and the same command with --resume_from_checkpoint true"
        )
        assert (
            f"could not be written into {folder} (KeyError: 'model.layers.0.abacus'); {saved}"
            in capsys.readouterr().err
        )
        patch.setattr(setup, "save_model", refuse)  # once more: the checkpoint is as good as it was
        with pytest.raises(UserError, match=f"leave merge_lora out; all 3 steps are saved to {folder}/checkpoint-3"):
            train(command, folder, **settings, resume_from_checkpoint="true")
    assert Run(folder).checkpoints == [3]
    assert not (folder / FINAL).exists() and not list(folder.glob(".*"))
    resumed = train(command, folder, **settings, resume_from_checkpoint="true")
    assert (resumed.results["steps"], resumed.results["train_steps"]) == (3, 0)
    assert resumed.losses == undisturbed.losses
    assert_same_weights(resumed.weights, undisturbed.weights)


def test_a_disk_that_takes_neither(
    sft_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Then it is said what is there to go on from."""
    finish = setup.save_model

    def on_a_full_disk(*arguments: Any, **settings: Any) -> None:
        with no_file_longer_than(20_000):
            finish(*arguments, **settings)

    monkeypatch.setattr(setup, "save_model", on_a_full_disk)
    monkeypatch.setattr("open_r1.training.checkpoint.save_model", on_a_full_disk)
    folder = tmp_path / "run"
    with pytest.raises(UserError, match=r"make room; the 3 steps could not be saved \(no room\) and are lost"):
        train("sft", folder, **sft_settings, max_steps=3)
    assert not list(folder.glob(".*")) and not list(folder.glob("checkpoint-*"))
    assert "; there is no earlier one" in capsys.readouterr().err


def test_what_fails_for_a_checkpoint_too(
    sft_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    settings = sft_settings | {"max_steps": 3, "save_strategy": "steps", "save_steps": 2}
    train("sft", tmp_path / "whole", **settings)
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "run" / "checkpoint-2")
    monkeypatch.setattr(setup, "save_model", fail)
    monkeypatch.setattr("open_r1.training.checkpoint.save_model", refuse)
    with pytest.raises(KeyError, match="abacus"):
        train("sft", tmp_path / "run", **settings, resume_from_checkpoint="true")
    said = capsys.readouterr().err
    assert "the last steps could not be saved (UserError: merge_lora: no abacus; leave merge_lora out)" in said
    assert f"--resume_from_checkpoint true goes on from {tmp_path}/run/checkpoint-2" in said
