"""The pool's side of one worker process: started without torch, killed without asking."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import site
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from open_r1.rewards.progress import Progress
from open_r1.rewards.spec import RewardSpec

_STDERR = 2

LOWER_PRIORITY = 10
"""By nice(2): a ninth of the share of a core that the caller's own threads have, where they want the same one."""


class WorkerProcess:
    """A running ``open_r1.rewards.worker``, the connection to it, and which call it is in.

    It is a fresh interpreter rather than a fork or a spawn: a fork would copy threads' locks, a spawn would import the
    script that the user started, and torch with it.

    Args:
        gives_way: its priority is lower than the caller's.
    """

    def __init__(self, specs: Sequence[RewardSpec], gives_way: bool = False) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        page = Progress.create()
        self.progress = Progress(page)
        descriptors = [theirs.fileno(), page]
        numbers = [*descriptors, os.getpid(), LOWER_PRIORITY if gives_way else 0]
        command = [sys.executable, "-P", "-m", "open_r1.rewards.worker", *map(str, numbers)]
        # What a reward prints must not end up in the output of the command; a group of its own keeps Ctrl-C away. (In a
        # session of its own a lower priority would be none: Linux shares cores out to sessions, not to processes.)
        # sympy orders terms by hash: with a fixed seed two workers never disagree.
        self._process = subprocess.Popen(
            command,
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=_STDERR,
            process_group=0,
            env={**os.environ, **_search_path(), "PYTHONHASHSEED": "0"},
        )
        theirs.close()
        os.close(page)
        with contextlib.suppress(OSError):  # it is gone already: whoever receives next finds out
            self.send((sys.path, list(specs)))

    @property
    def pid(self) -> int:
        """The id of the process, which is also that of its group."""
        return self._process.pid

    @property
    def memory(self) -> int:
        """Bytes of memory that the process holds, 0 where the system does not say."""
        try:
            resident = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            return 0
        return int(resident) * os.sysconf("SC_PAGE_SIZE")

    def send(self, message: Any) -> None:
        """Sends a message.

        Raises:
            OSError: the process is gone.
        """
        self.connection.send(message)

    def kill(self) -> None:
        """Kills the process and whatever it started, and waits until it is gone; harmless when repeated."""
        if self._process.returncode is None:  # until it is waited for, nobody else gets its id
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        self.connection.close()
        self.progress.close()


def _search_path() -> dict[str, str]:
    """The environment by which a fresh interpreter finds this package where it is not installed."""
    source = str(Path(__file__).parents[2])
    if source in site.getsitepackages():
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), source]))}
