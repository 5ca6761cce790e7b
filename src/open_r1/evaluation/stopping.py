"""SIGTERM and Ctrl-C while answers are drawn."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from open_r1.errors import StopRequested

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def resumable() -> Iterator[None]:
    """The first SIGTERM or Ctrl-C raises `StopRequested`, on whose way out every answer in hand is kept.

    A second one acts as it would have without this.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        restore()
        raise StopRequested("stopped; what was drawn is kept, the same command goes on from here", number)

    previous = {number: signal.signal(number, stop) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    try:
        yield
    finally:
        restore()
