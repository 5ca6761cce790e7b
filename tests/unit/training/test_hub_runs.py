"""Whole runs that publish, against a hub on this machine: what is in the repository after, and that no fault of the
hub stops a run.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub, fake_hub
from safetensors.torch import load
from torch import Tensor
from training_runs import Run, assert_same_weights, train
from transformers import AutoModelForCausalLM

from open_r1.errors import UserError
from open_r1.training import publishing
from open_r1.training.publishing import LAST_CHECKPOINT

MODEL = {"README.md", "config.json", "generation_config.json", "model.safetensors", "train_results.json"}
TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that processes started from here find; this one stays offline. What fails is tried again soon."""
    monkeypatch.setattr(publishing, "PAUSES_S", (0.1,))
    with fake_hub() as hub:
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        yield hub


@pytest.fixture
def settings(sft_settings: dict[str, Any]) -> dict[str, Any]:
    """Six steps, with checkpoints after the second and the fourth."""
    return sft_settings | {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "push_to_hub": True}


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each save waits until it is uploaded: what a run of hours does by itself."""
    saved = publishing.Publisher.checkpoint_saved

    def save_then_wait(self: publishing.Publisher, path: Path, step: int) -> None:
        saved(self, path, step)
        self.wait()

    monkeypatch.setattr(publishing.Publisher, "checkpoint_saved", save_then_wait)


def download(hub: FakeHub, folder: Path, *patterns: str, branch: str = "main") -> Path:
    """What ``hf download`` brings."""
    hf = Path(sys.executable).with_name("hf")
    words = ["download", "ada/run", "--revision", branch, "--local-dir", str(folder)]
    for pattern in patterns:
        words += ["--include", pattern]
    subprocess.run([hf, *words], check=True, capture_output=True, timeout=120)
    return folder


def hub_weights(hub: FakeHub, name: str = "model.safetensors", branch: str = "main") -> dict[str, Any]:
    return load(hub.files(branch=branch)[name])


def messages(hub: FakeHub) -> list[str]:
    return [message for *_, message in hub.commits]


def test_end(settings: dict[str, Any], hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "run").mkdir()
    for name in ("nonfinite-step-3.pt", "train.log", ".env"):  # rows, and what else is nobody's business
        (tmp_path / "run" / name).write_text("private")
    run = train("sft", tmp_path / "run", **settings, report_to="tensorboard")
    assert set(hub.files()) == MODEL | TOKENIZER
    assert not any(str(tmp_path).encode() in contents for contents in hub.files().values())
    assert_same_weights(hub_weights(hub), run.weights)
    assert messages(hub) == ["final model (open-r1)"]
    assert 'pipeline("text-generation", model="ada/run")' in hub.files()["README.md"].decode()
    assert f"uploaded final model: {hub.url}/ada/run/commit/" in capsys.readouterr().err
    assert [path.name for path in run.folder.glob(".*")] == [".env"]


@pytest.mark.usefixtures("patient")
def test_every_save(settings: dict[str, Any], hub: FakeHub, tmp_path: Path) -> None:
    run = train("sft", tmp_path / "run", **settings, hub_strategy="every_save")
    assert messages(hub) == [f"{name} (open-r1)" for name in ("checkpoint-2", "checkpoint-4", "final model")]
    assert set(hub.files()) == MODEL | TOKENIZER  # no optimizer, no second model
    assert_same_weights(hub_weights(hub), run.weights)


@pytest.mark.usefixtures("patient")
def test_a_run_goes_on_from_what_was_uploaded(settings: dict[str, Any], hub: FakeHub, tmp_path: Path) -> None:
    """On another machine, bit for bit."""
    run = train("sft", tmp_path / "run", **settings, hub_strategy="checkpoint")
    assert messages(hub) == [f"{name} (open-r1)" for name in ("checkpoint-2", "checkpoint-4", "final model")]
    assert_same_weights(hub_weights(hub), run.weights)
    place = download(hub, tmp_path / "other", f"{LAST_CHECKPOINT}/*") / LAST_CHECKPOINT
    again = train("sft", tmp_path / "again", **settings | {"push_to_hub": False}, resume_from_checkpoint=place)
    assert [line["step"] for line in again.metrics] == [5, 6]
    assert [line["loss"] for line in again.metrics] == run.losses[4:]
    assert_same_weights(again.weights, run.weights)


@pytest.mark.usefixtures("patient")
def test_grpo_to_a_branch_by_the_callback(grpo_settings: dict[str, Any], hub: FakeHub, tmp_path: Path) -> None:
    """As published recipes ask for it: without push_to_hub."""
    asked = {"callbacks": "push_to_hub_revision", "hub_strategy": "every_save", "hub_model_revision": "v00.01"}
    saves = {"max_steps": 3, "save_strategy": "steps", "save_steps": 2, "hub_model_id": "run"}
    run = train("grpo", tmp_path / "mine", **grpo_settings | saves | asked)
    assert messages(hub) == ["checkpoint-2 (open-r1)", "final model (open-r1)"]
    assert hub.files() == {}
    assert set(hub.files(branch="v00.01")) == MODEL | TOKENIZER
    assert_same_weights(hub_weights(hub, branch="v00.01"), run.weights)
    assert 'model="ada/run", revision="v00.01"' in hub.files(branch="v00.01")["README.md"].decode()


def test_adapters(settings: dict[str, Any], hub: FakeHub, tmp_path: Path) -> None:
    run = train("sft", tmp_path / "run", **settings, use_peft=True)
    assert set(hub.files()) >= {"adapter_model.safetensors", "adapter_config.json", "README.md"}
    assert "model.safetensors" not in hub.files()
    assert_same_weights(hub_weights(hub, "adapter_model.safetensors"), run.weights)


def test_a_whole_model_takes_the_place_of_adapters(settings: dict[str, Any], hub: FakeHub, tmp_path: Path) -> None:
    """In the folder and on the hub: what is left of adapters would send who loads it to another base."""
    train("sft", tmp_path / "run", **settings, use_peft=True)
    run = train("sft", tmp_path / "run", **settings, overwrite_output_dir=True)
    assert set(hub.files()) == MODEL | TOKENIZER
    for folder in (run.folder, download(hub, tmp_path / "other")):
        assert_same_weights(AutoModelForCausalLM.from_pretrained(folder).state_dict(), run.weights | tied(run.weights))


def tied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"lm_head.weight": weights["model.embed_tokens.weight"]}


def said_later(said: str) -> list[str]:
    """The commands that upload what was not uploaded, one a line that was printed."""
    return re.findall(r"(?:later|by hand): (hf upload .+)", said)


def upload_by_hand(command: str) -> None:
    words = shlex.split(command)
    words[0] = str(Path(sys.executable).with_name("hf"))
    subprocess.run(words, check=True, capture_output=True, timeout=120)


@pytest.mark.parametrize("status", [500, 0, -1], ids=["error 500", "connection dropped", "silence"])
def test_a_hub_that_is_away_for_ever(
    status: int,
    settings: dict[str, Any],
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """From the first moment on: the run is the same, and what is said does later what could not be done."""
    monkeypatch.setattr(publishing, "LONGEST_WAIT_S", 4.0)
    monkeypatch.setattr("open_r1.training.hub_jobs.HubJobs.prepare.__defaults__", (3.0,), raising=False)
    hub.fail("/", status)
    run = train("sft", tmp_path / "run", **settings | {"hub_model_id": "ada/run"}, hub_strategy="checkpoint")
    said = capsys.readouterr().err
    assert len(run.losses) == 6 and run.results["train_steps"] == 6
    assert said.count("the hub is not reached") == 1
    assert "the upload is given up after" in said
    hub.heal()
    upload_by_hand(said_later(said)[-1])
    assert set(hub.files()) == MODEL | TOKENIZER
    assert_same_weights(hub_weights(hub), run.weights)
    assert not list(run.folder.glob(".*"))


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("status", [500, 0])
def test_a_hub_that_is_away_in_the_middle(
    status: int, settings: dict[str, Any], hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    hub.fail("/commit/", status, times=20)  # the client itself tries some answers again
    saved, healer = [], publishing.Publisher.checkpoint_saved

    def heal_at_the_second(self: publishing.Publisher, path: Path, step: int) -> None:
        healer(self, path, step)
        saved.append(step)
        hub.heal()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing.Publisher, "checkpoint_saved", heal_at_the_second)
        run = train("sft", tmp_path / "run", **settings, hub_strategy="every_save")
    said = capsys.readouterr().err
    assert saved == [2, 4]
    assert len(said_later(said)) == 1 and "checkpoint-2 was not uploaded: " in said
    assert messages(hub) == ["checkpoint-4 (open-r1)", "final model (open-r1)"]
    assert_same_weights(hub_weights(hub), run.weights)


def test_the_final_model_arrives_when_the_hub_comes_back(
    settings: dict[str, Any], hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    hub.fail("/commit/", 0)

    def heal_once_it_has_failed() -> None:
        deadline = time.monotonic() + 60
        while not any("/commit/" in line for line in hub.requests) and time.monotonic() < deadline:
            time.sleep(0.05)
        hub.heal()

    healing = threading.Thread(target=heal_once_it_has_failed)
    healing.start()
    run = train("sft", tmp_path / "run", **settings)
    healing.join()
    assert messages(hub) == ["final model (open-r1)"]
    assert_same_weights(hub_weights(hub), run.weights)
    assert "given up" not in capsys.readouterr().err


def test_uploading_changes_nothing_in_the_run(settings: dict[str, Any], hub: FakeHub, tmp_path: Path) -> None:
    hub.delay_s = 0.5
    published = train("sft", tmp_path / "run", **settings, hub_strategy="checkpoint", save_total_limit=1)
    alone = train("sft", tmp_path / "alone", **settings | {"push_to_hub": False})
    assert published.losses == alone.losses
    assert_same_weights(published.weights, alone.weights)
    assert published.checkpoints == [4]


def test_a_resumed_run_goes_on_publishing(settings: dict[str, Any], hub: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train("sft", folder, **settings | {"push_to_hub": False})
    (folder / ".upload-checkpoint-4-1.tmp").mkdir()  # of a run that was killed in an upload
    resumed = train("sft", folder, **settings, resume_from_checkpoint="true")
    assert resumed.results["train_steps"] == 2
    assert set(hub.files()) == MODEL | TOKENIZER
    assert not list(folder.glob(".*"))
    assert json.loads(hub.files()["config.json"])["model_type"] == "qwen2"


def test_a_token_that_may_not_write_is_said_before_anything_is_done(
    settings: dict[str, Any], hub: FakeHub, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"push_to_hub: grace/run: the token may not write there \(403\)"):
        train("sft", tmp_path / "run", **settings, hub_model_id="grace/run")
    assert not hub.commits and not (tmp_path / "run" / "model.safetensors").exists()
    assert Run(tmp_path / "run").checkpoints == []
