"""What a process and its children use while they run, and what everybody else does meanwhile."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from threading import Event, Thread
from typing import Self

import psutil

INTERVAL_S = 1.0
QUIET = 0.1
"""Share of the cores that others may use for the machine to count as quiet."""


class Watch:
    """Samples a process and its children until it is left.

    Attributes:
        peak: the most memory that they had together, bytes of PSS.
        others: share of all cores that other programs used, 0 to 1.
    """

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._end = Event()
        self._seconds: dict[int, float] = {}
        self._thread = Thread(target=self._sample, daemon=True)
        self.peak, self.others = 0, 0.0

    def __enter__(self) -> Self:
        self._busy, self._began = busy_seconds(), time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        available = (time.monotonic() - self._began) * psutil.cpu_count()
        ours = sum(self._seconds.values())
        self.others = max(0.0, busy_seconds() - self._busy - ours) / available

    def _sample(self) -> None:
        while not self._end.wait(INTERVAL_S):
            together = 0
            try:
                family = [self._process, *self._process.children(recursive=True)]
            except psutil.Error:
                return
            for process in family:
                try:
                    together += proportional_bytes(process.pid)
                    times = process.cpu_times()
                    self._seconds[process.pid] = times.user + times.system
                except (psutil.Error, OSError):  # it has just ended
                    continue
            self.peak = max(self.peak, together)


def proportional_bytes(pid: int) -> int:
    """What a process has to itself, and its share of what it shares, as the kernel sums it up."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def busy_seconds() -> float:
    """Seconds that the cores together have worked since the machine started."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system


def quiet_enough(patience: int) -> float:
    """Waits up to ``patience`` seconds for others to use little; returns the share of the cores that they use."""
    deadline, told = time.monotonic() + patience, False
    while True:
        busy, began = busy_seconds(), time.monotonic()
        time.sleep(2)
        share = (busy_seconds() - busy) / (time.monotonic() - began) / psutil.cpu_count()
        if share <= QUIET or time.monotonic() >= deadline:
            return share
        if not told:
            print(f"waiting: others use {share:.0%} of the cores", file=sys.stderr, flush=True)
        told = True
