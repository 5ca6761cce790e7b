"""Ranks that are threads of this process, and really wait for one another."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import torch
from fake_runtime import FakeRuntime
from torch import Tensor

LONG = 20.0
"""Seconds after which a rank that waits alone gives up."""


class ThreadRuntime(FakeRuntime):
    """One of several ranks, which share ``meeting`` and ``table``."""

    def __init__(self, rank: int, world_size: int, meeting: Barrier, table: list[Any]) -> None:
        super().__init__(rank, world_size)
        self._meeting, self._table = meeting, table

    def gather(self, items: list[Any]) -> list[Any]:
        self._table[self.rank] = items
        self._meeting.wait(LONG)
        everything = [item for each in self._table for item in each]
        self._meeting.wait(LONG)
        return everything

    def sum(self, values: Tensor) -> Tensor:
        return torch.stack(self.gather([values])).sum(0)

    def max(self, value: float) -> float:
        return max(self.gather([value]))

    def barrier(self) -> None:
        self.gather([None])


def side_by_side(work: Callable[[ThreadRuntime], Any], world_size: int = 2) -> list[Any]:
    """What ``work`` returns on each rank, or the exception that it raises there."""
    meeting, table = Barrier(world_size), [None] * world_size

    def one(rank: int) -> Any:
        try:
            return work(ThreadRuntime(rank, world_size, meeting, table))
        except Exception as error:
            return error

    with ThreadPoolExecutor(world_size) as threads:
        return list(threads.map(one, range(world_size)))
