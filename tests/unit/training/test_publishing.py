"""Uploads beside training, against a hub on this machine that fails in every way a hub fails."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import TOKEN, FakeHub, fake_hub
from fake_runtime import FakeRuntime
from rich.console import Console

from open_r1.config import TrainingConfig
from open_r1.errors import StopRequested, UserError
from open_r1.training import publishing
from open_r1.training.hub_jobs import HubJobs
from open_r1.training.publishing import Publisher

MODEL = ("config.json", "model.safetensors")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that processes started from here find; this one stays offline."""
    with fake_hub() as hub:
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        yield hub


class Run:
    """A run's folder, its publisher and what was said."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.console = Console(record=True, width=1000, file=open(os.devnull, "w"))  # noqa: SIM115
        config = TrainingConfig(output_dir=str(folder), **{"push_to_hub": True} | settings)
        self.publisher = Publisher(config, FakeRuntime(), console=self.console)

    @property
    def said(self) -> str:
        return self.console.export_text(clear=False)

    def save(self, step: int) -> Path:
        """A checkpoint as `Checkpoints` lays it out."""
        path = self.folder / f"checkpoint-{step}"
        self.model(path, f"weights of step {step}")
        (path / "training_state").mkdir()
        (path / "training_state" / "rest.pt").write_text(f"state of step {step}")
        (path / "checkpoint.json").write_text("{}")
        self.publisher.checkpoint_saved(path, step)
        return path

    def finish(self) -> None:
        self.model(self.folder, "final weights")
        (self.folder / "README.md").write_text("# run\n")
        (self.folder / "metrics.jsonl").write_text("{}\n")
        self.publisher.finished(self.folder)
        self.publisher.wait()

    @staticmethod
    def model(folder: Path, weights: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "model.safetensors").write_text(weights)
        (folder / "config.json").write_text("{}")

    @property
    def snapshots(self) -> list[Path]:
        return list(self.folder.glob(".upload-*"))


def eventually(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def test_what_cannot_be_copied_whole_leaves_nothing(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system without links whose disk is full."""
    copy = shutil.copy2

    def copies(source: Path, target: Path) -> None:
        if source.name == "rest.pt":
            raise OSError(28, "No space left on device")
        copy(source, target)

    def no_links(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    run = Run(tmp_path / "run", hub_strategy="checkpoint")
    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(shutil, "copy2", copies)
    with run.publisher:
        run.save(5)
        assert "checkpoint-5 is not uploaded: its files cannot be linked or copied" in run.said
        assert run.snapshots == []


def test_end_uploads_the_final_model_alone(hub: FakeHub, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with run.publisher:
        run.save(5)
        run.finish()
    assert sorted(hub.files()) == ["README.md", *MODEL]  # ada/run: the token's user, the folder's name
    assert hub.files()["model.safetensors"] == b"final weights"
    assert "uploaded final model: " in run.said and not run.snapshots


def test_every_save_uploads_models_without_the_optimizer(hub: FakeHub, tmp_path: Path) -> None:
    run = Run(
        tmp_path / "run",
        hub_strategy="every_save",
        hub_model_revision="v1",
        hub_private_repo=True,
        push_to_hub=False,
        callbacks=["push_to_hub_revision"],
    )
    with run.publisher:
        path = run.save(5)
        shutil.rmtree(path)  # rotated away while it is being uploaded
        eventually(lambda: hub.commits)
    assert sorted(hub.files(branch="v1")) == list(MODEL)
    assert hub.files(branch="v1")["model.safetensors"] == b"weights of step 5"
    assert not hub.files() and hub.private["ada/run"] and not run.snapshots


def test_checkpoint_uploads_what_a_run_can_be_continued_from(hub: FakeHub, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", hub_strategy="checkpoint")
    with run.publisher:
        path = run.save(5)
        (path / "training_state" / "of_five").write_text("")  # too late for this one
        eventually(lambda: len(hub.commits) == 1)
        (run.save(9) / "x").write_text("")
        eventually(lambda: len(hub.commits) == 2)
        run.finish()
    files = {name: text.decode() for name, text in hub.files().items()}
    assert files["model.safetensors"] == "final weights"
    assert files["last-checkpoint/model.safetensors"] == "weights of step 9"
    assert files["last-checkpoint/training_state/rest.pt"] == "state of step 9"
    assert "last-checkpoint/checkpoint.json" in files


def test_the_newest_of_those_that_wait_wins(hub: FakeHub, tmp_path: Path) -> None:
    hub.delay_s = 3
    run = Run(tmp_path / "run", hub_strategy="every_save")
    with run.publisher:
        run.save(1)
        eventually(lambda: any(line.startswith("PUT") for line in hub.requests))
        for step in (2, 3, 4):
            run.save(step)
        assert len(run.snapshots) == 2
        hub.delay_s = 0
        run.publisher.wait()
    assert [message for *_, message in hub.commits] == ["checkpoint-1 (open-r1)", "checkpoint-4 (open-r1)"]
    assert not run.snapshots


@pytest.mark.parametrize(
    ("where", "status", "reason"),
    [
        ("/commit/", 401, "the hub does not accept the token (401)"),
        ("/commit/", 403, "the token may not write there (403)"),
        ("/commit/", 404, "there is no such repository, or the token may not see it (404)"),
        ("/commit/", 413, "it is too large for the hub (413)"),
        ("/commit/", 500, "the hub answers with error 500"),
        ("/commit/", 0, "disconnected|reset by peer|broken pipe"),  # as the moment has it
        ("/commit/", -1, "timed out"),
    ],
)
def test_a_failed_upload_is_one_line_and_the_next_save_tries_again(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, status: int, reason: str
) -> None:
    monkeypatch.setattr(HubJobs.__init__, "__kwdefaults__", {"silence_s": 2.0})
    run = Run(tmp_path / "run", hub_strategy="every_save")
    with run.publisher:
        hub.fail(where, status)
        run.save(1)
        run.publisher.wait()
        (line,) = run.said.splitlines()
        assert line.startswith("checkpoint-1 was not uploaded: ")
        assert any(part in line.lower() for part in reason.lower().split("|")), line
        assert f"later: hf upload ada/run {run.folder}/checkpoint-1 . --exclude" in line
        assert TOKEN not in run.said and not hub.commits and not run.snapshots
        hub.heal()
        run.save(2)
        run.publisher.wait()
    assert hub.files()["model.safetensors"] == b"weights of step 2"


def test_the_final_model_is_tried_again_and_the_checkpoint_that_failed_goes_along(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "PAUSES_S", (0.1,))
    run = Run(tmp_path / "run", hub_strategy="checkpoint")
    with run.publisher:
        hub.fail("/commit/", 500, times=3)
        run.save(7)
        run.publisher.wait()
        run.finish()
    assert hub.files()["model.safetensors"] == b"final weights"
    assert hub.files()["last-checkpoint/training_state/rest.pt"] == b"state of step 7"
    assert run.said.count("was not uploaded") == 2  # the checkpoint, and the final model's first attempt
    assert "trying again; by hand: hf upload ada/run" in run.said


def test_a_hub_that_stays_away_is_given_up(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "PAUSES_S", (0.1,))
    monkeypatch.setattr(publishing, "LONGEST_WAIT_S", 4.0)
    run = Run(tmp_path / "run")
    with run.publisher:
        hub.fail("/commit/", 503)
        run.finish()
    assert "the upload is given up after" in run.said and not hub.files() and not run.snapshots


def test_the_command_that_is_named_does_what_was_not_done(hub: FakeHub, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", hub_strategy="checkpoint", hub_model_revision="v1", hub_private_repo=True)
    with run.publisher:
        hub.fail("/commit/", 413)
        run.save(3)
        run.publisher.wait()
        run.finish()
        hub.heal()
    for line in run.said.splitlines():
        command = shlex.split(line.split("later: ")[1])
        command[0] = str(Path(sys.executable).with_name("hf"))
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert hub.files(branch="v1").keys() == {
        "README.md",
        *MODEL,
        *(f"last-checkpoint/{name}" for name in ("checkpoint.json", *MODEL, "training_state/rest.pt")),
    }
    assert hub.files(branch="v1")["model.safetensors"] == b"final weights"


def test_nobody_logged_in_is_said_before_anything_is_done(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HubJobs, "has_token", staticmethod(lambda: False))
    with pytest.raises(UserError, match="push_to_hub: run: nobody is logged in at the hub; set HF_TOKEN"):
        Run(tmp_path / "run")
    assert not hub.requests


@pytest.mark.parametrize(
    ("settings", "token", "message"),
    [
        ({}, "hf_wrong", r"push_to_hub: run: the hub does not accept the token \(401\); mend HF_TOKEN"),
        ({"hub_model_id": "grace/run"}, TOKEN, r"push_to_hub: grace/run: the token may not write there \(403\)"),
    ],
)
def test_a_token_that_will_not_do_is_an_error_at_the_start(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict, token: str, message: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=message) as raised:
        Run(tmp_path / "run", **settings)
    assert token not in str(raised.value)


@pytest.mark.parametrize("closed", [True, False], ids=["refused", "offline"])
def test_a_hub_that_is_not_reached_stops_nothing(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    if not closed:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = Run(tmp_path / "run", hub_strategy="every_save")
    with run.publisher:
        assert "the hub is not reached" in run.said
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        run.save(1)
        run.publisher.wait()
    assert hub.files()["model.safetensors"] == b"weights of step 1"


def test_a_hub_that_says_nothing_costs_seconds_at_the_start(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fail("whoami", -1)
    monkeypatch.setattr(HubJobs.prepare, "__defaults__", (3.0,))
    run = Run(tmp_path / "run")
    run.publisher.close()
    assert "the hub is not reached (not done after 3 s)" in run.said


def test_after_a_signal_the_newest_checkpoint_still_arrives(hub: FakeHub, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", hub_strategy="checkpoint")
    with pytest.raises(StopRequested), run.publisher:
        run.save(4)
        raise StopRequested
    assert hub.files()["last-checkpoint/training_state/rest.pt"] == b"state of step 4"


def test_an_error_ends_the_upload_at_once(hub: FakeHub, tmp_path: Path) -> None:
    hub.fail("/commit/", -1)
    run = Run(tmp_path / "run", hub_strategy="every_save")
    start = time.monotonic()
    with pytest.raises(ZeroDivisionError), run.publisher:
        run.save(4)
        eventually(lambda: any("commit" in line for line in hub.requests))
        raise ZeroDivisionError
    assert time.monotonic() - start < 40 and not hub.commits and not run.snapshots


def test_another_rank_and_a_run_that_is_not_published_ask_nothing(hub: FakeHub, tmp_path: Path) -> None:
    config = TrainingConfig(output_dir=str(tmp_path), push_to_hub=True)
    for publisher in (
        Publisher(config, FakeRuntime(rank=1, world_size=2)),
        Publisher(TrainingConfig(output_dir=str(tmp_path)), FakeRuntime()),
    ):
        with publisher:
            publisher.checkpoint_saved(tmp_path, 1)
            publisher.finished(tmp_path)
            publisher.wait()
    assert not hub.requests
