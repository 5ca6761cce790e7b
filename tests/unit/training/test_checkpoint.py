"""Checkpoints are whole or not there."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_runtime import FakeRuntime
from training_runs import assert_different_weights, assert_same_weights
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from open_r1.config import TrainingConfig
from open_r1.errors import UserError
from open_r1.model.load import load_model
from open_r1.training.checkpoint import Checkpoints, TrainingState, torn
from open_r1.training.optimizer import build_optimizer


class Saver:
    """A model with an optimizer that has taken a step, and the checkpoints of its run."""

    def __init__(self, source: Path, folder: Path, **settings: Any) -> None:
        self.config = TrainingConfig(output_dir=str(folder), **settings)
        self.model = load_model(str(source))
        self.optimizer = build_optimizer(self.model, self.config)
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        self.checkpoints = Checkpoints(self.config, FakeRuntime(), self.tokenizer, (self.tokenizer.eos_token_id, 7))

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.tensor([[1, 2, 3]])).logits.logsumexp(-1).sum().backward()
        self.optimizer.step()

    def save(self, *steps: int) -> None:
        for step in steps:
            self.checkpoints.save(TrainingState(step, [{"cursor": step}], "print"), self.model, self.optimizer)

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.checkpoints.folder.iterdir())


@pytest.fixture
def saver(tiny_checkpoint: Path, tmp_path: Path) -> Saver:
    saver = Saver(tiny_checkpoint, tmp_path / "run")
    saver.step()
    return saver


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_what_is_saved_comes_back(saver: Saver, tiny_checkpoint: Path) -> None:
    saver.save(3)
    other = Saver(tiny_checkpoint, saver.checkpoints.folder)
    assert_different_weights(weights(saver.model), weights(other.model))
    state = other.checkpoints.load(other.checkpoints.find(True), other.model, other.optimizer)
    assert (state.step, state.source, state.fingerprint) == (3, [{"cursor": 3}], "print")
    assert_same_weights(weights(saver.model), weights(other.model))
    assert other.model.lm_head.weight is other.model.model.embed_tokens.weight
    saver.step()
    other.step()
    assert_same_weights(weights(saver.model), weights(other.model))  # Adam's moments came back too


def test_transformers_opens_a_checkpoint(saver: Saver) -> None:
    saver.save(3)
    path = saver.checkpoints.find(True)
    assert_same_weights(AutoModelForCausalLM.from_pretrained(path).state_dict(), weights(saver.model))
    assert AutoTokenizer.from_pretrained(path).chat_template == saver.tokenizer.chat_template


def test_the_newest_stay(tiny_checkpoint: Path, tmp_path: Path) -> None:
    saver = Saver(tiny_checkpoint, tmp_path / "run", save_total_limit=2)
    saver.save(8, 9, 10, 100)
    assert saver.names == ["checkpoint-10", "checkpoint-100"]
    assert [path.name for path in saver.checkpoints.whole()] == ["checkpoint-10", "checkpoint-100"]


def test_a_kill_while_an_old_one_is_deleted_leaves_no_part_of_it(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = Saver(tiny_checkpoint, tmp_path / "run", save_total_limit=1)
    saver.save(1)
    monkeypatch.setattr(os, "rmdir", lambda *_, **__: 1 / 0)  # what rmtree does last
    with pytest.raises(ZeroDivisionError):
        saver.save(2)
    assert saver.names == [".checkpoint-1.old.tmp", "checkpoint-2"]


def test_a_checkpoint_is_written_over(saver: Saver) -> None:
    saver.save(3, 3)
    assert saver.names == ["checkpoint-3"]
    assert torn(saver.checkpoints.find(True)) is None


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


TEARS = [
    (remove, "model.safetensors", "model.safetensors is missing"),
    (cut, "model.safetensors", "model.safetensors has"),
    (cut, "training_state.pt", "training_state.pt has"),
    (remove, "tokenizer.json", "tokenizer.json is missing"),
    (remove, "checkpoint.json", "checkpoint.json is missing"),
    (cut, "checkpoint.json", "checkpoint.json cannot be read"),
]


@pytest.mark.parametrize(("tear", "name", "reason"), TEARS, ids=[f"{tear.__name__} {name}" for tear, name, _ in TEARS])
def test_a_torn_checkpoint(tear: Any, name: str, reason: str, saver: Saver, capsys: pytest.CaptureFixture) -> None:
    saver.save(3, 5)
    last = saver.checkpoints.folder / "checkpoint-5"
    tear(last / name)
    assert saver.checkpoints.find(True).name == "checkpoint-3"
    assert f"checkpoint-5 is passed over: {reason}" in capsys.readouterr().err
    with pytest.raises(UserError, match=f"checkpoint-5: {reason}.*or true for the last whole one"):
        saver.checkpoints.find(str(last))
    assert saver.checkpoints.find(str(last.with_name("checkpoint-3"))).name == "checkpoint-3"


def test_a_torn_one_does_not_push_out_a_whole_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    saver = Saver(tiny_checkpoint, tmp_path / "run", save_total_limit=2)
    saver.save(1, 2)
    remove(tmp_path / "run" / "checkpoint-2" / "checkpoint.json")
    saver.save(3)
    assert [path.name for path in saver.checkpoints.whole()] == ["checkpoint-1", "checkpoint-3"]


def test_nothing_to_resume_from(saver: Saver, tmp_path: Path) -> None:
    saver.checkpoints.folder.mkdir()
    assert saver.checkpoints.find(None) is saver.checkpoints.find(False) is saver.checkpoints.find(True) is None
    with pytest.raises(UserError, match="no such folder; give a checkpoint-N folder, or true"):
        saver.checkpoints.find(str(tmp_path / "absent"))


def test_a_full_disk_leaves_the_last_one(
    saver: Saver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    saver.save(3)

    def fail(value: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    saver.save(5)
    assert saver.names == ["checkpoint-3"]
    assert "checkpoint 5 was not saved" in capsys.readouterr().err


def test_a_kill_between_two_files_leaves_nothing_that_counts(saver: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "dumps", lambda *_, **__: 1 / 0)  # the manifest is what is written last
    with pytest.raises(ZeroDivisionError):
        saver.save(3)
    assert saver.names == [".checkpoint-3.tmp"]
    assert saver.checkpoints.find(True) is None


def test_weights_of_another_model(saver: Saver) -> None:
    saver.save(3)
    config = saver.model.config
    config.num_hidden_layers, config.layer_types = 1, config.layer_types[:1]
    other = type(saver.model)(config)
    with pytest.raises(UserError, match="checkpoint-3: its weights do not fit this model"):
        saver.checkpoints.load(saver.checkpoints.find(True), other, build_optimizer(other, saver.config))
