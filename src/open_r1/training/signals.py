"""SIGTERM and Ctrl-C: noted at once, obeyed at the next point where the state can be saved."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

from open_r1.signals import Told, is_echo, is_launched


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

    What a launcher passes on of the first (`open_r1.signals.is_echo`) is the first.

    Attributes:
        number: SIGTERM or SIGINT once one has arrived, here or (as the loop notes it) at another rank, else 0.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.number = 0
        self._first = 0.0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        for number in self.SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if not self._first:  # another rank may have heard one before, and its number be noted here
            self.number, self._first = self.number or number, Told.note()
            if not is_launched():
                self._restore()
        elif not is_echo(number, self._first):
            self._restore()
            signal.raise_signal(number)

    def check(self) -> None:
        """Raises `Interrupted` if a signal has arrived."""
        if self.number:
            raise Interrupted(self.number)
