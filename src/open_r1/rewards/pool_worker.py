"""What a pool knows of one of its workers."""

from __future__ import annotations

import time
from collections.abc import Sequence

from open_r1.rewards.call import Traits
from open_r1.rewards.job import Job
from open_r1.rewards.process import WorkerProcess
from open_r1.rewards.spec import RewardSpec

START_SECONDS = 300.0
SECONDS_BETWEEN_LOOKS = 0.1
"""How often the memory of a worker is looked at that stays silent."""


class PoolWorker:
    """A process, the job it has in hand, and when to look at it again."""

    def __init__(self, specs: Sequence[RewardSpec], gives_way: bool) -> None:
        self.process = WorkerProcess(specs, gives_way)
        self.ready = False
        self.job: Job | None = None
        self.outcomes_due = self.outcomes_heard = 0
        self.look_at = time.monotonic() + START_SECONDS
        self._watched_since = self._memory = 0.0

    @property
    def busy(self) -> bool:
        """True while it starts or has a job."""
        return self.job is not None or not self.ready

    def take(self, job: Job, traits: Sequence[Traits]) -> None:
        """Sends a job.

        Raises:
            OSError: the process is gone.
        """
        self.job = job
        self.outcomes_due, self.outcomes_heard = len(job.chunks), 0
        self.look_at = time.monotonic() + SECONDS_BETWEEN_LOOKS
        self.process.progress.begin(0)  # its time runs from here
        self.process.send(job.message(traits))

    def call(self) -> tuple[int, float]:
        """Where the call that is running stands among those of the job still to be made, and when it began."""
        number, began = self.process.progress.read()
        return max(number - self.outcomes_heard, 0), began

    def growth(self, began: float) -> float:
        """Bytes by which the process grew since it was first seen in the call that began then."""
        memory = self.process.memory
        if began != self._watched_since:
            self._watched_since, self._memory = began, memory
        return memory - self._memory
