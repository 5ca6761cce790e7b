"""Whole runs with trackers: they get the metrics of each step, and they never ask, call out, or stop a run."""

from __future__ import annotations

import http.server
import json
import os
import pty
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import SOURCE, Run, flags, train

from open_r1.config import TrainingConfig
from open_r1.errors import StopRequested
from open_r1.training import trackers
from open_r1.training.trackers import Trackers, installed_trackers

wandb = pytest.importorskip("wandb")
trackio = pytest.importorskip("trackio")

NAMES = ("loss", "grad_norm", "learning_rate")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home without keys, in which everything lies that trackers write beside the run."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "TRACKIO_"))]:
        monkeypatch.delenv(name)
    for name in ("WANDB_MODE", "WANDB_SILENT", "WANDB_ERROR_REPORTING", "WANDB_SERVICE"):
        monkeypatch.setenv(name, "")  # so that what a run sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    yield tmp_path
    wandb.teardown()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What goes through the proxy that the environment names: every call beyond this machine."""
    made: list[str] = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def refuse(self) -> None:
            made.append(f"{self.command} {self.path}")
            self.send_error(503)

        do_GET = do_POST = do_CONNECT = do_HEAD = do_PUT = refuse  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        for spelt in (name, name.upper()):
            monkeypatch.setenv(spelt, f"http://127.0.0.1:{server.server_address[1]}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield made
    server.shutdown()
    server.server_close()


def wandb_history(folder: Path) -> dict[int, dict[str, Any]]:
    """The metrics by step in a ``.wandb`` file: records of protobuf in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("*.wandb")
    data, history, whole = path.read_bytes(), {}, b""
    place, block = 7, 1 << 15  # after ":W&B", two bytes and a version
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record, whole = Record.FromString(whole), b""
            if record.HasField("history"):
                items = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
                history[int(items["_step"])] = {name: json.loads(value) for name, value in items.items()}
    return history


def tensorboard_scalars(run: Run, name: str) -> list[tuple[int, float]]:
    accumulator = EventAccumulator(str(run.folder / "open-r1")).Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(name)]


def trackio_metrics(folder: Path, name: str) -> dict[int, dict[str, float]]:
    with sqlite3.connect(folder / "open-r1.db") as database:
        rows = database.execute("select step, metrics from metrics where run_name = ?", (name,)).fetchall()
    return {step: json.loads(metrics) for step, metrics in rows}


def test_all_of_them_record_here_and_neither_ask_nor_call_out(
    sft_settings: dict[str, Any], place: Path, calls: list[str]
) -> None:
    """At a terminal, where wandb would ask for a key."""
    folder = place / "run"
    settings = sft_settings | {"output_dir": folder, "max_steps": 3, "report_to": "all"}
    master, slave = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(SOURCE.parent), "TRACKIO_DIR": str(place / "trackio")}
    process = subprocess.Popen(
        [sys.executable, "-m", "open_r1", "sft", *flags(settings)],
        env=environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    said = b""
    try:
        while part := os.read(master, 1 << 16):
            said += part
    except OSError:  # how a terminal says that nobody is left at the other side
        pass
    assert process.wait(timeout=240) == 0, said.decode()[-4000:]
    assert calls == []

    run = Run(folder)
    (offline,) = (folder / "wandb").glob("offline-run-*")
    assert f"wandb sync {offline}" in "".join(said.decode().split("\r\n"))
    history, stored = wandb_history(offline), trackio_metrics(place / "trackio", "run")
    assert list(history) == list(stored) == [1, 2, 3]
    for line in run.metrics:
        for name in NAMES:
            assert history[line["step"]][name] == pytest.approx(line[name])
            assert stored[line["step"]][name] == pytest.approx(line[name])
    for name in NAMES:
        expected = [(line["step"], pytest.approx(line[name])) for line in run.metrics]
        assert tensorboard_scalars(run, name) == expected
    left = {path.name for path in (place / "home").rglob("*") if path.is_file()}
    assert not {name for name in left if "wandb" in name or "netrc" in name or "event" in name}, left


def test_wandb_dir_and_names(sft_settings: dict[str, Any], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DIR", str(place / "elsewhere"))
    (place / "elsewhere").mkdir()
    made = []
    init = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **options: made.append(options) or init(**options))
    names = {"wandb_project": "reasoning", "wandb_entity": "team", "wandb_run_group": "small"}
    run = train("sft", place / "run", **sft_settings, max_steps=2, report_to="wandb", **names)
    (offline,) = (place / "elsewhere" / "wandb").glob("offline-run-*")
    assert list(wandb_history(offline)) == [1, 2]
    assert not (run.folder / "wandb").exists()
    (options,) = made
    assert [options[name] for name in ("project", "entity", "group", "name")] == ["reasoning", "team", "small", "run"]
    assert options["config"]["learning_rate"] == 1e-2


def test_wandb_without_its_server_records_offline(
    sft_settings: dict[str, Any], place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(trackers, "START_S", 2)
    run = train("sft", place / "run", **sft_settings, max_steps=2, report_to="wandb")
    said = capsys.readouterr().err
    assert "wandb is not reached" in said and "0123456789" not in said
    (offline,) = (run.folder / "wandb").glob("offline-run-*")
    assert list(wandb_history(offline)) == [1, 2]


def test_a_resumed_run_has_each_step_once(sft_settings: dict[str, Any], place: Path) -> None:
    settings = sft_settings | {"max_steps": 5, "save_strategy": "steps", "save_steps": 2, "report_to": "tensorboard"}
    run = train("sft", place / "run", **settings)
    assert run.checkpoints == [2, 4]
    (run.folder / "checkpoint-4" / "checkpoint.json").unlink()
    resumed = train("sft", place / "run", **settings, resume_from_checkpoint="true")
    assert tensorboard_scalars(resumed, "loss") == [
        (line["step"], pytest.approx(line["loss"])) for line in resumed.metrics
    ]


def test_a_stopped_run_has_written_its_last_step(
    sft_settings: dict[str, Any], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = trackers.Tensorboard.log

    def log_then_stop(self: trackers.Tensorboard, metrics: dict[str, float], step: int) -> None:
        log(self, metrics, step)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(trackers.Tensorboard, "log", log_then_stop)
    with pytest.raises(StopRequested):
        train("sft", place / "run", **sft_settings, max_steps=9, report_to="tensorboard")
    assert [step for step, _ in tensorboard_scalars(Run(place / "run"), "loss")] == [1, 2]


class Recorder:
    """A tracker that fails where it is told to."""

    def __init__(self, fails_at: str) -> None:
        self.fails_at, self.steps, self.finished = fails_at, [], False
        if fails_at == "start":
            raise ConnectionError("the server\nis away")

    def log(self, metrics: dict[str, float], step: int) -> None:
        if self.fails_at == "log" and step == 2:
            raise ConnectionError("the server\nis away")
        self.steps.append(step)

    def finish(self) -> None:
        if self.fails_at == "finish":
            raise ConnectionError("the server\nis away")
        if self.fails_at == "never":
            threading.Event().wait()
        self.finished = True


@pytest.mark.parametrize(
    ("fails_at", "line"),
    [
        ("start", "wandb does not start (the server is away): training goes on without it"),
        ("log", "wandb failed at step 2 (the server is away): training goes on without it"),
        ("finish", "wandb did not end well (the server is away)"),
        ("never", "wandb is not done after 0.1 s: left behind"),
    ],
)
def test_one_that_fails_is_one_line_and_the_others_go_on(
    fails_at: str,
    line: str,
    sft_settings: dict[str, Any],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    whole = []

    def other(*_: Any) -> Recorder:
        whole.append(Recorder(""))
        return whole[0]

    monkeypatch.setattr(trackers, "KINDS", {"wandb": lambda *_: Recorder(fails_at), "trackio": other})
    monkeypatch.setattr(trackers, "FINISH_S", 0.1)
    run = train("sft", place / "run", **sft_settings, max_steps=4, report_to=["wandb", "trackio"])
    assert len(run.losses) == 4 and (run.folder / "model.safetensors").exists()
    assert (whole[0].steps, whole[0].finished) == ([1, 2, 3, 4], True)
    said = [text for text in capsys.readouterr().err.splitlines() if "wandb" in text]
    assert len(said) == 1 and line in said[0]


def test_what_is_not_finite_goes_through(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(place / "trackio"))
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", place / "trackio", raising=False)
    config = TrainingConfig(output_dir=str(place / "run"), report_to="all")
    (place / "run").mkdir()
    log = Trackers(config, 0)
    assert set(log._running) == {"wandb", "tensorboard", "trackio"}
    for step, loss in ((1, float("nan")), (2, float("inf")), (3, 0.5)):
        log.log({"loss": loss}, step)
    assert set(log._running) == {"wandb", "tensorboard", "trackio"}
    log.finish()


@pytest.mark.parametrize(
    ("environment", "netrc", "offline"),
    [
        ({}, "", True),
        ({"WANDB_API_KEY": "0123"}, "", False),
        ({}, "machine api.wandb.ai login user password 0123", False),
        ({"WANDB_BASE_URL": "https://wandb.example.org"}, "machine wandb.example.org password 0123", False),
        ({"WANDB_BASE_URL": "https://wandb.example.org"}, "machine api.wandb.ai password 0123", True),
    ],
)
def test_wandb_without_a_key_is_offline(
    environment: dict[str, str], netrc: str, offline: bool, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "home" / ".netrc").write_text(netrc)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert installed_trackers(TrainingConfig(output_dir="out", report_to="wandb")) == ["wandb"]
    assert os.environ.get("WANDB_MODE") == ("offline" if offline else None)
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
