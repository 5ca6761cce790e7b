"""One group of answers on its way through the pool: what is still to be called, and what came back."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from open_r1.rewards.call import Outcome
from open_r1.rewards.spec import Scope

MAX_ERRORS_KEPT = 5


@dataclass
class Scores:
    """The rewards of the answers to one prompt.

    Attributes:
        values: [function][completion], each a finite number or None where no reward can be given.
        timeouts: values that are None because the function ran out of time or took its process down.
        failures: values that are None because the function raised, or returned something that is not a number.
        errors: what went wrong, in words: the first few different ones.
    """

    values: list[list[float | None]]
    timeouts: int = 0
    failures: int = 0
    errors: list[str] = field(default_factory=list)

    def add_error(self, error: str) -> None:
        """Keeps ``error`` unless it is known or there are enough."""
        if error not in self.errors and len(self.errors) < MAX_ERRORS_KEPT:
            self.errors.append(error)


@dataclass(frozen=True)
class Chunk:
    """One call: the function, the answers it is called on, and whether a call on them took a process down before."""

    function: int
    answers: tuple[int, ...]
    crashed: bool = False


class Job:
    """A group: answers, columns, the calls still to be made, and the scores so far."""

    def __init__(
        self, key: Hashable, completions: Sequence[Any], columns: Mapping[str, Sequence[Any]], functions: int
    ) -> None:
        self.key = key
        self.completions = completions
        self.columns = columns
        self.scores = Scores([[None] * len(completions) for _ in range(functions)])
        self.chunks: deque[Chunk] | None = None

    def plan(self, scopes: Sequence[Scope]) -> None:
        """Cuts the job into calls, once the scopes are known."""
        if self.chunks is not None:
            return
        everyone = tuple(range(len(self.completions)))
        self.chunks = deque()
        for function, scope in enumerate(scopes):
            calls = [(answer,) for answer in everyone] if scope == "answer" else [everyone]
            self.chunks.extend(Chunk(function, answers) for answers in calls if answers)

    def finish_chunk(self, outcome: Outcome) -> None:
        """Takes the outcome of the first call that was still to be made."""
        chunk = self.chunks.popleft()
        values = self.scores.values[chunk.function]
        for answer, value in zip(chunk.answers, outcome.values, strict=True):
            values[answer] = value
        if outcome.error is not None:
            self.scores.failures += outcome.values.count(None)
            self.scores.add_error(outcome.error)

    def lose_chunk(self, reason: str, *, expired: bool, divisible: bool) -> None:
        """The process died in the first call that was still to be made: makes it smaller, or gives it up.

        Several answers are called one at a time from now on. A single one is given up when its time is over, or when
        it takes the process down a second time: the first may have been somebody else's doing.
        """
        chunk = self.chunks.popleft()
        if divisible and len(chunk.answers) > 1:
            parts = [Chunk(chunk.function, (answer,), crashed=not expired) for answer in chunk.answers]
            self.chunks.extendleft(reversed(parts))
        elif expired or chunk.crashed:
            self.scores.timeouts += len(chunk.answers)
            self.scores.add_error(reason)
        else:
            self.chunks.appendleft(Chunk(chunk.function, chunk.answers, crashed=True))
