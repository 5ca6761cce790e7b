"""SIGTERM and Ctrl-C: noted at once, obeyed at the next point where the state can be saved."""

from __future__ import annotations

import signal
from types import TracebackType

from open_r1.signals import first_signal


class Interrupted(Exception):  # noqa: N818 (a request, not an error)
    """Raised at a safe point after a signal: no step is half done.

    Attributes:
        signal_number: the signal.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class StopSignal:
    """While entered, the first SIGTERM or SIGINT is noted; a second one acts as it would have without this.

    Attributes:
        number: SIGTERM or SIGINT once one has arrived, here or (as the loop notes it) at another rank, else 0.
    """

    def __init__(self) -> None:
        self.number = 0
        self._listening = first_signal(self._note)

    def __enter__(self) -> StopSignal:
        self._listening.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.__exit__(kind, error, trace)

    def _note(self, number: int) -> None:
        self.number = self.number or number  # another rank may have heard one before, whose number it is then

    def check(self) -> None:
        """Raises `Interrupted` if a signal has arrived."""
        if self.number:
            raise Interrupted(self.number)
