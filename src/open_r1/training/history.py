"""What a run has measured so far, as alarms look back on it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import fmean

OF_TARGETS = ("entropy", "mismatch", "mismatch_kl", "kl_reference", "kl_behaviour")
"""Means over trained tokens, which say nothing of a step that trained none."""


class History:
    """The first and the last values of every metric of a run.

    Args:
        window: how many of each are kept to compare; the last ``2 * window``.
        group_size: answers to one prompt.
    """

    def __init__(self, window: int, group_size: int = 1) -> None:
        self.window, self.group_size = window, group_size
        self._first: dict[str, list[float]] = {}
        self._last: dict[str, deque[float]] = {}
        self._lowest: dict[str, float] = {}
        self._best: dict[str, float] = {}
        self._count: dict[str, int] = {}

    def add(self, metrics: Mapping[str, float | None]) -> None:
        """Takes in one step; what is not finite is passed over."""
        nothing_trained = metrics.get("tokens") == 0
        for name, value in metrics.items():
            if value is None or not math.isfinite(value) or (nothing_trained and name in OF_TARGETS):
                continue
            first = self._first.setdefault(name, [])
            if len(first) < self.window:
                first.append(value)
            self._last.setdefault(name, deque(maxlen=2 * self.window)).append(value)
            self._lowest[name] = min(value, self._lowest.get(name, value))
            self._count[name] = self._count.get(name, 0) + 1
            if recent := self.last(name):
                self._best[name] = max(fmean(recent), self._best.get(name, -math.inf))

    def names(self) -> list[str]:
        """The metrics that there are."""
        return list(self._last)

    def count(self, name: str) -> int:
        """Values of a metric so far."""
        return self._count.get(name, 0)

    def lowest(self, name: str) -> float:
        """The least value of a metric so far."""
        return self._lowest[name]

    def best(self, name: str) -> float:
        """The highest mean of a metric over ``window`` values in a row so far."""
        return self._best[name]

    def first(self, name: str) -> list[float]:
        """The first ``window`` values of a metric; none before it has as many again, which they are compared with."""
        return self._first[name] if self.count(name) >= 2 * self.window else []

    def last(self, name: str, count: int | None = None) -> list[float]:
        """The last ``count`` (``window``) values of a metric; none while there are fewer."""
        count = count or self.window
        values = self._last.get(name, ())
        return list(values)[-count:] if len(values) >= count else []

    def before(self, name: str) -> list[float]:
        """The ``window`` values before the last ``window``; none while there are fewer."""
        return self.last(name, 2 * self.window)[: self.window]
