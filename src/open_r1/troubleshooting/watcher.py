"""A small process beside a run that says by which signal the run died: the run itself no longer can."""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, NoReturn

from open_r1.troubleshooting import watch_program
from open_r1.troubleshooting.failure import Situation
from open_r1.troubleshooting.words import words_of

SWITCH = "OPEN_R1_WATCHER"
"""``0`` in the environment switches it off."""

_PATIENCE = 0.5
"""Seconds that the end of a run waits for the end of its watcher."""


class Watcher:
    """Holds the pipe whose end tells the other process that this one has ended.

    The stacks that Python writes at a fatal signal (`faulthandler`) go into the pipe, unless the person has them
    written somewhere already. Processes that this one forks let go of both.
    """

    current: ClassVar[Watcher | None] = None

    def __init__(self, situation: Situation) -> None:
        rank = situation.rank
        theirs = faulthandler.is_enabled()
        handle = _handle()
        facts = [os.getpid(), handle or "", int(theirs), rank.number, rank.of, rank.launch, rank.started]
        texts = [situation.folder.absolute() if situation.folder else "", words_of(situation.argv)]
        read, self._pipe = os.pipe()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, watch_program.UNHEARD)  # inherited: from its start on
        try:
            # A session of its own: neither Ctrl-C nor a signal to the run's group reaches it.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", watch_program.__file__, *map(str, [*facts, *texts, *sys.path])],
                stdin=read,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                pass_fds=[handle] if handle else [],
            )
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(read)
            if handle:
                os.close(handle)
        self._own_stacks = not theirs
        if self._own_stacks:
            faulthandler.enable(self._pipe)
        self._held = True
        os.register_at_fork(after_in_child=self._let_go)
        Watcher.current = self

    def ended(self) -> None:
        """The run has come to its own end: the watcher has nothing to say, and ends first."""
        if not self._held:
            return
        with suppress(OSError):  # it was killed
            os.write(self._pipe, watch_program.ENDED)
        self._let_go()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _let_go(self) -> None:
        if self._held:
            self._held = False
            Watcher.current = None
            if self._own_stacks:
                faulthandler.disable()
            os.close(self._pipe)


def _handle() -> int | None:
    """A descriptor of this process, which is ready once it has ended; None where the kernel has none."""
    try:
        return os.pidfd_open(os.getpid())
    except (AttributeError, OSError):
        return None


def end_at_once(status: int) -> NoReturn:
    """Ends this process without taking the interpreter down, and without being taken for one that died."""
    sys.stdout.flush()
    sys.stderr.flush()
    if Watcher.current:
        Watcher.current.ended()
    os._exit(status)


def watch(situation: Situation) -> Watcher | None:
    """Starts the watcher of this process; None where it is switched off, or cannot be started."""
    if os.environ.get(SWITCH) == "0" or os.name != "posix":
        return None
    try:
        return Watcher(situation)
    except OSError:  # no more processes, no more files: the run matters more
        return None


def folder_of(config: object) -> Path | None:
    """The folder that a command writes into, by its settings."""
    folder, file = getattr(config, "output_dir", None), getattr(config, "output", None)
    if folder:
        return Path(folder)
    return Path(file).parent if isinstance(file, str) and file else None
