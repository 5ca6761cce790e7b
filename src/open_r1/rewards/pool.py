"""Rewards computed in processes that can be killed, while the caller goes on generating."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from typing import Any

from open_r1.errors import UserError
from open_r1.rewards.job import Job, Scores
from open_r1.rewards.process import WorkerProcess
from open_r1.rewards.registry import reward_spec
from open_r1.rewards.spec import RewardSpec, Scope

__all__ = ["RewardPool", "Scores"]

START_SECONDS = 300.0
MAX_FAILED_STARTS = 3


class _Worker:
    """A process, the job it has in hand, and until when the call that it is making may take."""

    def __init__(self, specs: Sequence[RewardSpec]) -> None:
        self.process = WorkerProcess(specs)
        self.ready = False
        self.job: Job | None = None
        self.deadline = time.monotonic() + START_SECONDS

    def allow(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds

    @property
    def busy(self) -> bool:
        return self.job is not None or not self.ready


class RewardPool:
    """Worker processes that score groups of answers, each answer within a hard time limit.

    The processes start at once and import neither torch nor the caller's script. A thread of the pool hands out jobs
    and watches the clock, so rewards are computed and limits are kept however long the caller is busy. A call that
    takes too long is ended with its process; the other answers of its group, and the other groups, keep their values.
    Values do not depend on the number of workers or on the order in which they finish.
    """

    def __init__(
        self, reward_specs: Sequence[RewardSpec | str], *, workers: int | None = None, timeout: float = 10.0
    ) -> None:
        """Starts the worker processes.

        Args:
            reward_specs: the functions, as specs or as names with their published parameters.
            workers: processes; None is one a core that this process may use.
            timeout: seconds that one answer may take with one function. A function that is called on N answers at once
                may take N times as long, and is then called on one at a time if its scope allows.

        Raises:
            UserError: a name is unknown.
        """
        self._specs = [reward_spec(spec) if isinstance(spec, str) else spec for spec in reward_specs]
        self._timeout = timeout
        self._worker_count = workers or _usable_cores()
        self._scopes: list[Scope] = []
        self._waiting: deque[Job] = deque()
        self._finished: queue.SimpleQueue[tuple[Hashable, Scores] | None] = queue.SimpleQueue()
        self._in_flight = 0
        self._failure: BaseException | None = None
        self._failed_starts = 0
        self._lock = threading.Lock()
        self._wake_up, self._alarm_clock = multiprocessing.Pipe(duplex=False)
        self._closing = False
        self._owner = os.getpid()
        self._workers: list[_Worker] = []
        self._thread = threading.Thread(target=self._run, name="reward-pool", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def submit(self, key: Hashable, completions: Sequence[Any], columns: Mapping[str, Sequence[Any]]) -> None:
        """Hands in the answers to one prompt; returns at once.

        Args:
            key: comes back with the scores.
            completions: chat messages or strings, [N].
            columns: everything else that the functions may name (``solution``, ``completion_ids``, …), each [N].

        Raises:
            ValueError: a column is not of length N.
            UserError: the functions could not be set up in the workers.
        """
        for name, values in columns.items():
            if len(values) != len(completions):
                raise ValueError(f"column {name!r} has {len(values)} values for {len(completions)} completions")
        self._raise_failure()
        with self._lock:
            self._in_flight += 1
        self._waiting.append(Job(key, completions, columns, len(self._specs)))
        self._alarm_clock.send_bytes(b"!")

    def results(self, block: bool = False) -> Iterator[tuple[Hashable, Scores]]:
        """Yields (key, scores) of what is finished, in the order in which it was finished.

        Args:
            block: waits for at least one, if any was submitted and not yet yielded.

        Raises:
            UserError: the functions could not be set up in the workers.
        """
        while self._in_flight:
            self._raise_failure()
            try:
                finished = self._finished.get(block=block)
            except queue.Empty:
                return
            if finished is None:
                continue
            block = False
            with self._lock:
                self._in_flight -= 1
            yield finished

    def close(self) -> None:
        """Kills the workers and forgets what was not yet yielded; harmless when repeated."""
        if self._closing or os.getpid() != self._owner:  # a forked child must not end its parent's workers
            return
        self._closing = True
        atexit.unregister(self.close)
        self._alarm_clock.send_bytes(b"!")
        self._thread.join()
        self._finished.put(None)

    def __enter__(self) -> RewardPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _raise_failure(self) -> None:
        if self._closing:
            raise RuntimeError("the reward pool is closed")
        if self._failure is not None:
            raise self._failure

    # What follows runs in the thread of the pool.

    def _run(self) -> None:
        try:
            self._workers.extend(_Worker(self._specs) for _ in range(self._worker_count))
            while not self._closing:
                self._hand_out()
                self._listen()
        except BaseException as error:
            self._failure = error
            self._finished.put(None)  # wakes whoever waits for results, to raise it there
        finally:
            for worker in self._workers:
                worker.process.kill()

    def _hand_out(self) -> None:
        for place, worker in enumerate(self._workers):
            if worker.busy or not self._waiting:
                continue
            job = self._waiting.popleft()
            job.plan(self._scopes)
            if not job.chunks:
                self._finish(job)
                continue
            chunks = [(chunk.function, chunk.answers) for chunk in job.chunks]
            worker.job = job
            worker.allow(self._limit(job))
            try:
                worker.process.send((job.completions, job.columns, chunks))
            except OSError:
                self._lose(place, expired=False)

    def _listen(self) -> None:
        deadlines = [worker.deadline for worker in self._workers if worker.busy]
        seconds = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        talking = wait([self._wake_up, *(worker.process.connection for worker in self._workers)], seconds)
        while self._wake_up.poll():
            self._wake_up.recv_bytes()
        for place, worker in enumerate(self._workers):
            overdue = worker.busy and time.monotonic() >= worker.deadline
            # Asked again when overdue: while the caller held the interpreter, the answer may have come.
            if worker.process.connection in talking or (overdue and worker.process.connection.poll()):
                self._hear(place)
            elif overdue:
                self._lose(place, expired=True)

    def _hear(self, place: int) -> None:
        worker = self._workers[place]
        try:
            message = worker.process.connection.recv()
        except (EOFError, OSError):
            self._lose(place, expired=False)
            return
        if not worker.ready:
            self._start(worker, *message)
            return
        job = worker.job
        job.finish_chunk(message)
        if job.chunks:
            worker.allow(self._limit(job))
        else:
            worker.job = None
            self._finish(job)

    def _start(self, worker: _Worker, state: str, detail: Any) -> None:
        if state == "broken":
            raise UserError(detail)
        self._scopes = detail
        self._failed_starts = 0
        worker.ready = True

    def _lose(self, place: int, *, expired: bool) -> None:
        """Replaces a worker that is dead or has to die, and puts its job back at the front of the queue."""
        worker = self._workers[place]
        worker.process.kill()
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise UserError(
                    f"{self._failed_starts} reward workers in a row ended before they were ready "
                    f"({', '.join(spec.name for spec in self._specs)}): what they printed says why"
                )
        if worker.job is not None:
            self._lose_chunk(worker.job, expired=expired)
        self._workers[place] = _Worker(self._specs)

    def _lose_chunk(self, job: Job, *, expired: bool) -> None:
        chunk = job.chunks[0]
        name = self._specs[chunk.function].name
        limit = f"{self._timeout * len(chunk.answers):g} s"
        reason = f"{name} took longer than {limit}" if expired else f"{name} took its process down"
        job.lose_chunk(reason, expired=expired, divisible=self._scopes[chunk.function] != "group")
        if job.chunks:
            self._waiting.appendleft(job)
        else:
            self._finish(job)

    def _limit(self, job: Job) -> float:
        return self._timeout * len(job.chunks[0].answers)

    def _finish(self, job: Job) -> None:
        self._finished.put((job.key, job.scores))


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
