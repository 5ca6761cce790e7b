"""Requests of several trainer processes, decoded as one batch: an engine draws for one caller at a time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from open_r1.errors import UserError
from open_r1.generation.engine import Completion, Engine, Request, SamplingParams

GATHER_SECONDS = 0.5
"""How long the first of several processes waits for the others: they have just ended the same training step."""

_END_SECONDS = 2.0

CAPACITY = 65_536
"""Completions in hand and waiting; a trainer that wants more is told to come back."""


Result = TypeVar("Result")


class AtCapacity(Exception):  # noqa: N818 - an answer, not a defect
    """There is too much in hand; the same request may succeed later."""


@dataclass
class Job:
    """The requests of one caller, and the way back to it: completions, or what went wrong."""

    requests: list[Request]
    params: SamplingParams
    parties: int
    check: Callable[[], None]
    came: float = field(default_factory=time.monotonic)
    results: queue.SimpleQueue[Completion | BaseException] = field(default_factory=queue.SimpleQueue)
    abandoned: bool = False


class Batches:
    """Draws for many callers with one engine, in a thread of its own.

    What waits together and is drawn alike becomes one batch; what comes while a batch is drawn waits for its end. The
    engine is used by this one thread alone.
    """

    def __init__(self, engine: Engine, gather_seconds: float = GATHER_SECONDS) -> None:
        self._engine, self._gather_seconds = engine, gather_seconds
        self._changed = threading.Condition()
        self._jobs: list[Job] = []
        self._in_hand = 0
        self._tasks: list[_Task] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="batches")
        self._thread.start()

    def submit(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        parties: int = 1,
        check: Callable[[], None] = lambda: None,
    ) -> Job:
        """Puts requests in line.

        Args:
            parties: jobs that come at about the same time, and are waited for.
            check: called when it is their turn; what it raises is the answer.

        Raises:
            AtCapacity: there are `CAPACITY` completions in hand already.
        """
        job = Job(list(requests), params, parties, check)
        with self._changed:
            if self._in_hand and self._in_hand + len(requests) > CAPACITY:
                raise AtCapacity(f"{self._in_hand:,} completions are in hand")
            self._in_hand += len(requests)
            self._jobs.append(job)
            self._changed.notify_all()
        return job

    def completions(self, job: Job, silence: float) -> Iterator[Completion | None]:
        """Those of a job as they finish, and None after each ``silence`` seconds without one.

        Raises:
            UserError: as the engine's ``generate``.
        """
        missing = len(job.requests)
        try:
            while missing:
                try:
                    result = job.results.get(timeout=silence)
                except queue.Empty:
                    yield None
                    continue
                if isinstance(result, BaseException):
                    raise result
                missing -= 1
                yield result
        finally:
            job.abandoned = True

    def between(self, function: Callable[[], Result], seconds: float) -> Result:
        """Runs ``function`` in the engine's thread, after the batch in hand and before the next one.

        Raises:
            UserError: the batch in hand did not end in time; and whatever ``function`` raises.
        """
        task = _Task(function)
        with self._changed:
            self._tasks.append(task)
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: task.begun or self._closed, seconds):
                self._tasks.remove(task)
                raise UserError(
                    f"answers were still being drawn {seconds:g} s after new weights were announced: is another "
                    "trainer using this server?"
                )
        return task.result()

    def close(self) -> None:
        """Ends the thread after the completion in hand; the engine stays."""
        with self._changed:
            self._closed = True
            for job in self._jobs:
                job.results.put(_ending())
            for task in self._tasks:
                task.fail(_ending())
            self._changed.notify_all()
        self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        while (work := self._next()) is not None:
            if isinstance(work, _Task):
                work.run()
                continue
            try:
                self._draw(work)
            except BaseException as error:
                for job in work:
                    job.results.put(error)
            with self._changed:
                self._in_hand -= sum(len(job.requests) for job in work)

    def _next(self) -> _Task | list[Job] | None:
        """What is done next: a task, or the jobs of a batch; None at the end."""
        with self._changed:
            while not self._closed:
                if self._tasks:
                    task = self._tasks.pop(0)
                    task.begun = True
                    self._changed.notify_all()
                    return task
                if not self._jobs:
                    self._changed.wait()
                    continue
                alike = [job for job in self._jobs if job.params == self._jobs[0].params]
                left = alike[0].came + self._gather_seconds - time.monotonic()
                if len(alike) >= alike[0].parties or left <= 0:
                    self._jobs = [job for job in self._jobs if job.params != alike[0].params]
                    return alike
                self._changed.wait(left)
        return None

    def _draw(self, jobs: list[Job]) -> None:
        owners = [(job, request) for job in jobs if _may(job) for request in job.requests]
        requests = [replace(request, id=number) for number, (_, request) in enumerate(owners)]
        with closing(self._engine.generate(requests, jobs[0].params)) as completions:
            for completion in completions:
                job, request = owners[completion.request_id]
                job.results.put(replace(completion, request_id=request.id))
                if self._closed or all(job.abandoned for job in jobs):
                    raise _ending()


def _may(job: Job) -> bool:
    try:
        job.check()
    except Exception as error:
        job.results.put(error)
        return False
    return True


class _Task:
    """A function that another thread waits for."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function, self._outcome = function, Future()
        self.begun = False

    def run(self) -> None:
        try:
            self._outcome.set_result(self._function())
        except BaseException as error:
            self._outcome.set_exception(error)

    def fail(self, error: BaseException) -> None:
        self.begun = True
        self._outcome.set_exception(error)

    def result(self) -> Any:
        return self._outcome.result()


def _ending() -> UserError:
    return UserError("the server is ending")
