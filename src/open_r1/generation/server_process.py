"""A server that this process starts, watches, and takes along when it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from open_r1.errors import UserError
from open_r1.parallel.launch_environment import without_launch

_TAIL_BYTES, _TAIL_LINES, _TAIL_CHARACTERS = 1 << 14, 6, 900
_END_SECONDS = 20.0
_ERROR = "error: "


class ServerProcess:
    """A command that serves; its output goes to ``log``, and its input is a pipe that ends with this process.

    Args:
        devices: CUDA_VISIBLE_DEVICES of the server; None leaves it as it is here.
    """

    def __init__(self, command: Sequence[str], *, log: Path, devices: str | None = None) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = without_launch(os.environ) | {"PYTHONUNBUFFERED": "1"}
        if devices is not None:
            environment["CUDA_VISIBLE_DEVICES"] = devices
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,  # Ctrl-C ends it through this process, in order
                )
        except OSError as error:
            raise UserError(f"the server could not be started ({command[0]}: {error.strerror})") from error

    @property
    def pid(self) -> int:
        """Of the server."""
        return self._process.pid

    def check(self) -> None:
        """Raises UserError, with the server's last words, if it has ended."""
        status = self._process.poll()
        if status is not None:
            raise UserError(f"the server ended with status {status} before it was up{self.last_words()}")

    def last_words(self) -> str:
        """Its error, or else the last lines of its output, for the end of a sentence; "" where it has said nothing."""
        with self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
        lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(_ERROR)]  # after which comes advice for one at a terminal
        said = " | ".join(errors[-1:] or lines[-_TAIL_LINES:])[-_TAIL_CHARACTERS:]
        return f"; its last lines: {said} (log: {self._log})" if said else f" (its log, {self._log}, is empty)"

    def close(self) -> None:
        """Ends the server; harmless when repeated."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process.stdin.close()


def serve_command(settings: Mapping[str, object]) -> list[str]:
    """The command line of ``open-r1 serve-vllm`` with ``settings`` (`open_r1.config.serve`); None leaves one out."""
    command = [sys.executable, "-m", "open_r1", "serve-vllm", "--end_with_stdin", "true"]
    for name, value in settings.items():
        if value is not None:
            command += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
    return command


def nth_devices(numbers: str, visible: str | None) -> str:
    """CUDA_VISIBLE_DEVICES for the GPUs ``numbers`` ("1", "2,3"), as this process counts them.

    Args:
        visible: CUDA_VISIBLE_DEVICES of this process; None or "" is all GPUs.

    Raises:
        UserError: one of them is not visible here, or is no number.
    """
    names = visible.split(",") if visible else None
    chosen = []
    for number in numbers.split(","):
        if not number.strip().isdigit():
            raise UserError(f"vllm_server_devices {numbers!r}: give numbers of GPUs, such as 1 or 2,3")
        if names is not None and int(number) >= len(names):
            raise UserError(
                f"vllm_server_devices {numbers}: there is no GPU {number.strip()} among CUDA_VISIBLE_DEVICES {visible}"
            )
        chosen.append(names[int(number)] if names else number.strip())
    return ",".join(chosen)
