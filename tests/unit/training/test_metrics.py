"""metrics.jsonl, and trackers that are asked for."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from fake_runtime import FakeRuntime
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import train

from open_r1.config import TrainingConfig
from open_r1.errors import UserError
from open_r1.training.metrics import MetricLog, installed_trackers, tracker_options


def steps_in(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write_steps(folder: Path, first_step: int, steps: range) -> FakeRuntime:
    runtime = FakeRuntime()
    log = MetricLog(folder, runtime, first_step)
    for step in steps:
        log.write(step, {"loss": step / 2})
    log.close()
    return runtime


def test_a_resumed_run_continues_a_torn_file(tmp_path: Path) -> None:
    write_steps(tmp_path, 0, range(1, 7))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')
    write_steps(tmp_path, 4, range(5, 9))
    assert steps_in(tmp_path) == list(range(1, 9))


def test_a_new_run_begins_a_new_file(tmp_path: Path) -> None:
    write_steps(tmp_path, 0, range(1, 7))
    write_steps(tmp_path, 0, range(1, 3))
    assert steps_in(tmp_path) == [1, 2]


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    log = MetricLog(tmp_path, FakeRuntime(), 0)
    log.write(1, {"loss": math.nan, "grad_norm": math.inf, "rate": 0.5})
    # Before the file is closed: a run that is killed loses no line.
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 1,
        "loss": None,
        "grad_norm": None,
        "rate": 0.5,
    }
    log.close()


def test_rank_0_writes_and_all_track(tmp_path: Path) -> None:
    runtime = FakeRuntime(rank=1, world_size=2)
    log = MetricLog(tmp_path, runtime, 0)
    log.write(1, {"loss": 2.0})
    log.close()
    assert not list(tmp_path.iterdir())
    assert runtime.tracked == [(1, {"loss": 2.0})]


def config(**settings: Any) -> TrainingConfig:
    return TrainingConfig(output_dir="out", **settings)


@pytest.fixture
def only_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "tensorboard" else None)


@pytest.mark.usefixtures("only_tensorboard")
def test_a_tracker_that_is_not_installed() -> None:
    with pytest.raises(UserError, match="report_to trackio: it is not installed; run: pip install trackio"):
        installed_trackers(config(report_to=["tensorboard", "trackio"]))
    assert installed_trackers(config(report_to="tensorboard")) == ["tensorboard"]
    assert installed_trackers(config(report_to="all")) == ["tensorboard"]
    assert installed_trackers(config()) == []


@pytest.mark.parametrize("key", [None, "0123"])
def test_wandb_without_a_key_records_offline(key: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_SILENT", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "")  # so that what is set below is undone
        monkeypatch.delenv(name)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    assert installed_trackers(config(report_to="wandb")) == ["wandb"]
    assert os.environ.get("WANDB_MODE") == (None if key else "offline")


def test_tracker_options() -> None:
    options = tracker_options(config(wandb_entity="team", run_name="first", wandb_run_group=None))
    assert options["wandb"] == {"entity": "team", "name": "first"}


def test_tensorboard_gets_what_the_file_gets(sft_settings: dict[str, Any], tmp_path: Path) -> None:
    run = train("sft", tmp_path / "run", **sft_settings, max_steps=3, report_to="tensorboard", logging_steps=2)
    assert [line["step"] for line in run.metrics] == [2, 3]  # every second step, and the last
    accumulator = EventAccumulator(str(run.folder / "open-r1")).Reload()
    for name in ("loss", "learning_rate", "grad_norm"):
        scalars = [(event.step, event.value) for event in accumulator.Scalars(name)]
        assert scalars == [(line["step"], pytest.approx(line[name])) for line in run.metrics]
