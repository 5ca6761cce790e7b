"""Many requests at a server at once, their replies as they come: an event loop in a thread behind a plain iterator."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from typing import Any

from open_r1.errors import UserError
from open_r1.generation.openai_client import ChatClient, Failure, Reply, Server, refused_key

UNREAD = 1024
"""Replies that wait for a slow consumer before no further request is sent."""

GIVE_UP = 32
"""Requests in a row that fail for good after which the server is taken for dead: a live one that drops half of its
connections never gets there."""

GIVE_UP_REFUSED = 1024
"""Refused requests in a row after which no more are sent. A live server refuses prompts that are too long, of which a
sorted data set has many side by side; where a setting is refused, so is everything, and quickly."""

POOL = 64
"""Connections that one client holds: its pool looks at all of them for every request."""

_JOIN_SECONDS = 10.0
_KEPT = "what was drawn is kept, and the same command draws the rest"


class RequestsFailed(UserError):  # noqa: N818 - a count, and no defect
    """Some requests failed for good and all others were answered.

    Attributes:
        failed, total: how many, of how many.
        retries: how often each was sent again.
        last: why the last one failed.
        refused: why, of those that the server refuses and would refuse again, by their places in what was asked.
    """

    def __init__(
        self, failed: int, total: int, retries: int, last: str, refused: Mapping[int, str] | None = None
    ) -> None:
        self.failed, self.total, self.retries, self.last, self.refused = failed, total, retries, last, refused or {}
        times = "retry" if retries == 1 else "retries"
        line = f"{failed:,} of {total:,} requests failed after {retries} {times} (last: {last}); {_KEPT}"
        if len(self.refused) == failed:
            line = (
                f"the server refuses {failed:,} of {total:,} requests (last: {last}), and would again: change what is "
                "asked; what was drawn is kept"
            )
        super().__init__(line)

    @classmethod
    def together(cls, parts: Sequence[RequestsFailed]) -> RequestsFailed:
        """The failures of several rounds as one, in which places have no meaning any more."""
        last = parts[-1]
        failed, total = sum(part.failed for part in parts), sum(part.total for part in parts)
        refused = dict(enumerate(reason for part in parts for reason in part.refused.values()))
        return cls(failed, total, last.retries, last.last, refused)


def replies(server: Server, bodies: Iterable[Mapping[str, Any]], total: int) -> Iterator[tuple[int, Reply]]:
    """Yields (place in ``bodies``, reply) as they come, up to ``server.concurrency`` requests in flight.

    Each of the ``total`` bodies is taken when it is sent, in the thread of the event loop.

    Leaving the iterator early, or an exception in its consumer's thread, cancels what is in flight.

    Raises:
        RequestsFailed: at the end, if a request got no reply.
        UserError: the server refuses the key, does not know the model, or answers nothing any more.
    """
    exchange = _Exchange(server, bodies, total)
    exchange.start()
    failures: dict[int, Failure] = {}
    try:
        while (result := exchange.next()) is not None:
            place, reply = result
            if isinstance(reply, Failure):
                failures[place] = reply
            else:
                yield place, reply
    finally:
        exchange.stop()
    if failures:
        refused = {place: failure.reason for place, failure in failures.items() if failure.refused}
        raise RequestsFailed(len(failures), total, server.retries, list(failures.values())[-1].reason, refused)


def listed_models(server: Server) -> dict[str, int | None]:
    """The models that the server lists, each with its context where it says.

    Raises:
        UserError: no server answers, or it refuses the key.
    """

    async def ask() -> dict[str, int | None]:
        async with ChatClient(server) as client:
            return await client.models()

    with ThreadPoolExecutor(1) as pool:  # signals stay out of the event loop, which might swallow what they raise
        return pool.submit(lambda: asyncio.run(ask())).result()


class _Exchange(threading.Thread):
    """The thread that sends. Signals reach the main thread alone, which waits in `next` and can always be woken."""

    def __init__(self, server: Server, bodies: Iterable[Mapping[str, Any]], total: int) -> None:
        super().__init__(name="openai-requests", daemon=True)
        self._server, self._bodies, self._total = server, bodies, total
        self._results: queue.SimpleQueue[tuple[int, Reply | Failure] | BaseException | None] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._main: asyncio.Task[None] | None = None
        self._unread = asyncio.Semaphore(UNREAD + server.concurrency)
        self._in_a_row = Counter[str]()
        self._stopped = False

    def next(self) -> tuple[int, Reply | Failure] | None:
        """The next result; None after the last. Raises what the thread raised."""
        result = self._results.get()
        if isinstance(result, BaseException):
            raise result
        if result is not None:
            self._tell(self._unread.release)
        return result

    def stop(self) -> None:
        """Cancels what is in flight; returns once the thread is gone, or nearly."""
        self._stopped = True
        if self._main is not None:
            self._tell(self._main.cancel)
        self.join(_JOIN_SECONDS)

    def _tell(self, call: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nothing is in flight any more
            self._loop.call_soon_threadsafe(call)

    def run(self) -> None:
        """In the thread: everything, then an end mark."""
        end: BaseException | None = None
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._send_all())
        except asyncio.CancelledError:
            pass
        except BaseExceptionGroup as group:
            end = group.exceptions[0]
        except BaseException as error:
            end = error
        self._results.put(end)

    async def _send_all(self) -> None:
        self._main = asyncio.current_task()
        if self._stopped:
            return
        numbered = enumerate(self._bodies)
        at_once = min(self._server.concurrency, self._total)
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(ChatClient(self._server, min(POOL, at_once - first)))
                for first in range(0, at_once, POOL)
            ]
            async with asyncio.TaskGroup() as workers:
                for number in range(at_once):
                    workers.create_task(self._work(clients[number // POOL], numbered))

    async def _work(self, client: ChatClient, numbered: Iterator[tuple[int, Mapping[str, Any]]]) -> None:
        for place, body in numbered:
            await self._unread.acquire()
            reply = await client.ask(body)
            self._results.put((place, reply))
            if not isinstance(reply, Failure):
                self._in_a_row.clear()
            elif reason := self._reason_to_stop(reply):
                raise UserError(reason)

    def _reason_to_stop(self, failure: Failure) -> str | None:
        """Counts a failure; what to say where so many came in a row that nothing else can be expected."""
        kind = "forbidden" if failure.forbidden else "refused" if failure.refused else "failed"
        self._in_a_row[kind] += 1
        last = f"(last: {failure.reason}), so no more are sent; {_KEPT}"
        if kind == "forbidden" and self._in_a_row[kind] == GIVE_UP:
            return refused_key(self._server, failure.reason)
        if kind == "refused" and self._in_a_row[kind] == GIVE_UP_REFUSED:
            return f"{self._server.base_url}: {GIVE_UP_REFUSED:,} requests in a row were refused {last}"
        if kind == "failed" and self._in_a_row[kind] == GIVE_UP:
            retries = f"{self._server.retries} retries"
            return f"{self._server.base_url}: {GIVE_UP} requests in a row failed after {retries} {last}"
        return None
