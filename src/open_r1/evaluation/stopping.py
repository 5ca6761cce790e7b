"""SIGTERM and Ctrl-C while answers are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from open_r1.errors import StopRequested
from open_r1.signals import first_signal


@dataclass
class _Stops:
    """Whether a stop has to wait, and the one that waits."""

    deferred: bool = False
    waiting: StopRequested | None = None

    def raise_waiting(self) -> None:
        request, self.waiting = self.waiting, None
        if request is not None:
            raise request


_STOPS = _Stops()


@contextmanager
def resumable(overwrite: str | None = None) -> Iterator[None]:
    """The first SIGTERM or Ctrl-C raises `StopRequested`, on whose way out every answer in hand is kept.

    A second one acts as it would have without this; what a launcher passes on of the first is the first.

    Args:
        overwrite: the flag, if it was given, with which the same command would remove what was drawn.
    """
    command = f"the same command without --{overwrite}" if overwrite else "the same command"

    def stop(number: int) -> None:
        request = StopRequested(f"stopped; what was drawn is kept, {command} goes on from here", number)
        if not _STOPS.deferred:
            raise request
        _STOPS.waiting = request

    try:
        with first_signal(stop):
            yield
    finally:
        _STOPS.deferred, _STOPS.waiting = False, None  # an abandoned generator may not have been closed yet


@contextmanager
def stops_deferred() -> Iterator[None]:
    """Inside, what `resumable` raises waits for `stops_here`, or for the end: nothing is lost between two hands."""
    outer, _STOPS.deferred = _STOPS.deferred, True
    try:
        yield
    finally:
        _STOPS.deferred = outer
    _STOPS.raise_waiting()


@contextmanager
def stops_here() -> Iterator[None]:
    """Within `stops_deferred`: what may take long and may be left at any moment."""
    outer, _STOPS.deferred = _STOPS.deferred, False
    try:
        _STOPS.raise_waiting()
        yield
    finally:
        _STOPS.deferred = outer
