"""What each rank does for itself: what ends it on one of them ends it on all, where they meet.

A rank that left alone, to save or to say an error, would wait for ever for the others, who are somewhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from open_r1.errors import UserError
from open_r1.parallel.runtime import Runtime
from open_r1.training.signals import Interrupted


class SharedError(UserError):
    """A `UserError` that every rank raises at the same point, so that they can still save together."""


@contextmanager
def together(runtime: Runtime) -> Iterator[None]:
    """Around what a rank does for itself, at the end of which all meet. Collective.

    Whoever leaves early must leave nobody waiting inside.

    Raises:
        Interrupted: on every rank, if one was.
        SharedError: on every rank, with what a rank's `UserError` said.
    """
    if runtime.world_size == 1:
        yield
        return
    ended: Interrupted | UserError | None = None
    try:
        yield
    except (Interrupted, UserError) as reason:
        ended = reason
    said = runtime.gather([ended.signal_number if isinstance(ended, Interrupted) else ended and str(ended)])
    if signals := [number for number in said if isinstance(number, int)]:
        raise Interrupted(signals[0])
    if errors := [text for text in said if text is not None]:
        raise SharedError(errors[0]) from ended
