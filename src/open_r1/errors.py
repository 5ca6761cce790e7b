"""The exceptions that cross rooms."""

from __future__ import annotations

import signal


class UserError(ValueError):
    """Something the person at the keyboard can mend.

    The message is one line: what is wrong, where, what to do. The command line prints it without a traceback and
    exits with status 2.
    """


class StopRequested(Exception):  # noqa: N818 - a request, not an error
    """SIGTERM or Ctrl-C arrived; state has been saved by whoever raises this.

    Attributes:
        signal_number: the signal; the command line exits with 128 plus this.
    """

    def __init__(self, message: str = "stopped", signal_number: int = signal.SIGTERM) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class StoppedByRule(Exception):  # noqa: N818 - a wish, not an error
    """A rule of ``stop_on`` was met; checkpoint and model have been written by whoever raises this.

    The message is one line: which rule, what was seen, how to go on. The command line exits with status 3.
    """


class Terminated(KeyboardInterrupt):
    """SIGTERM where there is nothing to save first; what is done for Ctrl-C is done for it too."""
