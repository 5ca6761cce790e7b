from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fake_server import serve

from open_r1.errors import UserError
from open_r1.sandbox import piston
from open_r1.sandbox.http_json import post_json
from open_r1.sandbox.piston import PistonSandbox
from open_r1.sandbox.program import Limits, Outcome, Program, SandboxFailure
from open_r1.sandbox.registry import open_sandbox
from open_r1.sandbox.retry import run_with_retries

LIMITS = Limits(cpu_seconds=2.0, wall_seconds=5.0, memory_bytes=10**8, output_bytes=60)
BUSY = "Resource temporarily unavailable"
RUN = {"stdout": "42\n", "stderr": "", "code": 0, "signal": None, "output": "42\n"}


def outcome_of(answer: Callable[[str, Any], Any] | dict[str, Any], program: Program | None = None) -> Outcome:
    with serve(answer if callable(answer) else lambda path, payload: (200, answer)) as server:
        box = PistonSandbox([f"http://{server.address}/api/v2"])
        return box.run(program or Program("print(42)"), "in", LIMITS)


def test_the_request() -> None:
    with serve(lambda path, payload: (200, {"run": RUN})) as server:
        box = PistonSandbox([f"http://{server.address}/api/v2/"])
        program = Program("int main() {}", "cpp", {"add.h": "int ä;", "grader.cpp": "int b;"})
        assert box.run(program, "in", LIMITS) == Outcome("ok", "42\n", "", 0)
        box.close()
    ((path, payload),) = server.asked
    assert path == "/api/v2/execute"
    encoded = base64.b64encode("int ä;".encode()).decode()
    assert payload == {
        "language": "cpp",
        "version": "*",
        "files": [
            {"name": "main.cpp", "content": "int main() {}"},
            {"name": "add.h", "content": encoded, "encoding": "base64"},
            {"name": "grader.cpp", "content": "int b;"},
        ],
        "stdin": "in",
        "compile_timeout": 60_000,
        "run_timeout": 5000,
        "run_cpu_time": 2000,
        "run_memory_limit": 10**8,
    }


@pytest.mark.parametrize(
    ("run", "outcome"),
    [
        ({"code": 1, "stderr": "E"}, Outcome("runtime_error", "42\n", "E", 1)),
        ({"code": None, "signal": "SIGSEGV"}, Outcome("runtime_error", "42\n", "", None, 11)),
        ({"code": None, "signal": "SIGKILL"}, Outcome("time_limit", "42\n", "", None, 9)),
        ({"code": None, "signal": "SIGKILL", "status": "TO"}, Outcome("time_limit", "42\n", "", None, 9)),
        ({"signal": "SIGKILL", "status": "RE", "memory": 10**8}, Outcome("memory_limit", "42\n", "", None, 9)),
        ({"code": 1, "stderr": "\nMemoryError\n"}, Outcome("memory_limit", "42\n", "\nMemoryError\n", 1)),
        ({"status": "OL", "signal": "SIGKILL"}, Outcome("output_limit", "42\n", "", None, 9)),
        ({"stdout": "x" * 61}, Outcome("output_limit", "x" * 60, "", 0)),
        ({"cpu_time": 20, "wall_time": 30}, Outcome("ok", "42\n", "", 0, None, 0.02, 0.03)),
        ({"stderr": f"fork: {BUSY}", "code": 1}, Outcome("runtime_error", "42\n", f"fork: {BUSY}", 1)),
    ],
)
def test_how_programs_end(run: dict[str, Any], outcome: Outcome) -> None:
    assert outcome_of({"run": {**RUN, **run}}) == outcome


@pytest.mark.parametrize("status", ["OL", "EL"])
def test_a_server_that_takes_too_little_output_is_the_users_to_mend(status: str) -> None:
    run = {**RUN, "stdout": "1 " * 500, "code": None, "signal": "SIGKILL", "status": status}
    with serve(lambda path, payload: (200, {"run": run})) as server:
        box = PistonSandbox([f"http://{server.address}/api/v2"])
        with pytest.raises(UserError, match="1,000 bytes were taken: start it with PISTON_OUTPUT_MAX_SIZE=4194304"):
            box.run(Program("print('1 ' * 1000)"), "", Limits())
        run["stdout"] = "1 " * 50_000
        assert box.run(Program("print('1 ' * 100000)"), "", Limits()).status == "output_limit"


def test_what_does_not_compile() -> None:
    compiled = {"stdout": "", "stderr": "main.cpp: no", "code": 1, "signal": None}
    assert outcome_of({"compile": compiled, "run": RUN}) == Outcome("compile_error", "", "main.cpp: no", 1)
    assert outcome_of({"compile": {**compiled, "code": None, "signal": "SIGKILL"}}).status == "compile_error"
    assert outcome_of({"compile": {**compiled, "code": 0}, "run": RUN}).status == "ok"


OVERLOADED = {**RUN, "stdout": "", "stderr": f"/piston/packages/bash/run: fork: {BUSY}", "code": 1}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("drop", "RemoteDisconnected"),
        ("cut", "IncompleteRead"),
        ((500, {"message": "out of order"}), "answered 500: out of order"),
        ((502, b"<html>"), "answered 502: <html>"),
        ((429, {"message": "slow down"}), "answered 429: slow down"),
        ((200, b"<html>"), "no JSON"),
        ((200, None), "without a run"),
        ((200, {"message": "?"}), "without a run"),
        ((200, {"run": {**RUN, "status": "XX", "message": "isolate"}}), "failed inside: isolate"),
        ((200, {"run": OVERLOADED}), "no process left"),
    ],
)
def test_failures_of_the_service(answer: Any, message: str) -> None:
    with pytest.raises(SandboxFailure, match=message):
        outcome_of(lambda path, payload: answer)


def test_no_server() -> None:
    with pytest.raises(SandboxFailure, match="refused"):
        PistonSandbox(["http://127.0.0.1:9/api/v2"]).run(Program(""), "", LIMITS)


def test_a_server_that_never_ends_its_answer() -> None:
    with (
        serve(lambda path, payload: time.sleep(0.5) or (200, {})) as server,
        pytest.raises(SandboxFailure, match=r"TimeoutError|timed out"),
    ):
        post_json(f"http://{server.address}/", {}, 0.1)


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("cobol-* runtime is unknown", "has no cobol: install its package"),
        ("run_timeout cannot exceed the configured limit of 3000", "allows less than is asked for"),
        ("files is required", "refuses to run a cobol program: files is required"),
    ],
)
def test_refusals_are_the_users_to_mend(message: str, advice: str) -> None:
    with pytest.raises(UserError, match=advice):
        outcome_of(lambda path, payload: (400, {"message": message}), Program("", "cobol"))


def test_half_of_the_connections_drop() -> None:
    count = iter(range(1000))
    with serve(lambda path, payload: "drop" if next(count) % 2 == 0 else (200, {"run": RUN})) as server:
        box = PistonSandbox([f"http://{server.address}/api/v2"])
        for _ in range(5):
            assert run_with_retries(box, Program(""), "", LIMITS, pause_seconds=0.0) == Outcome("ok", "42\n", "", 0)


def test_requests_of_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def answer(path: str, payload: Any) -> tuple[int, Any]:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1
        return 200, {"run": RUN}

    monkeypatch.setenv("PISTON_MAX_REQUESTS_PER_ENDPOINT", "2")
    with serve(answer) as server, ThreadPoolExecutor(6) as threads:
        monkeypatch.setenv("PISTON_ENDPOINTS", f" http://{server.address}/api/v2 ,")
        for workers, expected in ((None, 2), (1, 1), (9, 2)):
            box = open_sandbox("piston", workers=workers)
            most[0] = 0
            list(threads.map(lambda _, box=box: box.run(Program(""), "", LIMITS), range(6)))
            assert most[0] == expected


def test_another_endpoint_is_asked_when_one_is_gone() -> None:
    with serve(lambda path, payload: (200, {"run": RUN})) as server:
        box = PistonSandbox(["http://127.0.0.1:9/api/v2", f"http://{server.address}/api/v2"])
        for _ in range(4):
            assert run_with_retries(box, Program(""), "", LIMITS, pause_seconds=0.0) is not None


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PISTON_ENDPOINTS", raising=False)
    with pytest.raises(UserError, match="set PISTON_ENDPOINTS to http://host:2000"):
        open_sandbox("piston")
    monkeypatch.setenv("PISTON_ENDPOINTS", "http://a/api/v2")
    monkeypatch.setenv("PISTON_MAX_REQUESTS_PER_ENDPOINT", "many")
    with pytest.raises(UserError, match="PISTON_MAX_REQUESTS_PER_ENDPOINT is 'many'"):
        open_sandbox("piston")


def test_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    class Done:
        stdout = "piston-worker-2001 node-2\nother node-1\npiston-worker-2000 node-1\n"

    monkeypatch.setenv("PISTON_ENDPOINTS", "slurm")
    monkeypatch.setattr(piston.subprocess, "run", lambda *command, **options: Done)
    assert piston._endpoints_of_environment() == ["http://node-1:2000/api/v2", "http://node-2:2001/api/v2"]

    def missing(*command: object, **options: object) -> None:
        raise FileNotFoundError("no squeue")

    monkeypatch.setattr(piston.subprocess, "run", missing)
    with pytest.raises(UserError, match="squeue does not answer"):
        open_sandbox("piston")
