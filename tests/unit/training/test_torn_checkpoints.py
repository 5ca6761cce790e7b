"""Torn checkpoints are passed over for the last whole one, loudly; a full disk leaves none."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from full_disk import no_file_longer_than
from saver import Saver, weights
from training_runs import assert_same_weights

from open_r1.errors import UserError
from open_r1.model.export import save_model
from open_r1.parallel.runtime import Runtime
from open_r1.training.checkpoint import flaw


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
