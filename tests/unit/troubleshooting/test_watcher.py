"""The process that says by which signal a run died."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from open_r1.troubleshooting import watch_program
from open_r1.troubleshooting.signal_report import tell_signal
from open_r1.troubleshooting.watcher import folder_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc as Linux has them")

RUN = """
import os, pathlib, signal, sys, time
from open_r1 import cli
from open_r1.troubleshooting.watcher import end_at_once, watch

def command(argv):
    invocation.watcher = watch(invocation.situation)
    print(invocation.watcher._process.pid if invocation.watcher else 0, flush=True)
    {body}

invocation = cli.Invocation(["sft", "--config", "x.yaml"])
invocation.situation.folder = pathlib.Path({folder!r})
sys.exit(cli.run_main(command, [], invocation))
"""


def program(body: str, folder: Path) -> list[str]:
    return [sys.executable, "-c", RUN.format(body=body, folder=str(folder))]


def environment(**more: str) -> dict[str, str]:
    without = {name: value for name, value in os.environ.items() if name != "PYTHONFAULTHANDLER"}
    return without | more


def run(body: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(program(body, folder), capture_output=True, text=True, env=environment(**more), timeout=60)


def kill_self(name: str) -> str:
    return f"os.kill(os.getpid(), signal.{name})"


@pytest.mark.parametrize(
    ("name", "entry"),
    [("SIGFPE", "sigfpe"), ("SIGILL", "sigill"), ("SIGSEGV", "sigsegv"), ("SIGBUS", "shared-memory"),
     ("SIGABRT", "sigabrt")],
)  # fmt: skip
def test_a_fatal_signal_is_named_with_its_stacks(name: str, entry: str, tmp_path: Path) -> None:
    done = run(kill_self(name), tmp_path)
    assert done.returncode == -getattr(signal, name)
    lines = done.stderr.splitlines()
    assert f"was ended by {name}." in lines[0] and lines[0].startswith("error: the run (process ")
    assert f"        docs/troubleshooting.md#{entry}" in lines
    assert lines[-1] == f"where each thread was is in {tmp_path / 'signal-rank0.txt'}"
    text = (tmp_path / "signal-rank0.txt").read_text()
    assert 'in command\n  File "' in text and "command:  open-r1 sft --config x.yaml" in text and "torch 2" in text


def test_sigfpe_points_to_the_probe(tmp_path: Path) -> None:
    said = run(kill_self("SIGFPE"), tmp_path).stderr
    assert "open-r1 doctor --only matmul_bf16 matmul_fp16" in said and "nvidia-cublas-cu12==12.4.5.8" in said


def test_a_signal_that_native_code_raises(tmp_path: Path) -> None:
    assert "was ended by SIGFPE" in run("import ctypes; getattr(ctypes.CDLL(None), 'raise')(8)", tmp_path).stderr


def test_sigkill_leaves_no_trace_but_is_noticed(tmp_path: Path) -> None:
    done = run(kill_self("SIGKILL"), tmp_path)
    assert done.returncode == -signal.SIGKILL
    assert "was killed (SIGKILL" in done.stderr
    assert not list(tmp_path.iterdir())


def test_killed_from_outside_it_is_soon_over(tmp_path: Path) -> None:
    with subprocess.Popen(
        program("time.sleep(60)", tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        watcher = psutil.Process(int(process.stdout.readline()))
        assert os.getsid(watcher.pid) == watcher.pid != os.getsid(process.pid), "Ctrl-C does not reach it"
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            watcher.send_signal(number)
        time.sleep(0.2)
        assert watcher.is_running() and watcher.status() != psutil.STATUS_ZOMBIE
        assert watcher.memory_info().rss < 32 << 20
        process.kill()
        assert "was killed (SIGKILL" in process.stderr.read(), "and the reader of stderr comes to its end"
        assert process.wait(10) == -signal.SIGKILL
        psutil.wait_procs([watcher], timeout=5)
        assert not watcher.is_running()


def test_children_that_hold_everything_do_not_keep_it_waiting(tmp_path: Path) -> None:
    body = f"os.fork() or (time.sleep(4), os._exit(0)); {kill_self('SIGKILL')}"
    with subprocess.Popen(
        program(body, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        watcher = psutil.Process(int(process.stdout.readline()))
        assert process.wait(30) == -signal.SIGKILL
        gone, _ = psutil.wait_procs([watcher], timeout=3.5)
        assert gone, "the child lives for four seconds"
        assert "was killed" in process.stderr.readline()


def test_a_signal_in_a_child_is_not_the_runs_own(tmp_path: Path) -> None:
    body = f"os.fork() or {kill_self('SIGSEGV')}; os.wait(); {kill_self('SIGKILL')}"
    said = run(body, tmp_path).stderr
    assert "was killed (SIGKILL" in said and "SIGSEGV" not in said


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("pass", 0),
        ("sys.exit(5)", 5),
        ("raise KeyboardInterrupt", 130),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", 143),
        ("end_at_once(143)", 143),
        ("os._exit(0)", 0),
    ],
)
def test_a_run_that_ends_by_itself_leaves_nothing(body: str, status: int, tmp_path: Path) -> None:
    done = run(body, tmp_path)
    assert done.returncode == status
    if not body.startswith("os._exit"):  # which kernels before 6.15 cannot tell from a kill
        assert "killed" not in done.stderr and "ended by" not in done.stderr
        assert not psutil.pid_exists(int(done.stdout))
    assert not list(tmp_path.iterdir())


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    done = run(kill_self("SIGFPE"), tmp_path, OPEN_R1_WATCHER="0")
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_stacks_that_the_person_asked_for_stay_where_they_were(tmp_path: Path) -> None:
    done = run(kill_self("SIGSEGV"), tmp_path, PYTHONFAULTHANDLER="1")
    assert done.stderr.startswith("Fatal Python error: Segmentation fault")
    assert "was ended by" in done.stderr and not list(tmp_path.iterdir())


def test_without_a_handle_of_the_process_it_looks_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f"import open_r1.troubleshooting.watcher as w; {kill_self('SIGKILL')}"
    code = RUN.format(body=body, folder=str(tmp_path)).replace("def command", "del os.pidfd_open\n\ndef command", 1)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60)
    assert "was killed (SIGKILL" in done.stderr


def test_faulthandler_is_as_before(tmp_path: Path) -> None:
    show = "print(faulthandler.is_enabled())"
    body = f"import faulthandler; {show}; invocation.watcher.ended(); {show}"
    assert run(body, tmp_path).stdout.splitlines()[1:] == ["True", "False"]


def told(name: str | None, kills: list[str] | None, rank: int = 0, of: int = 1, theirs: int = 0) -> str:
    said = io.StringIO()
    facts = ["4711", str(theirs), str(rank), str(of), "launch", str(time.time()), "", "sft --config x.yaml"]
    tell_signal(facts, name, "", kills, said)
    return said.getvalue()


def test_the_kernels_counts_tell_who_killed() -> None:
    of_group = told("SIGKILL", ["/sys/fs/cgroup/memory.events", "/proc/vmstat"])
    assert "the memory of the container (its control group) was used up" in of_group and "#sigkill" in of_group
    assert "the memory of the machine was used up" in told("SIGKILL", ["/proc/vmstat"])
    outside = told("SIGKILL", [])
    assert "nothing for want of memory" in outside and "--dataset_num_proc" not in outside
    unknown = told(None, None)
    assert "was killed (SIGKILL, most likely)" in unknown and "nearly always by the kernel" in unknown
    assert "the one that “Fatal Python error” names above, else SIGKILL" in told(None, None, theirs=1)


def test_of_several_ranks_one_tells_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert "the run (process 4711, rank 2) was ended by SIGFPE" in told("SIGFPE", [], rank=2, of=4)
    assert told(None, [], rank=0, of=4) == "rank 0 was ended by SIGKILL, after another process had failed\n"


def test_an_unknown_signal_is_named_at_least() -> None:
    assert told("SIGUSR1", []) == "error: the run (process 4711) was ended by SIGUSR1.\n"


def test_counts_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    before = watch_program.out_of_memory_kills()
    assert all(count >= 0 for count in before.values())
    monkeypatch.setattr(watch_program, "out_of_memory_kills", lambda: {"a": 2, "b": 1})
    assert watch_program.new_kills({"a": 1, "b": 1}) == ["a"]
    assert watch_program.new_kills({}) is None


def test_the_status_of_a_process_that_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 10)"])
    handle = os.pidfd_open(process.pid)
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert watch_program.exit_status(process.pid, handle) == signal.SIGUSR1
        process.wait()
        assert watch_program.exit_status(process.pid, handle) in (signal.SIGUSR1, None), "None before Linux 6.15"
    finally:
        os.close(handle)


def test_the_folder_of_a_command() -> None:
    class Config:
        output_dir, output = None, "answers/a.jsonl"

    assert folder_of(Config()) == Path("answers")
    Config.output_dir = "runs/1"
    assert folder_of(Config()) == Path("runs/1")
    assert folder_of(object()) is None
