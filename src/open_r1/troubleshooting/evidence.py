"""What is known of a failure: the messages of its exceptions, and where they came from."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

_RANK = re.compile(r"^\[rank ?\d+\]:? ?", re.MULTILINE)
"""What torch puts before each line of a rank's trace."""


@dataclass(frozen=True)
class Evidence:
    """What entries are held against.

    Attributes:
        text: ``module.Type: message`` of each exception, from the one that arrived to its first cause.
        frames: ``file:function`` of their traces, a line each.
    """

    text: str
    frames: str


def evidence_of(failure: BaseException | str) -> Evidence:
    """Of an exception with all that led to it, or of text that somebody pasted."""
    if isinstance(failure, str):
        text = _RANK.sub("", failure)
        return Evidence(text, text)
    errors = list(chain(failure))
    frames = (frame for error in errors for frame in traceback.extract_tb(error.__traceback__))
    return Evidence("\n".join(map(headline, errors)), "\n".join(f"{frame.filename}:{frame.name}" for frame in frames))


def chain(error: BaseException) -> Iterator[BaseException]:
    """An exception, what it was raised from or while handling, and the members of groups; each once."""
    seen: set[int] = set()
    pending: list[BaseException] = [error]
    while pending:
        error = pending.pop(0)
        if id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        if isinstance(error, BaseExceptionGroup):
            pending += error.exceptions
        if error.__cause__ is not None:
            pending.append(error.__cause__)
        elif error.__context__ is not None and not error.__suppress_context__:
            pending.append(error.__context__)


def headline(error: BaseException) -> str:
    """``module.Type: message``, as the last line of a trace has it."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        message = str(error)
    except Exception:  # of libraries that trip over their own message
        message = ""
    return f"{name}: {message}"
