"""Runs of ``open-r1`` in processes that are forked from one that has imported everything, so that each starts at once.

As a program it reads lines of JSON, ``{"words": […], "log": PATH}``, forks a process that runs them as a command line,
writes its id, and once it has ended its status (as `subprocess` counts: -9 after SIGKILL). `ForkServer` speaks to it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from training_runs import SOURCE, flags


class Forked:
    """A process that was forked."""

    def __init__(self, server: subprocess.Popen, log: Path) -> None:
        self._server, self.log = server, log
        self.pid = int(server.stdout.readline())

    def kill(self, number: int) -> None:
        """Sends a signal."""
        os.kill(self.pid, number)

    def over(self) -> bool:
        """Whether it has ended; it is a zombie until the server has been told to look."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    def wait(self) -> int:
        """Waits for its end; the status."""
        self._server.stdin.write("\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


class ForkServer:
    """One process that has imported torch and transformers, and has started no thread; a context manager."""

    def __enter__(self) -> ForkServer:
        environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "300"}
        environment["PYTHONPATH"] = os.pathsep.join([str(SOURCE.parent), str(Path(__file__).parent)])
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def start(self, command: str, output_dir: Path, **settings: Any) -> Forked:
        """Starts ``open-r1 COMMAND --output_dir … --setting value …``; what it says is appended to a .log beside it."""
        log = output_dir.with_suffix(".log")
        words = [command, *flags({"output_dir": output_dir, **settings})]
        self._process.stdin.write(json.dumps({"words": words, "log": str(log)}) + "\n")
        self._process.stdin.flush()
        return Forked(self._process, log)


def serve() -> None:
    """Forks for each line that is read, one at a time."""
    from open_r1 import cli

    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if not pid:
            log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            status = 1
            try:
                status = cli.main(order["words"])
            finally:
                os._exit(status)
        print(pid, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
