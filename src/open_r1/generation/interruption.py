"""Stopping whoever draws completions between two steps of decoding: the longest completion may take minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_check: ContextVar[Callable[[], None]] = ContextVar("check", default=lambda: None)


@contextmanager
def interrupted_by(check: Callable[[], None]) -> Iterator[None]:
    """Inside, and in this thread alone, engines call ``check`` between two steps; what it raises ends a generation."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def check_interruption() -> None:
    """For engines: raises whatever is to end the generation."""
    _check.get()()
