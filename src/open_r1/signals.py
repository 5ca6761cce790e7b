"""What ends a command from outside: SIGTERM, SIGHUP, and the same signal once more from whoever passes signals on; and
what must not end it: nobody reads any more what it prints.
"""

from __future__ import annotations

import errno
import io
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
from typing import ClassVar, TextIO

from open_r1.errors import Terminated

STAGE = "OPEN_R1_STAGE"
"""In the environment of a process that `open-r1 run` has started."""

LOG = "after-hangup.log"
"""In a run's folder: what it said once nobody could read it."""

_TORCHRUN = "TORCHELASTIC_RUN_ID"
ECHO = 5.0
"""Seconds in which a launcher passes on a signal that its processes, all of one group, may have had already."""


class Told:
    """Whether this command has been told to stop.

    Attributes:
        at: when (``time.monotonic``) it heard the first signal that it obeys; 0 before.
    """

    at: ClassVar[float] = 0.0

    @classmethod
    def note(cls) -> float:
        """A signal is obeyed now; returns the time."""
        now = time.monotonic()
        cls.at = cls.at or now
        return now


def is_echo(number: int, first: float) -> bool:
    """Whether a signal that comes now is one that was heard at ``first`` (``time.monotonic``), passed on.

    Ctrl-C, a closed terminal and batch systems tell every process of a group, and a launcher then tells its own again:
    `open-r1 run` by SIGTERM, whatever it has heard.
    """
    passed_on = _TORCHRUN in os.environ or (STAGE in os.environ and number == signal.SIGTERM)
    return passed_on and time.monotonic() - first <= ECHO


@contextmanager
def first_signal(act: Callable[[int], None]) -> Iterator[None]:
    """Inside, ``act`` is called with the first SIGTERM or SIGINT. A second one acts as it would have without this; what
    a launcher passes on of the first (`is_echo`) is the first.
    """
    first = 0.0

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def heard(number: int, _frame: FrameType | None) -> None:
        nonlocal first
        if not first:
            first = Told.note()
            if not (_TORCHRUN in os.environ or STAGE in os.environ):  # nobody passes it on
                restore()
            act(number)
        elif not is_echo(number, first):
            restore()
            signal.raise_signal(number)

    previous = {number: signal.signal(number, heard) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        restore()


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Inside, SIGTERM raises `Terminated` in the main thread: files are closed and processes ended on the way out.

    Where somebody else has taken the signal already, or outside the main thread, nothing changes. What a launcher
    passes on of the first (`is_echo`) is not raised again: it would hit what is done on the way out.
    """

    def end(number: int) -> None:
        if Told.at and is_echo(number, Told.at):
            return
        Told.note()
        raise Terminated

    with _taken(signal.SIGTERM, end):
        yield


@contextmanager
def hangup_terminates(folder: Callable[[], Path | None]) -> Iterator[None]:
    """Inside, SIGHUP (the terminal, or the connection that it came over, is gone) acts as SIGTERM does, which saves;
    what would be written to the terminal, or into a pipe that hung on it, goes to `LOG`. After another signal it is no
    second one: who pressed Ctrl-C closes the window while the state is saved, and a shell and the kernel both tell.

    Under ``nohup``, which has the signal ignored, it stays so. Where somebody else has taken the signal already, or
    outside the main thread, nothing changes.

    Args:
        folder: of the run, once it is known; without one, what is written is lost.
    """

    def end(_number: int) -> None:
        _redirect_output((1, 2), folder(), "the terminal was closed (SIGHUP)")
        if not Told.at:
            signal.raise_signal(signal.SIGTERM)

    Told.at = 0.0

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


def make_output_last(folder: Callable[[], Path | None]) -> None:
    """From now on nothing that a run prints raises: what a terminal that is gone, or a pipe whose reader has ended
    (``| head``, or ``| tee`` after Ctrl-C), does not take goes to `LOG`; what a full disk does not take is lost.

    Where standard output or error has been replaced, it stays as it is.

    Args:
        folder: of the run, once it is known; without one, what is written is lost.
    """
    sys.stdout, sys.stderr = _lasting(sys.stdout, 1, folder), _lasting(sys.stderr, 2, folder)


def _lasting(stream: TextIO, descriptor: int, folder: Callable[[], Path | None]) -> TextIO:
    with suppress(OSError, ValueError):
        if isinstance(stream, io.TextIOWrapper) and stream.fileno() == descriptor:
            stream.flush()
            raw = _Output(descriptor, folder)
            return io.TextIOWrapper(
                raw if stream.write_through else io.BufferedWriter(raw),
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
    return stream


class _Output(io.FileIO):
    """Standard output or error, of which no letter is refused."""

    def __init__(self, descriptor: int, folder: Callable[[], Path | None]) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._folder = folder

    def write(self, data: bytes | memoryview) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            folder = self._folder()
            if error.errno in (errno.EPIPE, errno.EIO):
                _redirect_output((self.fileno(),), folder, f"nobody reads this any more ({error.strerror})")
            elif folder is None:  # no run, but what somebody asked for
                raise
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _redirect_output(descriptors: tuple[int, ...], folder: Path | None, why: str) -> None:
    """Has what is printed appended to the log, but for what goes into a file: a terminal that is gone, and a pipe whose
    reader went with it, refuse every letter, which would end the run before it has saved.

    It is called where a signal may have come in the midst of printing: it uses no stream of Python's.
    """
    target = os.open(os.devnull, os.O_WRONLY)
    if folder is not None:
        with suppress(OSError):
            target = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in descriptors:
        with suppress(OSError):
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.dup2(target, descriptor)
    os.close(target)
    with suppress(OSError):
        os.write(descriptors[-1], f"{why}\n".encode())
