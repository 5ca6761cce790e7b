"""Programs run by Piston servers (https://github.com/engineer-man/piston, API version 2).

Each run is one request to one of the endpoints of PISTON_ENDPOINTS (``http://host:2000/api/v2``, several by commas, or
``slurm`` for those of the jobs named ``piston-worker-PORT``), at most PISTON_MAX_REQUESTS_PER_ENDPOINT (1) of a process
at a time on each. An endpoint isolates programs from each other and from itself; whether they reach the network, and
how long and large they may be at most, is its own setting. The packages of the languages have to be installed there.
"""

from __future__ import annotations

import base64
import os
import queue
import random
import re
import signal
import subprocess
from typing import Any

from open_r1.errors import UserError
from open_r1.sandbox.http_json import Refused, post_json
from open_r1.sandbox.program import Limits, Outcome, Program, SandboxFailure, Status

ENDPOINTS = "PISTON_ENDPOINTS"
REQUESTS_PER_ENDPOINT = "PISTON_MAX_REQUESTS_PER_ENDPOINT"

COMPILE_SECONDS = 60.0
"""Asked for compiling; the server's own limit has to allow it (PISTON_COMPILE_TIMEOUT)."""

_MARGIN_SECONDS = 15.0
_LITTLE_OUTPUT = 2**15
"""Bytes: a server that ends a program which has printed less has a limit that no tests fit (1,024 by itself)."""
_SUFFIXES = {"python": ".py", "cpp": ".cpp", "c": ".c", "javascript": ".js", "bash": ".sh"}
_COMPILED = {"c": (".c",), "cpp": (".cpp", ".cc")}
_STATUSES: dict[str, Status] = {"TO": "time_limit", "OL": "output_limit", "EL": "output_limit"}
_NO_PROCESS = "Resource temporarily unavailable"
_PACKAGES = "/piston/packages/"


class PistonSandbox:
    """A sandbox on Piston servers."""

    def __init__(self, endpoints: list[str] | None = None, *, workers: int | None = None) -> None:
        """Looks up the endpoints; nothing is sent yet.

        Args:
            endpoints: None takes those of PISTON_ENDPOINTS.
            workers: requests at once at most; None is as many as the endpoints take.

        Raises:
            UserError: there are none, or a number in the environment is not one.
        """
        endpoints = endpoints if endpoints is not None else _endpoints_of_environment()
        if not endpoints:
            raise UserError(
                f"the piston sandbox needs servers: set {ENDPOINTS} to http://host:2000/api/v2 (several: by commas)"
            )
        places = [endpoint.rstrip("/") for endpoint in endpoints for _ in range(_requests_per_endpoint())]
        random.shuffle(places)  # so that processes with the same list do not all begin with the same server
        self._places: queue.Queue[str] = queue.Queue()
        for place in places[:workers] if workers else places:
            self._places.put(place)

    def run(self, program: Program, stdin: str, limits: Limits) -> Outcome:
        """Runs a program once; see :class:`open_r1.sandbox.program.Sandbox`.

        Raises:
            SandboxFailure: the server cannot be reached, failed, or has no process left.
            UserError: the server does not offer the language, allows less than the limits ask for, or ends programs
                that print more than a few kilobytes.
        """
        endpoint = self._places.get()
        try:
            timeout = COMPILE_SECONDS + limits.wall_seconds + _MARGIN_SECONDS
            answer = post_json(f"{endpoint}/execute", _request(program, stdin, limits), timeout)
        except Refused as refusal:
            raise UserError(_advice(endpoint, program.language, str(refusal))) from refusal
        finally:
            self._places.put(endpoint)
        return _outcome(endpoint, answer, limits)

    def close(self) -> None:
        """Nothing is held."""


def _endpoints_of_environment() -> list[str]:
    text = os.environ.get(ENDPOINTS, "").strip()
    if text == "slurm":
        return _endpoints_of_slurm()
    return [part.strip() for part in text.split(",") if part.strip()]


def _endpoints_of_slurm() -> list[str]:
    command = ["squeue", "--format=%j %N", "--noheader", "--states=RUNNING"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"{ENDPOINTS} is slurm, but squeue does not answer ({error}): name the servers") from error
    jobs = re.findall(r"^piston-worker-(\d+) (\S+)$", listed, re.MULTILINE)
    return sorted(f"http://{host}:{port}/api/v2" for port, host in jobs)


def _requests_per_endpoint() -> int:
    text = os.environ.get(REQUESTS_PER_ENDPOINT, "1")
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{REQUESTS_PER_ENDPOINT} is {text!r}: it has to be a number from 1")
    return int(text)


def _request(program: Program, stdin: str, limits: Limits) -> dict[str, Any]:
    main = f"main{_SUFFIXES.get(program.language, '')}"
    return {
        "language": program.language,
        "version": "*",
        "files": [
            {"name": main, "content": program.source},
            *(_file(name, text, program.language) for name, text in program.files.items()),
        ],
        "stdin": stdin,
        "compile_timeout": round(COMPILE_SECONDS * 1000),
        "run_timeout": round(limits.wall_seconds * 1000),
        "run_cpu_time": round(limits.cpu_seconds * 1000),
        "run_memory_limit": limits.memory_bytes,
    }


def _file(name: str, text: str, language: str) -> dict[str, str]:
    if name.endswith(_COMPILED.get(language, ())):
        return {"name": name, "content": text}
    # Files in UTF-8 are handed to the compiler and as arguments to the program; others only lie beside them.
    return {"name": name, "content": base64.b64encode(text.encode()).decode(), "encoding": "base64"}


def _outcome(endpoint: str, answer: Any, limits: Limits) -> Outcome:
    if not isinstance(answer, dict) or not isinstance(answer.get("run") or answer.get("compile"), dict):
        raise SandboxFailure(f"{endpoint} answered without a run: {answer!r:.200}")
    compiled = answer.get("compile")
    if compiled and (compiled.get("code") != 0 or compiled.get("signal")):
        _raise_if_its_own_fault(endpoint, compiled)
        return Outcome("compile_error", "", _cut(compiled.get("stderr"), limits), compiled.get("code"))
    run = answer["run"]
    _raise_if_its_own_fault(endpoint, run)
    _raise_if_it_takes_little(endpoint, run, limits)
    return Outcome(
        _status(run, limits),
        _cut(run.get("stdout"), limits),
        _cut(run.get("stderr"), limits),
        None if run.get("signal") else run.get("code"),
        _signal_number(run.get("signal")),
        (run.get("cpu_time") or 0) / 1000,
        (run.get("wall_time") or 0) / 1000,
    )


def _raise_if_its_own_fault(endpoint: str, stage: dict[str, Any]) -> None:
    stderr = stage.get("stderr") or ""
    if stage.get("status") == "XX":
        raise SandboxFailure(f"{endpoint} failed inside: {stage.get('message')}")
    # Said by the script that starts the program, which could not: not by a program that prints it.
    if stderr.startswith(_PACKAGES) and _NO_PROCESS in stderr and not stage.get("stdout"):
        raise SandboxFailure(f"{endpoint} has no process left: {stderr[:200]}")


def _raise_if_it_takes_little(endpoint: str, run: dict[str, Any], limits: Limits) -> None:
    printed = max(len((run.get(name) or "").encode()) for name in ("stdout", "stderr"))
    if run.get("status") in ("OL", "EL") and printed < _LITTLE_OUTPUT < limits.output_bytes // 4:
        raise UserError(
            f"{endpoint} ended a program for what it printed, of which {printed:,} bytes were taken: start it with "
            f"PISTON_OUTPUT_MAX_SIZE={limits.output_bytes}"
        )


def _status(run: dict[str, Any], limits: Limits) -> Status:
    if run.get("status") in _STATUSES:
        return _STATUSES[run["status"]]
    if max(len((run.get(name) or "").encode()) for name in ("stdout", "stderr")) > limits.output_bytes:
        return "output_limit"
    if run.get("code") == 0 and not run.get("signal"):
        return "ok"
    if (run.get("memory") or 0) >= limits.memory_bytes or "MemoryError" in (run.get("stderr") or "")[-200:]:
        return "memory_limit"
    # A server before API statuses only says that it killed the program, which it does when time is over.
    return "time_limit" if run.get("signal") in ("SIGKILL", "SIGXCPU") else "runtime_error"


def _signal_number(name: str | None) -> int | None:
    return getattr(signal, name, None) if name else None


def _cut(text: str | None, limits: Limits) -> str:
    return (text or "").encode()[: limits.output_bytes].decode(errors="replace")


def _advice(endpoint: str, language: str, message: str) -> str:
    if "runtime is unknown" in message:
        return f"{endpoint} has no {language}: install its package there (POST {endpoint}/packages)"
    if "cannot exceed" in message:
        return f"{endpoint} allows less than is asked for ({message}): start it with higher PISTON_RUN_… limits"
    return f"{endpoint} refuses to run a {language} program: {message}"
