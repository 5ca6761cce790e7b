"""What ends a command from outside: SIGTERM, SIGHUP, and the same signal once more from whoever passes signals on."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from open_r1.errors import Terminated

STAGE = "OPEN_R1_STAGE"
"""In the environment of a process that `open-r1 run` has started."""

LOG = "after-hangup.log"
"""In a run's folder: what it said once nobody could read it."""

_TORCHRUN = "TORCHELASTIC_RUN_ID"
ECHO = 5.0
"""Seconds in which a launcher passes on a signal that its processes, all of one group, may have had already."""


def is_launched() -> bool:
    """Whether this process was started by what passes signals on: `torchrun`, `accelerate launch`, `open-r1 run`."""
    return _TORCHRUN in os.environ or STAGE in os.environ


def is_echo(number: int, first: float) -> bool:
    """Whether a signal that comes now is one that was heard at ``first`` (``time.monotonic``), passed on.

    Ctrl-C, a closed terminal and batch systems tell every process of a group, and a launcher then tells its own again:
    `open-r1 run` by SIGTERM, whatever it has heard.
    """
    passed_on = _TORCHRUN in os.environ or (STAGE in os.environ and number == signal.SIGTERM)
    return passed_on and time.monotonic() - first <= ECHO


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Inside, SIGTERM raises `Terminated` in the main thread: files are closed and processes ended on the way out.

    Where somebody else has taken the signal already, or outside the main thread, nothing changes.
    """

    def end(_number: int) -> None:
        raise Terminated

    with _taken(signal.SIGTERM, end):
        yield


@contextmanager
def hangup_terminates(folder: Callable[[], Path | None]) -> Iterator[None]:
    """Inside, SIGHUP (the terminal, or the connection that it came over, is gone) acts as SIGTERM does, which saves;
    what would be written to the terminal, or into a pipe that hung on it, goes to `LOG`.

    Under ``nohup``, which has the signal ignored, it stays so. Where somebody else has taken the signal already, or
    outside the main thread, nothing changes.

    Args:
        folder: of the run, once it is known; without one, what is written is lost.
    """

    def end(_number: int) -> None:
        _redirect_output(folder())
        signal.raise_signal(signal.SIGTERM)

    with _taken(signal.SIGHUP, end):
        yield


@contextmanager
def _taken(number: int, act: Callable[[int], None]) -> Iterator[None]:
    """Inside, ``act`` is called in the main thread of this process when the signal arrives, unless it is taken."""
    taken = signal.getsignal(number) is not signal.SIG_DFL
    if taken or threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def heard(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked child ends as it would have
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        act(number)

    signal.signal(number, heard)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL)


def _redirect_output(folder: Path | None) -> None:
    """Has what is printed appended to the log, but for what goes into a file: a terminal that is gone, and a pipe whose
    reader went with it, refuse every letter, which would end the run before it has saved."""
    target = os.open(os.devnull, os.O_WRONLY)
    if folder is not None:
        with suppress(OSError):
            target = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in (1, 2):
        with suppress(OSError):
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.dup2(target, descriptor)
    print("the terminal was closed (SIGHUP)", file=sys.stderr, flush=True)
