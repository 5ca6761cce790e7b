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
from open_r1.machine.limits import cores_of_rank
from open_r1.rewards.call import Traits
from open_r1.rewards.job import Chunk, Job, Scores
from open_r1.rewards.pool_worker import SECONDS_BETWEEN_LOOKS, PoolWorker
from open_r1.rewards.registry import reward_spec
from open_r1.rewards.spec import RewardSpec

__all__ = ["RewardPool", "Scores"]

MAX_FAILED_STARTS = 3


class RewardPool:
    """Worker processes that score groups of answers, each answer within a hard time limit.

    The processes start at once and import neither torch nor the caller's script. A thread of the pool hands out jobs
    and watches the clock, so rewards are computed and limits are kept however long the caller is busy. A call that
    takes too long or too much memory is ended with its process; the other answers of its group, and the other groups,
    keep their values. Values do not depend on the number of workers or on the order in which they finish.
    """

    def __init__(
        self,
        reward_specs: Sequence[RewardSpec | str],
        *,
        workers: int | None = None,
        timeout: float = 10.0,
        memory_bytes: int | None = 2 * 2**30,
        gives_way: bool = False,
    ) -> None:
        """Starts the worker processes.

        Args:
            reward_specs: the functions, as specs or as names with their published parameters.
            workers: processes; None is one a core (`machine.limits.cores_of_rank`).
            timeout: seconds that one answer may take with one function. A function that is called on N answers at once
                may take N times as long, and is then called on one at a time if its scope allows. A function with an
                attribute ``timeout_seconds`` has that limit instead.
            memory_bytes: by how much one call of a function of this package may make its process grow; None is no
                limit. There is none for a user's own function, which may load a model. Kept on Linux only.
            gives_way: the caller keeps a GPU busy, which waits whenever the caller waits for a core. So the processes
                have a lower priority, and ``workers`` left out leaves one core free.

        Raises:
            UserError: a name is unknown.
        """
        self._specs = [reward_spec(spec) if isinstance(spec, str) else spec for spec in reward_specs]
        self._timeout = timeout
        self._gives_way = gives_way
        self._worker_count = workers or max(1, cores_of_rank() - gives_way)
        self._memory_bytes = memory_bytes
        self._traits: list[Traits] = []
        self._waiting: deque[Job] = deque()
        self._finished: queue.SimpleQueue[tuple[Hashable, Scores] | None] = queue.SimpleQueue()
        self._in_flight = 0
        self._failure: BaseException | None = None
        self._failed_starts = 0
        self._lock = threading.Lock()
        self._wake_up, self._alarm_clock = multiprocessing.Pipe(duplex=False)
        self._asleep = False
        self._closing = False
        self._owner = os.getpid()
        self._workers: list[PoolWorker] = []
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
        if self._asleep:
            self._asleep = False
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
            self._workers.extend(PoolWorker(self._specs, self._gives_way) for _ in range(self._worker_count))
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
        self._asleep = True  # before the queue is looked at: what is handed in from now on rings
        for place, worker in enumerate(self._workers):
            while not worker.busy and self._waiting:
                job = self._waiting.popleft()
                job.plan(self._traits)
                if not job.chunks:
                    self._finish(job)
                    continue
                try:
                    worker.take(job, self._traits)
                except OSError:
                    self._lose(place)

    def _listen(self) -> None:
        looks = [worker.look_at for worker in self._workers if worker.busy]
        seconds = max(0.0, min(looks) - time.monotonic()) if looks else None
        talking = wait([self._wake_up, *(worker.process.connection for worker in self._workers)], seconds)
        self._asleep = False
        while self._wake_up.poll():
            self._wake_up.recv_bytes()
        for place, worker in enumerate(self._workers):
            due = worker.busy and time.monotonic() >= worker.look_at
            # Asked again when due: while the caller held the interpreter, the answer may have come.
            if worker.process.connection in talking or (due and worker.process.connection.poll()):
                self._hear(place)
            elif due:
                self._look(place)

    def _hear(self, place: int) -> None:
        worker = self._workers[place]
        try:
            message = worker.process.connection.recv()
        except (EOFError, OSError):
            self._lose(place)
            return
        if not worker.ready:
            self._start(worker, *message)
            return
        job = worker.job
        for outcome in message:
            function = job.chunks[0].function
            job.finish_chunk(outcome, divisible=self._divisible(function) and not self._own(function))
        worker.outcomes_heard += len(message)
        if worker.outcomes_heard == worker.outcomes_due:
            worker.job = None
            self._return(job)

    def _start(self, worker: PoolWorker, state: str, detail: Any) -> None:
        if state == "broken":
            raise UserError(detail)
        self._traits = detail
        self._failed_starts = 0
        worker.ready = True

    def _look(self, place: int) -> None:
        """Ends a worker whose call has used up its time or memory; else says when to look again."""
        worker = self._workers[place]
        if not worker.ready:
            self._lose(place)
            return
        call, began = worker.call()
        chunk = worker.job.chunks[call]
        limit, now = self._limit(chunk), time.monotonic()
        watched = self._memory_bytes is not None and self._own(chunk.function)
        if now >= began + limit:
            self._lose(place, f"took longer than {limit:g} s")
        elif watched and worker.growth(began) > self._memory_bytes:
            self._lose(place, f"took more than {self._memory_bytes / 2**30:.2g} GiB of memory")
        else:
            worker.look_at = min(began + limit, now + SECONDS_BETWEEN_LOOKS)

    def _lose(self, place: int, verdict: str | None = None) -> None:
        """Replaces a worker that has to die (why: ``verdict``) or is dead, and goes on with its job."""
        worker = self._workers[place]
        call = worker.call()[0]
        worker.process.kill()
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise UserError(
                    f"{self._failed_starts} reward workers in a row ended before they were ready "
                    f"({', '.join(spec.name for spec in self._specs)}): what they printed says why"
                )
        self._workers[place] = PoolWorker(self._specs, self._gives_way)
        if worker.job is not None:
            function = worker.job.chunks[call].function
            reason = f"{self._specs[function].name} {verdict or 'took its process down'}"
            expired, divisible = verdict is not None, self._divisible(function)
            worker.job.lose_chunk(call, reason, expired=expired, divisible=divisible)
            self._return(worker.job)

    def _return(self, job: Job) -> None:
        """Takes back a job from a worker that has no more to say about it."""
        if job.chunks:
            self._waiting.appendleft(job)
        else:
            self._finish(job)

    def _divisible(self, function: int) -> bool:
        return self._traits[function].scope != "group"

    def _own(self, function: int) -> bool:
        """True for a function of this package: it needs little memory, and fails on one answer alone."""
        return self._specs[function].target.startswith("open_r1.")

    def _limit(self, chunk: Chunk) -> float:
        seconds = self._traits[chunk.function].timeout_seconds
        return (self._timeout if seconds is None else seconds) * len(chunk.answers)

    def _finish(self, job: Job) -> None:
        self._finished.put((job.key, job.scores))
