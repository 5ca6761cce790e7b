"""Stopping in the middle: signals, SIGKILL, and what the next start does."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from tiny_pipeline import Folder

# Stands in for the interpreter that runs ``-m open_r1 sft --config …``: saves a checkpoint, then waits for ``go``; a
# signal makes it leave ``saved`` behind. What it was told is appended to ``config.log`` and ``signals.log``.
TRAINER = """#!{python}
import pathlib, signal, sys, time, yaml
config = yaml.safe_load(pathlib.Path(sys.argv[-1]).read_text())
out = pathlib.Path(config["output_dir"])
with open("config.log", "a") as log:
    log.write(str(config.get("resume_from_checkpoint")) + "\\n")
def stop(number, _):
    with open("signals.log", "a") as log:
        log.write(signal.Signals(number).name + "\\n")
    time.sleep(0.3)
    (out / "saved").touch()
    sys.exit({stop_status})
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
if config.get("save_steps", 1) == 1:
    (out / "checkpoint-1").mkdir(exist_ok=True)
(out / "begun").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.02)
(out / "model.safetensors").write_text("weights")
"""


@pytest.fixture
def trainer(folder: Folder) -> Callable[[int], None]:
    def write(stop_status: int = 143) -> None:
        path = folder.path / "trainer"
        path.write_text(TRAINER.format(python=sys.executable, stop_status=stop_status))
        path.chmod(0o755)

    write()
    return write


@pytest.fixture
def start(folder: Folder) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts the pipeline in a process of its own, with the trainer above."""
    program = (
        "import sys; from open_r1.cli import main\n"
        "sys.executable = './trainer' if __import__('os').path.exists('trainer') else sys.executable\n"
        "sys.exit(main(['run', 'pipeline.yaml']))"
    )
    started: list[subprocess.Popen] = []

    def start_one(**options: object) -> subprocess.Popen:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen([sys.executable, "-c", program], cwd=folder.path, **{**pipes, **options}))
        return started[-1]

    yield start_one
    (folder.path / "go").touch()
    for process in started:
        process.communicate(timeout=60)


def wait_for(path: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


def write_sft(folder: Folder, **settings: object) -> Path:
    settings = {"model_name_or_path": "m", "dataset_name": "d", "save_steps": 1, **settings}
    folder.write({"name": "sft", "kind": "sft", "settings": settings})
    return folder.path / "runs/01-sft"


def told(folder: Folder) -> list[str]:
    return (folder.path / "config.log").read_text().split()


def test_sigterm_lets_the_stage_save_and_the_next_start_resumes(folder: Folder, trainer: Callable, start) -> None:
    stage = write_sft(folder)
    pipeline = start()
    wait_for(stage / "begun")
    pipeline.send_signal(signal.SIGTERM)
    said, _ = pipeline.communicate(timeout=60)
    assert pipeline.returncode == 128 + signal.SIGTERM
    assert "stopped in stage sft; to go on from there: open-r1 run pipeline.yaml" in said
    assert (stage / "saved").exists()
    assert not (stage / "manifest.json").exists()

    (folder.path / "go").touch()
    again = start()
    said, _ = again.communicate(timeout=60)
    assert again.returncode == 0, said
    assert "resume, stopped in the middle" in said
    assert told(folder) == ["None", "True"]
    assert (stage / "manifest.json").exists()
    assert "resume_from_checkpoint" not in yaml.safe_load((stage / "manifest.json").read_text())["settings"]


def test_a_closed_terminal_lets_the_stage_save(folder: Folder, trainer: Callable, start) -> None:
    stage = write_sft(folder)
    pipeline = start()
    wait_for(stage / "begun")
    pipeline.send_signal(signal.SIGHUP)
    pipeline.communicate(timeout=60)
    assert pipeline.returncode == 128 + signal.SIGTERM
    assert (folder.path / "signals.log").read_text().split() == ["SIGTERM"]
    assert (stage / "saved").exists() and not (stage / "manifest.json").exists()


def test_a_stopped_stage_goes_on_under_settings_that_do_not_matter(folder: Folder, trainer: Callable, start) -> None:
    stage = write_sft(folder, save_total_limit=5)
    pipeline = start()
    wait_for(stage / "begun")
    pipeline.send_signal(signal.SIGTERM)
    pipeline.communicate(timeout=60)

    (folder.path / "go").touch()
    write_sft(folder, save_total_limit=1)  # the disk was full
    said, _ = start().communicate(timeout=60)
    assert "resume, stopped in the middle" in said
    assert yaml.safe_load((stage / "config.yaml").read_text())["save_total_limit"] == 1
    assert not (folder.path / "runs/.replaced").exists()


def test_a_stage_that_was_told_to_stop_is_not_done_whatever_its_status(
    folder: Folder, trainer: Callable, start
) -> None:
    trainer(0)
    stage = write_sft(folder)
    pipeline = start()
    wait_for(stage / "begun")
    pipeline.send_signal(signal.SIGTERM)
    pipeline.communicate(timeout=60)
    assert pipeline.returncode != 0
    assert not (stage / "manifest.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="a killed parent is noticed by prctl, which Linux has")
def test_after_sigkill_the_stage_saves_and_is_resumed(folder: Folder, trainer: Callable, start) -> None:
    stage = write_sft(folder)
    pipeline = start()
    wait_for(stage / "begun")
    pipeline.kill()
    wait_for(stage / "saved")
    pipeline.communicate(timeout=60)

    (folder.path / "go").touch()
    again = start()
    said, _ = again.communicate(timeout=60)
    assert again.returncode == 0, said
    assert told(folder) == ["None", "True"]


def test_without_a_checkpoint_training_starts_anew(folder: Folder, trainer: Callable, start) -> None:
    stage = write_sft(folder, save_steps=5)
    pipeline = start()
    wait_for(stage / "begun")
    pipeline.send_signal(signal.SIGTERM)
    pipeline.communicate(timeout=60)
    (folder.path / "go").touch()
    again = start()
    said, _ = again.communicate(timeout=60)
    assert again.returncode == 0, said
    assert told(folder) == ["None", "None"], said
    assert not (stage / "saved").exists(), said


def test_checkpoints_of_other_settings_are_never_resumed_from(folder: Folder, trainer: Callable, start) -> None:
    stage = write_sft(folder)
    pipeline = start()
    wait_for(stage / "begun")
    pipeline.send_signal(signal.SIGTERM)
    pipeline.communicate(timeout=60)
    write_sft(folder, learning_rate=0.5)
    (folder.path / "go").touch()
    said, _ = start().communicate(timeout=60)
    assert "learning_rate unset → 0.5" in said
    assert told(folder) == ["None", "None"]
    assert (folder.path / "runs/.replaced/01-sft.1/checkpoint-1").is_dir()


def test_scripts_done_before_the_kill_are_not_run_again(folder: Folder, start) -> None:
    folder.write(folder.stage("a", text="A"), folder.stage("b", source=["{a}/out.txt"], wait_for="go"))
    pipeline = start()
    wait_for(folder.path / "runs/02-b/begun")
    os.kill(pipeline.pid, signal.SIGKILL)
    pipeline.communicate(timeout=60)
    (folder.path / "go").touch()
    again = start()
    said, _ = again.communicate(timeout=60)
    assert again.returncode == 0, said
    assert folder.ran() == ["01-a", "02-b", "02-b"]
    assert folder.text("02-b") == "A"


def test_ctrl_c_in_a_terminal_reaches_the_stage_once(folder: Folder, trainer: Callable, start) -> None:
    stage = write_sft(folder)
    ours, theirs = pty.openpty()
    own_terminal = {"start_new_session": True, "preexec_fn": lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)}
    pipeline = start(stdin=theirs, stdout=theirs, stderr=theirs, **own_terminal)
    wait_for(stage / "begun")
    os.write(ours, b"\x03")
    wait_for(stage / "saved")
    assert pipeline.wait(timeout=60) == 128 + signal.SIGINT
    assert (folder.path / "signals.log").read_text().split() == ["SIGINT"]
    assert not (stage / "manifest.json").exists()
    os.close(ours)
    os.close(theirs)
