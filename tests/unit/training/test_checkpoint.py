"""Checkpoints are whole or not there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from saver import Saver, weights
from training_runs import assert_different_weights, assert_same_weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from open_r1.errors import UserError
from open_r1.model.pack_model import PackModel
from open_r1.parallel.runtime import Runtime
from open_r1.parallel.zero import LossScale
from open_r1.training import checkpoint
from open_r1.training.checkpoint import Checkpoints, TrainingState, flaw
from open_r1.training.optimizer import build_optimizer


def test_what_is_saved_comes_back(saver: Saver, tiny_checkpoint: Path) -> None:
    saver.save(3)
    other = Saver(tiny_checkpoint, saver.checkpoints.folder, saver.runtime)
    assert_different_weights(weights(saver.model), weights(other.model))
    state = other.load()
    assert (state.step, state.source, state.fingerprint) == (3, [{"cursor": 3}], "print")
    assert_same_weights(weights(saver.model), weights(other.model))
    assert other.model.lm_head.weight is other.model.model.embed_tokens.weight
    saver.step()
    other.step()
    assert_same_weights(weights(saver.model), weights(other.model))  # Adam's moments came back too


def test_the_loss_scale_comes_back(saver: Saver, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    monkeypatch.setattr(Runtime, "loss_scaler", property(lambda _: scaler))
    scaler.scale(torch.ones(()))  # from here on it has a scale
    scaler.update(64.0)
    saver.save(3)
    kept = scaler.state_dict()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    Saver(tiny_checkpoint, saver.checkpoints.folder, saver.runtime).load()
    assert (scaler.state_dict(), scaler.get_scale()) == (kept, 64.0)


@pytest.mark.parametrize("used", [False, True])
def test_the_loss_scale_of_deepspeed_is_taken_over_by_torch_and_back(
    used: bool, saver: Saver, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp16 that began under ZeRO goes on under DDP or on one GPU, and the other way round."""
    deepspeed = SimpleNamespace(loss_scale=64.0, loss_scaler=SimpleNamespace(cur_scale=64.0))
    scaler: Any = LossScale(deepspeed)
    monkeypatch.setattr(Runtime, "loss_scaler", property(lambda _: scaler))
    saver.save(3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=3)
    if used:
        scaler.scale(torch.ones(()))
        scaler._growth_tracker.fill_(2)
    other = Saver(tiny_checkpoint, saver.checkpoints.folder, saver.runtime)
    other.load()
    scaler.scale(torch.ones(()))
    state = scaler.state_dict()
    assert (state["scale"], state["growth_interval"], state["_growth_tracker"]) == (64.0, 3, 0)
    scaler.update(32.0)
    other.save(4)
    scaler = LossScale(deepspeed)
    Saver(tiny_checkpoint, saver.checkpoints.folder, saver.runtime).load()
    assert deepspeed.loss_scaler.cur_scale == 32.0


def test_transformers_opens_a_checkpoint(saver: Saver) -> None:
    saver.save(3)
    path = saver.checkpoints.find(True)
    assert_same_weights(AutoModelForCausalLM.from_pretrained(path).state_dict(), weights(saver.model))
    assert AutoTokenizer.from_pretrained(path).chat_template == saver.tokenizer.chat_template


def test_before_the_first_step(tiny_checkpoint: Path, tmp_path: Path, runtime: Runtime) -> None:
    """An optimizer that has no state yet."""
    saver, other = (Saver(tiny_checkpoint, tmp_path / "run", runtime) for _ in range(2))
    saver.save(0)
    other.step()
    assert other.load().step == 0
    assert_same_weights(weights(saver.model), weights(other.model))


def test_the_newest_stay(tiny_checkpoint: Path, tmp_path: Path, runtime: Runtime) -> None:
    saver = Saver(tiny_checkpoint, tmp_path / "run", runtime, save_total_limit=2)
    saver.save(8, 9, 10, 100)
    assert saver.names == ["checkpoint-10", "checkpoint-100"]


def test_a_kill_while_an_old_one_is_deleted_leaves_no_part_of_it(
    tiny_checkpoint: Path, tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = Saver(tiny_checkpoint, tmp_path / "run", runtime, save_total_limit=1)
    saver.save(1)
    monkeypatch.setattr(os, "rmdir", lambda *_, **__: 1 / 0)  # what rmtree does last
    with pytest.raises(ZeroDivisionError):
        saver.save(2)
    assert saver.names == [".checkpoint-1.old.tmp", "checkpoint-2"]


def test_one_of_another_course_is_written_over(saver: Saver, tiny_checkpoint: Path) -> None:
    saver.save(3)
    other = Saver(tiny_checkpoint, saver.checkpoints.folder, saver.runtime)
    other.save(3)
    assert saver.names == ["checkpoint-3"]
    assert flaw(saver.checkpoints.find(True), contents=True) is None
    saver.load()
    assert_same_weights(weights(saver.model), weights(other.model))


def test_what_was_just_loaded_or_saved_is_not_written_again(saver: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing it over would leave a moment without it, and it may be the only one."""
    saver.save(3)
    saver.load()
    monkeypatch.setattr(Checkpoints, "_write", lambda *_: 1 / 0)
    assert saver.save(3) == saver.checkpoints.folder / "checkpoint-3"
    with pytest.raises(ZeroDivisionError):
        saver.save(4)


def test_a_folder_that_vanishes_while_others_are_counted(
    tiny_checkpoint: Path, tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = Saver(tiny_checkpoint, tmp_path / "run", runtime, save_total_limit=1)
    saver.save(1, 2)
    shutil.copytree(tmp_path / "run" / "checkpoint-2", tmp_path / "run" / "checkpoint-1")
    replace = os.replace

    def replace_what_another_deletes(source: Path, target: Path) -> None:
        if source.name == "checkpoint-1":
            shutil.rmtree(source)
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_what_another_deletes)
    assert saver.save(3) is not None
    assert saver.names == ["checkpoint-3"]


def test_those_of_a_course_that_is_given_up_step_aside(saver: Saver, capsys: pytest.CaptureFixture) -> None:
    saver.save(1, 2, 3)
    saver.load(str(saver.checkpoints.folder / "checkpoint-1"))
    saver.checkpoints.set_aside_after(1)
    assert saver.names == ["checkpoint-1", "superseded-checkpoint-2", "superseded-checkpoint-3"]
    assert "checkpoint-3 is of the course that is given up: renamed to" in capsys.readouterr().err
    assert saver.checkpoints.find(True).name == "checkpoint-1"


def test_nothing_to_resume_from(saver: Saver, tmp_path: Path) -> None:
    saver.checkpoints.folder.mkdir()
    assert saver.checkpoints.find(None) is saver.checkpoints.find(False) is saver.checkpoints.find(True) is None
    with pytest.raises(UserError, match="no such folder; give a checkpoint-N folder, or true"):
        saver.checkpoints.find(str(tmp_path / "absent"))


def test_a_defect_while_saving_is_no_full_disk(saver: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saver.tokenizer, "save_pretrained", lambda _: [][1])
    with pytest.raises(IndexError):
        saver.save(5)
    assert saver.names == []


def test_a_kill_between_two_files_leaves_nothing_that_counts(saver: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_manifest", killed)  # what is written last
    with pytest.raises(KeyboardInterrupt):
        saver.save(3)
    assert saver.names == [".checkpoint-3.tmp"]
    assert saver.checkpoints.find(True) is None


def test_weights_of_another_model(saver: Saver) -> None:
    saver.save(3)
    config = saver.model.config
    config.num_hidden_layers, config.layer_types = 1, config.layer_types[:1]
    saver.module = PackModel(type(saver.model)(config))
    saver.optimizer = build_optimizer(saver.module, saver.config)
    with pytest.raises(UserError, match=r"checkpoint-3: the weights do not fit this model: model\.layers\.1"):
        saver.load()


class Unpickled:
    """What an attacker puts into a pickle: it makes a folder as soon as it is read."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


def test_a_checkpoint_runs_no_program(saver: Saver, tmp_path: Path) -> None:
    """It may have been downloaded; its seal says that it is as it was made, not who made it."""
    path = tmp_path / "run" / "checkpoint-3"
    saver.checkpoints.save(
        TrainingState(3, [{"cursor": Unpickled(tmp_path / "made")}], ""), saver.module, saver.optimizer
    )
    assert saver.checkpoints.find(True) == path
    with pytest.raises(UserError, match=r"rest\.pt holds what no checkpoint of open-r1 does, and is not opened"):
        saver.load()
    assert not (tmp_path / "made").exists()


def test_without_the_optimizer(saver: Saver, tiny_checkpoint: Path) -> None:
    saver.save(3)
    other = Saver(tiny_checkpoint, saver.checkpoints.folder, saver.runtime)
    assert other.load(with_optimizer=False).step == 3
    assert_same_weights(weights(saver.model), weights(other.model))
    assert not other.optimizer.state
