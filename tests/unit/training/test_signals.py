"""The first signal is noted, the second acts."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from open_r1.errors import StopRequested, Terminated
from open_r1.evaluation.stopping import resumable
from open_r1.signals import LOG, STAGE, hangup_terminates, sigterm_raises
from open_r1.training.signals import Interrupted, StopSignal


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """Signals that reach the handler that was there before."""
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    yield heard
    signal.signal(signal.SIGTERM, before)


def test_no_signal() -> None:
    with StopSignal() as stop:
        stop.check()
    assert stop.number == 0


def test_the_first_is_noted_the_second_acts_as_before(heard: list[int]) -> None:
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert (stop.number, heard) == (signal.SIGTERM, [])
        with pytest.raises(Interrupted, match="SIGTERM") as interrupted:
            stop.check()
        assert interrupted.value.signal_number == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]


def test_ctrl_c_twice() -> None:
    with pytest.raises(KeyboardInterrupt), StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)


def test_afterwards_signals_act_as_before(heard: list[int]) -> None:
    with StopSignal():
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]


def test_sigterm_where_nothing_is_to_be_saved(heard: list[int]) -> None:
    with sigterm_raises():  # somebody listens already
        os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with pytest.raises(Terminated), sigterm_raises():
        with StopSignal() as stop:  # what listens within goes first
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.number == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_forked_child_ends_as_it_would_have() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with sigterm_raises():
            child = os.fork()
            if not child:
                try:
                    os.kill(os.getpid(), signal.SIGTERM)
                finally:
                    os._exit(5)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("launcher", ["TORCHELASTIC_RUN_ID", STAGE])
def test_what_a_launcher_passes_on_is_no_second_signal(launcher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(launcher, "1")
    with StopSignal() as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.number == signal.SIGTERM
    with pytest.raises(StopRequested), resumable():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # while answers in hand are kept


def test_a_second_ctrl_c_ends_a_stage_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline passes on SIGTERM alone; Ctrl-C reaches its stage by itself, once each time."""
    monkeypatch.setenv(STAGE, "1")
    with pytest.raises(KeyboardInterrupt), StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)


def test_under_nohup_a_closed_terminal_is_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with hangup_terminates(lambda: None):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


SAVES = """
import os, pathlib, sys, time
from open_r1.errors import StopRequested
from open_r1.signals import hangup_terminates, sigterm_raises
from open_r1.training.signals import Interrupted, StopSignal

folder = pathlib.Path(sys.argv[1])
with hangup_terminates(lambda: folder), sigterm_raises(), StopSignal() as stop:
    try:
        (folder / "begun").touch()
        while True:
            time.sleep(0.01)
            stop.check()
    except Interrupted:
        for number in range(100):  # as many letters as no pipe takes
            print("saving", number, flush=True)
            os.write(2, b"x" * 4096 + b"\\n")
        (folder / "saved").touch()
"""


@pytest.mark.parametrize("piped", [False, True], ids=["terminal", "2>&1 | tee"])
def test_a_run_whose_terminal_is_closed_saves(piped: bool, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SAVES)
    process, terminal = pty.fork()
    if not process:
        command = f"exec {sys.executable} script.py . 2>&1 | tee log" if piped else f"exec {sys.executable} script.py ."
        os.chdir(tmp_path)
        os.execvp("bash", ["bash", "-mc" if piped else "-c", command])
    end = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    os.close(terminal)
    while not (tmp_path / "saved").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    os.waitpid(process, 0)
    said = (tmp_path / LOG).read_text()
    assert said.startswith("the terminal was closed (SIGHUP)\n") and "saving 99" in said


def wait_for(path: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} did not appear"
        time.sleep(0.02)


LOOP = """
import os, pathlib, signal, sys, time
from open_r1 import cli
from open_r1.errors import StopRequested
from open_r1.troubleshooting.failure import Situation
from open_r1.training.signals import Interrupted, StopSignal

folder = pathlib.Path(sys.argv[1])

def command(argv):
    with StopSignal() as stop:
        try:
            (folder / "begun").touch()
            for number in range(100_000):
                {between}
                stop.check()
        except Interrupted as reason:
            {saving}
            (folder / "saved").touch()
            raise StopRequested(f"saved after {{reason}}", reason.signal_number) from None

invocation = cli.Invocation([])
invocation.situation.folder = folder
status = cli.run_main(command, [], invocation)
(folder / "status").write_text(str(status))
"""


def script(between: str = "time.sleep(0.01)", saving: str = "pass") -> str:
    return LOOP.format(between=between, saving=saving)


@pytest.mark.parametrize("before", ["SIGHUP", "SIGINT", "SIGTERM"])
def test_a_terminal_that_is_closed_while_the_state_is_saved_is_no_second_signal(before: str, tmp_path: Path) -> None:
    again = "os.kill(os.getpid(), signal.SIGHUP); time.sleep(0.05)"
    (tmp_path / "script.py").write_text(script(f"os.kill(os.getpid(), signal.{before}); time.sleep(0.05)", again))
    subprocess.run([sys.executable, "script.py", "."], cwd=tmp_path, timeout=60, check=True, capture_output=True)
    assert (tmp_path / "saved").exists()
    number = signal.SIGINT if before == "SIGINT" else signal.SIGTERM
    assert (tmp_path / "status").read_text() == str(128 + number)


def test_a_terminal_that_is_closed_while_a_line_is_printed(tmp_path: Path) -> None:
    """The connection hangs: nothing takes the letters, printing waits, and in the midst of that the signal comes."""
    (tmp_path / "script.py").write_text(script("print('x' * 9999, file=sys.stderr)"))
    process = subprocess.Popen([sys.executable, "script.py", "."], cwd=tmp_path, stderr=subprocess.PIPE)
    wait_for(tmp_path / "begun")
    time.sleep(0.3)
    process.send_signal(signal.SIGHUP)
    process.wait(60)
    process.stderr.close()
    assert (tmp_path / "status").read_text() == "143" and (tmp_path / "saved").exists()


@pytest.mark.parametrize("how", ["rich", "print"])
def test_a_reader_that_has_ended_stops_no_run(how: str, tmp_path: Path) -> None:
    words = "'x ' * 999"  # a hundred times, more than a pipe holds
    say = {"rich": f"Console(stderr=True).print({words}, highlight=False)", "print": f"print({words}, flush=True)"}[how]
    text = "from rich.console import Console\n" + script(f"{say}; number < 99 or os.kill(os.getpid(), signal.SIGTERM)")
    (tmp_path / "script.py").write_text(text)
    subprocess.run(["bash", "-c", f"{sys.executable} script.py . 2>&1 | head -1"], cwd=tmp_path, timeout=60, check=True)
    wait_for(tmp_path / "status")
    assert (tmp_path / "status").read_text() == "143" and (tmp_path / "saved").exists()
    said = (tmp_path / LOG).read_text()
    assert said.startswith("nobody reads this any more (Broken pipe)\n") and "saved after SIGTERM" in said


def test_a_full_disk_takes_no_line_and_ends_no_run(tmp_path: Path) -> None:
    say = "print(number, flush=True); number < 99 or os.kill(os.getpid(), signal.SIGTERM)"
    (tmp_path / "script.py").write_text(script(say))
    with open("/dev/full", "w") as full:
        subprocess.run([sys.executable, "script.py", "."], cwd=tmp_path, timeout=60, check=True, stdout=full)
    assert (tmp_path / "status").read_text() == "143" and (tmp_path / "saved").exists()


def test_what_is_passed_on_on_the_way_out_is_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STAGE, "1")
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(Terminated), hangup_terminates(lambda: None), sigterm_raises():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                cleared = True
    finally:
        signal.signal(signal.SIGTERM, before)
    assert cleared
