"""Runs a probe in a process of its own, so that what kills it, or never ends, is an answer too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

_TAIL = 4000
"""Characters kept of what a probe wrote to standard error."""


@dataclass(frozen=True)
class Outcome:
    """How a probe ended.

    Attributes:
        facts: all that it said, later facts over earlier ones; ``at`` is what it tried last.
        lines: the same, one by one.
        status: its exit status; negative is minus the signal that it died by; None where it met its deadline.
        errors: the end of what it wrote to standard error.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    lines: tuple[dict[str, Any], ...] = ()
    status: int | None = 0
    errors: str = ""

    @property
    def ended_well(self) -> bool:
        return self.status == 0

    @property
    def timed_out(self) -> bool:
        return self.status is None

    @property
    def signal_name(self) -> str | None:
        """``SIGFPE``; None where it did not die by a signal."""
        if self.status is None or self.status >= 0:
            return None
        try:
            return signal.Signals(-self.status).name
        except ValueError:
            return f"signal {-self.status}"

    @property
    def last_error(self) -> str:
        """The last line of standard error that says something, such as ``ImportError: …``."""
        lines = [line.strip() for line in self.errors.splitlines() if line.strip()]
        named = [line for line in lines if "Error" in line.split(":")[0] or "Exception" in line.split(":")[0]]
        return (named or lines or [""])[-1]


def run_child(
    module: str, asked: Mapping[str, Any], *, seconds: float, environment: Mapping[str, str] | None = None
) -> Outcome:
    """Runs ``python -m module`` and waits for its end.

    Args:
        module: has a ``main`` that speaks through `open_r1.machine.answer.Answer`.
        asked: plain data for it.
        seconds: deadline; the process and all that it has started are killed then.
        environment: of the child; None is this process's own.
    """
    command = [sys.executable, "-P", "-m", module, json.dumps(dict(asked))]
    # A session of its own: what the probe starts is killed with it, and Ctrl-C reaches it through this process.
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ if environment is None else environment),
        start_new_session=True,
    )
    kept: dict[str, bytes] = {}
    readers = [
        threading.Thread(target=_keep, args=(stream, name, kept), daemon=True)
        for name, stream in (("out", process.stdout), ("err", process.stderr))
    ]
    for reader in readers:
        reader.start()
    try:
        with _running(process):
            try:
                status: int | None = process.wait(seconds)
            except subprocess.TimeoutExpired:
                status = None
    finally:
        _kill(process)
        for reader in readers:
            reader.join(5.0)
        with suppress(OSError):
            process.stdin.close()
    lines = tuple(_facts(kept.get("out", b"")))
    facts = {name: value for line in lines for name, value in line.items()}
    errors = kept.get("err", b"").decode(errors="replace")
    return Outcome(facts, lines, status, errors[-_TAIL:])


def kill_children() -> None:
    """Kills the probes that other threads wait for: the person has interrupted."""
    for process in list(_alive):
        _kill(process)


_alive: set[subprocess.Popen[bytes]] = set()


@contextmanager
def _running(process: subprocess.Popen[bytes]) -> Iterator[None]:
    _alive.add(process)
    try:
        yield
    finally:
        _alive.discard(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a probe and what it has started, which may outlive it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _keep(stream: Any, name: str, kept: dict[str, bytes]) -> None:
    with stream:
        kept[name] = b""
        while block := stream.read1(1 << 16):
            kept[name] += block


def _facts(output: bytes) -> Iterator[dict[str, Any]]:
    for line in output.decode(errors="replace").splitlines():
        with suppress(ValueError):
            facts = json.loads(line)
            if isinstance(facts, dict):
                yield facts
