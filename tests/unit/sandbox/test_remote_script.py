from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from open_r1.errors import UserError
from open_r1.sandbox.program import Limits, Outcome, Program, SandboxFailure
from open_r1.sandbox.remote_script import read_outcome, remote_script

LIMITS = Limits(cpu_seconds=2.0, wall_seconds=5.0)


def run(program: Program, stdin: str = "", limits: Limits = LIMITS) -> Outcome:
    script, marker = remote_script(program, stdin, limits)
    done = subprocess.run([sys.executable, "-"], input=script.encode(), capture_output=True, check=True)
    return read_outcome(done.stdout.decode(), marker)


def test_streams_and_files() -> None:
    source = "import sys\nprint(sys.stdin.read(), open('note.txt').read())\nprint('ä\\u2028', file=sys.stderr)"
    outcome = run(Program(source, files={"note.txt": "ö"}), "ü\n" * 3)
    assert (outcome.status, outcome.stdout, outcome.stderr) == ("ok", "ü\nü\nü\n ö\n", "ä\u2028\n")
    assert (outcome.exit_code, outcome.signal) == (0, None)
    assert outcome.cpu_seconds > 0


@pytest.mark.parametrize(
    ("source", "status", "code", "signal"),
    [
        ("raise SystemExit(3)", "runtime_error", 3, None),
        ("1 / 0", "runtime_error", 1, None),
        ("import os; os.kill(os.getpid(), 11)", "runtime_error", None, 11),
        ("x = [0] * 10**9", "memory_limit", 1, None),
        ("import sys\nwhile True: sys.stdout.write('x' * 10**6)", "output_limit", 1, None),
        ("import sys\nsys.stderr.write('x' * 10**6)", "output_limit", 0, None),
    ],
)
def test_how_programs_end(source: str, status: str, code: int | None, signal: int | None) -> None:
    outcome = run(Program(source), limits=replace(LIMITS, output_bytes=10**5))
    assert (outcome.status, outcome.exit_code, outcome.signal) == (status, code, signal)
    assert len(outcome.stdout) <= 10**5
    assert len(outcome.stderr) <= 10**5


def test_time() -> None:
    assert run(Program("import time; time.sleep(9)"), limits=replace(LIMITS, wall_seconds=0.3)).status == "time_limit"
    outcome = run(Program("while True: pass"), limits=replace(LIMITS, cpu_seconds=0.5))
    assert (outcome.status, outcome.exit_code) == ("time_limit", None)


def test_nothing_is_left(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    source = f"""
import os, time
print(os.getcwd())
if os.fork() == 0:
    time.sleep(1)
    open({str(mark)!r}, "w")
"""
    outcome = run(Program(source))
    assert not Path(outcome.stdout.strip()).exists()
    subprocess.run(["sleep", "1.2"], check=True)
    assert not mark.exists()


def test_the_environment_is_bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_API_KEY", "secret")
    assert "secret" not in run(Program("import os; print(os.environ)")).stdout


@pytest.mark.parametrize(
    ("language", "source", "tool"),
    [
        ("bash", 'read x; echo "$x"', "bash"),
        ("js", "console.log(require('fs').readFileSync(0, 'utf8').trim())", "node"),
        ("c", '#include <stdio.h>\nint main() { int x; scanf("%d", &x); printf("%d", x); }', "gcc"),
        ("c++", '#include "two.h"\n#include <cstdio>\nint main() { std::printf("%d", two() * 21); }', "g++"),
    ],
)
def test_languages(language: str, source: str, tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"there is no {tool}")
    files = {"two.h": "int two();", "two.cpp": "int two() { return 2; }"}
    outcome = run(Program(source, language, files), "42\n", LIMITS)
    assert (outcome.status, outcome.stdout.strip()) == ("ok", "42"), outcome.stderr


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_deep_recursion_has_the_stack_that_it_has_in_the_local_sandbox() -> None:
    source = "int f(int n) { volatile int x = n; return n ? 1 + f(n - 1) + x - n : 0; }\n"
    outcome = run(Program(source + "int main() { return f(1000000) != 1000000; }", "cpp"))
    assert (outcome.status, outcome.signal) == ("ok", None)


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_what_does_not_compile() -> None:
    outcome = run(Program("int main() {", "cpp"))
    assert (outcome.status, outcome.stdout, outcome.exit_code) == ("compile_error", "", 1)
    assert "error" in outcome.stderr


def test_a_language_that_is_not_there() -> None:
    with pytest.raises(UserError, match="runs python, bash, javascript, c, cpp, not 'cobol'"):
        remote_script(Program("", "cobol"), "", LIMITS)


def test_large_input_and_output() -> None:
    text = "0123456789" * 300_000
    outcome = run(Program("print(input())"), text)
    assert outcome.stdout == f"{text}\n"


def frame(outcome: object) -> str:
    return "m:" + base64.b64encode(zlib.compress(json.dumps(outcome).encode())).decode()


@pytest.mark.parametrize(
    ("printed", "message"),
    [
        ("", "did not finish the run"),
        ("Traceback\nKilled", "it printed 'Traceback.nKilled'"),
        ("m:AAAA", "was cut"),
        ("m:" + frame({})[2:20], "was cut"),
        (frame({"failure": "FileNotFoundError: gcc"}), "could not run the program: FileNotFoundError: gcc"),
    ],
)
def test_no_outcome_is_a_failure_of_the_sandbox(printed: str, message: str) -> None:
    with pytest.raises(SandboxFailure, match=message):
        read_outcome(printed, "m:")


def test_lines_that_a_service_broke() -> None:
    text = frame({"status": "ok", "stdout": "x", "stderr": ""})
    broken = f"noise\n{text[:9]}\n{text[9:]}\n"
    assert read_outcome(broken, "m:") == Outcome("ok", "x", "")
