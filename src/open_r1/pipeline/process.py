"""A stage's process: it shares the terminal, is told to stop when the pipeline is, and ends when the pipeline dies."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

from open_r1.signals import STAGE, Told
from open_r1.troubleshooting.matching import of_signal
from open_r1.troubleshooting.words import PAGE

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Ended:
    """How a stage's process ended.

    Attributes:
        status: its exit status, negative for a signal.
        stopped_by: the signal that told the pipeline to stop meanwhile, if one did.
    """

    status: int
    stopped_by: int | None


def run_process(command: Sequence[str], *, inherit: Sequence[int] = ()) -> Ended:
    """Runs ``command`` to its end.

    Ctrl-C in a terminal reaches the child by itself; SIGTERM, and a SIGINT that no terminal sent, are passed on as
    SIGTERM. Either way the child has the time it needs to save. A batch system, or a terminal that was closed, may have
    told it before; a command of this package takes the two for one (`open_r1.signals.is_echo`).

    Args:
        inherit: file descriptors that the child keeps open.
    """
    stopped_by: int | None = None
    child: subprocess.Popen[bytes] | None = None

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal stopped_by
        stopped_by = number
        Told.note()
        by_terminal = number == signal.SIGINT and _in_foreground()
        if child is not None and child.poll() is None and not by_terminal:
            child.send_signal(signal.SIGTERM)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        environment = {**os.environ, STAGE: "1"}
        child = subprocess.Popen(command, pass_fds=inherit, preexec_fn=_end_with_parent, env=environment)
        if stopped_by:  # told between the handler's start and the child's
            child.send_signal(signal.SIGTERM)
        return Ended(child.wait(), stopped_by)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def describe(status: int) -> str:
    """A failed process's status in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    entry = of_signal(name)
    return f"ended by {name}: {entry.title}, {PAGE}#{entry.name}" if entry else f"ended by {name}"


def _in_foreground() -> bool:
    """Whether Ctrl-C in the terminal goes to our process group, and so to the child too."""
    try:
        return os.tcgetpgrp(sys.__stdin__.fileno()) == os.getpgrp()
    except (OSError, AttributeError, ValueError):
        return False


def _end_with_parent() -> None:
    """In the child: SIGTERM (which saves) when the pipeline is killed, so that no run goes on unseen."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
