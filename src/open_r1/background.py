"""Work that another thread does meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Background(Generic[Result]):
    """Runs a function in a thread that does not hold up the end of the process.

    Args:
        function: called with ``args``, once, at once.
    """

    def __init__(self, function: Callable[..., Result], *args: object) -> None:
        self._function, self._args = function, args
        self._outcome: Result | None = None
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, daemon=True, name=function.__name__)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome = self._function(*self._args)
        except BaseException as error:
            self._error = error

    @property
    def running(self) -> bool:
        """Whether the function has not come to its end."""
        return self._thread.is_alive()

    def wait(self, seconds: float | None = None) -> None:
        """Waits for the function's end, however it ends, at most so long."""
        self._thread.join(seconds)

    def check(self) -> None:
        """Raises what the function has raised so far."""
        if self._error is not None:
            raise self._error

    def result(self) -> Result:
        """Waits for what the function returns, or raises what it raises."""
        self._thread.join()
        self.check()
        return self._outcome
