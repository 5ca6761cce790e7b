"""metrics.jsonl, and which trackers there are."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
from fake_runtime import FakeRuntime
from full_disk import no_file_longer_than

from open_r1.config import TrainingConfig
from open_r1.errors import UserError
from open_r1.training.metrics import MetricLog
from open_r1.training.trackers import installed_trackers


def steps_in(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def metric_log(folder: Path, first_step: int = 0, runtime: FakeRuntime | None = None) -> MetricLog:
    return MetricLog(config(output_dir=str(folder)), runtime or FakeRuntime(), first_step)


def write_steps(folder: Path, first_step: int, steps: range) -> None:
    log = metric_log(folder, first_step)
    for step in steps:
        log.write(step, {"loss": step / 2})
    log.close()


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
    log = metric_log(tmp_path)
    log.write(1, {"loss": math.nan, "grad_norm": math.inf, "rate": 0.5})
    # Before the file is closed: a run that is killed loses no line.
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 1,
        "loss": None,
        "grad_norm": None,
        "rate": 0.5,
    }
    log.close()


def test_rank_0_alone_writes(tmp_path: Path) -> None:
    log = metric_log(tmp_path, runtime=FakeRuntime(rank=1, world_size=2))
    log.write(1, {"loss": 2.0})
    log.close()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_loses_lines_and_not_the_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = metric_log(tmp_path)
    log.write(1, {"loss": 1.0})
    with no_file_longer_than((tmp_path / "metrics.jsonl").stat().st_size + 5):
        for step in range(2, 400):
            log.write(step, {"loss": 1.0})
    log.write(400, {"loss": 1.0})
    log.close()
    assert capsys.readouterr().err.count("metrics.jsonl cannot be written at step 2") == 1
    log = metric_log(tmp_path, first_step=400)  # the file can be continued, wherever it was torn
    log.close()
    assert steps_in(tmp_path)[0] == 1


def config(**settings: Any) -> TrainingConfig:
    return TrainingConfig(**{"output_dir": "out"} | settings)


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
