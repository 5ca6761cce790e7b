"""Rollouts that a thread draws while the policy trains on those before."""

from __future__ import annotations

from threading import Event

from open_r1.background import Background
from open_r1.training.group_draws import Drawn, GroupDraws
from open_r1.training.signals import Interrupted, StopSignal

LOOK = 0.2
"""Seconds after which one that waits for rollouts under way looks whether it was told to stop."""


class Draft:
    """Rollouts that are drawn while the policy trains on those before.

    Attributes:
        first_step: the step that they are for.
    """

    def __init__(self, draws: GroupDraws, cursor: int, first_step: int) -> None:
        self.first_step = first_step
        self._left = _Left()
        self._work = Background(draws.draw, cursor, first_step, self._left)

    def wait(self, stop: StopSignal) -> None:
        """Waits for them, however they end.

        Raises:
            Interrupted: by ``stop``; they go on.
        """
        while self._work.running:
            stop.check()
            self._work.wait(LOOK)

    def result(self, seconds: float | None = None) -> Drawn | None:
        """Waits for them, at most so long; None where they are not done then, and are given up."""
        self._work.wait(seconds)
        if self._work.running:
            self.close()
            return None
        return self._work.result()

    def close(self) -> None:
        """Gives them up, and waits until the engine is free."""
        self._left.set()
        self._work.wait()


class _Left(Event):
    """Stands for a `StopSignal` in the thread that draws: whoever sets it no longer wants what is drawn."""

    number = 0

    def check(self) -> None:
        if self.is_set():
            raise Interrupted(2)
