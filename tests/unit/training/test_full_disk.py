"""Whole runs on a disk that fills up: checkpoints fail and are said, training goes on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from full_disk import no_file_longer_than
from training_runs import Run, assert_same_weights, train

from open_r1.errors import UserError
from open_r1.training.checkpoint import Checkpoints

SAVES = {"max_steps": 8, "save_strategy": "steps", "save_steps": 2}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 760 kB; a checkpoint of the tiny model takes 336 kB, the model alone 130 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=760k", "tmpfs", place]
    mounted = subprocess.run(words, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)  # weights that were read may still be mapped


def test_a_disk_that_fills_up(
    sft_settings: dict[str, Any], small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Two checkpoints fit; the third does not, and then, with the first two kept, nor does the final model."""
    settings = sft_settings | SAVES
    undisturbed = train("sft", tmp_path / "undisturbed", **settings)
    capsys.readouterr()
    folder = small_disk / "run"
    with pytest.raises(UserError, match=r"the final model cannot be written into .*No space left.*make room") as error:
        train("sft", folder, **settings)
    said = capsys.readouterr().err
    assert "checkpoint 6 was not saved: " in said and "; the last whole one stays" in said
    assert "--resume_from_checkpoint true" in str(error.value)
    stopped = Run(folder)
    assert stopped.checkpoints == [2, 4]
    assert not list(folder.glob(".*.tmp")) and not (folder / "model.safetensors").exists()

    shutil.rmtree(folder / "checkpoint-2")  # somebody makes room
    resumed = train("sft", folder, **settings | {"save_steps": 1000}, resume_from_checkpoint="true")
    assert resumed.results["train_steps"] == 4
    assert resumed.losses == undisturbed.losses
    assert_same_weights(resumed.weights, undisturbed.weights)


def test_a_disk_that_is_full_for_a_while(
    sft_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Checkpoints 2 and 4 fail, whichever library writes; later ones do not, and the weights are as ever."""
    settings = sft_settings | SAVES
    undisturbed = train("sft", tmp_path / "undisturbed", **settings)
    write = Checkpoints._write

    def write_on_a_full_disk(self: Checkpoints, folder: Path, state: Any, *rest: Any) -> None:
        if state.step > 4:
            write(self, folder, state, *rest)
            return
        with no_file_longer_than(20_000):
            write(self, folder, state, *rest)

    monkeypatch.setattr(Checkpoints, "_write", write_on_a_full_disk)
    capsys.readouterr()
    run = train("sft", tmp_path / "run", **settings)
    said = capsys.readouterr().err
    assert run.checkpoints == [6]
    assert [f"checkpoint {step} was not saved" in said for step in (2, 4, 6)] == [True, True, False]
    assert_same_weights(run.weights, undisturbed.weights)
