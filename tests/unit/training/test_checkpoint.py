"""Checkpoints are whole or not there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from full_disk import no_file_longer_than
from training_runs import assert_different_weights, assert_same_weights
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from open_r1.config import TrainingConfig
from open_r1.errors import UserError
from open_r1.model.export import save_model
from open_r1.model.load import load_model
from open_r1.model.pack_model import PackModel
from open_r1.parallel.runtime import Runtime
from open_r1.training import checkpoint
from open_r1.training.checkpoint import Checkpoints, TrainingState, flaw
from open_r1.training.optimizer import build_optimizer


class Saver:
    """A model with its optimizer, and the checkpoints of its run."""

    def __init__(self, source: Path, folder: Path, runtime: Runtime, **settings: Any) -> None:
        self.config = TrainingConfig(output_dir=str(folder), **settings)
        self.runtime = runtime
        self.model = load_model(str(source))
        self.module = PackModel(self.model)
        self.optimizer = build_optimizer(self.module, self.config)
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        self.checkpoints = Checkpoints(self.config, runtime, self.tokenizer, (self.tokenizer.eos_token_id, 7))

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.tensor([[1, 2, 3]])).logits.logsumexp(-1).sum().backward()
        self.optimizer.step()

    def save(self, *steps: int) -> Path | None:
        for step in steps:
            path = self.checkpoints.save(TrainingState(step, [{"cursor": step}], "print"), self.module, self.optimizer)
        return path

    def load(self, wanted: bool | str = True, **how: Any) -> TrainingState:
        return self.checkpoints.load(self.checkpoints.find(wanted), self.module, self.optimizer, **how)

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.checkpoints.folder.iterdir())


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    runtime = Runtime()
    yield runtime
    runtime.close()


@pytest.fixture
def saver(tiny_checkpoint: Path, tmp_path: Path, runtime: Runtime) -> Saver:
    saver = Saver(tiny_checkpoint, tmp_path / "run", runtime)
    saver.step()
    return saver


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


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


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """One bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def digit(path: Path) -> None:
    path.write_text(path.read_text().replace('"learning_rate": 1e-05', '"learning_rate": 2e-05'))


def earlier_format(path: Path) -> None:
    path.write_text(json.dumps({"step": 5, "files": {"model.safetensors": 12}}))


TEARS = [
    (remove, "model.safetensors", "model.safetensors is missing"),
    (cut, "model.safetensors", "model.safetensors has"),
    (flip, "model.safetensors", "model.safetensors was altered after it was written"),
    (remove, "training_state/optimizer.safetensors", "training_state/optimizer.safetensors is missing"),
    (cut, "training_state/optimizer.safetensors", "training_state/optimizer.safetensors has"),
    (flip, "training_state/optimizer.safetensors", "training_state/optimizer.safetensors was altered"),
    (flip, "training_state/rest.pt", "training_state/rest.pt was altered"),
    (remove, "training_state", "training_state/optimizer.safetensors is missing"),
    (remove, "tokenizer.json", "tokenizer.json is missing"),
    (remove, "checkpoint.json", "checkpoint.json is missing"),
    (cut, "checkpoint.json", "checkpoint.json cannot be read"),
    (flip, "checkpoint.json", "checkpoint.json"),
    (digit, "checkpoint.json", "checkpoint.json was altered after it was written"),
    (earlier_format, "checkpoint.json", "it was written by an earlier version of open-r1"),
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


def test_a_shard_that_is_missing(saver: Saver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(save_model.__kwdefaults__, "max_shard_size", "20KB")
    saver.save(3, 5)
    shards = sorted(path.name for path in (saver.checkpoints.folder / "checkpoint-5").glob("model-*.safetensors"))
    assert len(shards) > 2
    (saver.checkpoints.folder / "checkpoint-5" / shards[1]).unlink()
    assert saver.checkpoints.find(True).name == "checkpoint-3"
    assert f"checkpoint-5 is passed over: {shards[1]} is missing" in capsys.readouterr().err
    saved = weights(saver.model)
    saver.step()
    saver.load()
    assert_same_weights(weights(saver.model), saved)


def test_where_all_are_torn_the_person_decides(saver: Saver, capsys: pytest.CaptureFixture) -> None:
    """To start at step 0 would be to lose a run without a word."""
    saver.save(3, 5)
    for step in (3, 5):
        flip(saver.checkpoints.folder / f"checkpoint-{step}" / "model.safetensors")
    with pytest.raises(
        UserError, match=r"no checkpoint in .* is whole \(of 2\); start anew with --overwrite_output_dir"
    ):
        saver.checkpoints.find(True)
    assert capsys.readouterr().err.count("is passed over: model.safetensors was altered") == 2
    assert saver.names == ["checkpoint-3", "checkpoint-5"]


@pytest.mark.parametrize("tear", [flip, remove])
@pytest.mark.parametrize("limit", [1, 2])
def test_torn_ones_do_not_push_out_whole_ones(
    tear: Any, limit: int, tiny_checkpoint: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """Neither later ones that lie there from before, nor earlier ones."""
    before = Saver(tiny_checkpoint, tmp_path / "run", runtime)
    before.save(1, 2, 3, 8, 9)
    for step in (3, 8, 9):
        tear(tmp_path / "run" / f"checkpoint-{step}" / "checkpoint.json")
    saver = Saver(tiny_checkpoint, tmp_path / "run", runtime, save_total_limit=limit)
    assert saver.load().step == 2
    saver.save(4)
    assert saver.checkpoints.find(True).name == "checkpoint-4"
    whole = [name for name in saver.names if not flaw(tmp_path / "run" / name, contents=True)]
    assert whole == ["checkpoint-2", "checkpoint-4"][-limit:]


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


def file_sizes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "stopped_by",
    ["checkpoint.json", "config.json", "tokenizer.json", "model.safetensors", "training_state/optimizer.safetensors"],
)
def test_a_full_disk_leaves_the_last_one(stopped_by: str, saver: Saver, capsys: pytest.CaptureFixture) -> None:
    saver.save(3)
    sizes = file_sizes(saver.checkpoints.folder / "checkpoint-3")
    with no_file_longer_than(sizes[stopped_by] - 1):
        assert saver.save(5) is None
    assert saver.names == ["checkpoint-3"]
    *_, said = capsys.readouterr().err.splitlines()
    assert said.startswith("checkpoint 5 was not saved: ")
    assert "os error 27" in said or "[Errno 27]" in said
    assert saver.checkpoints.find(True).name == "checkpoint-3"
    assert saver.save(5).name == "checkpoint-5"


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
