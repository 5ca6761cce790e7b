"""Drawing answers and verifying them at the same time: both the benchmarks and the making of data are this stream."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from open_r1.errors import StopRequested
from open_r1.evaluation.chat_model import ChatModel, Prompt
from open_r1.evaluation.stopping import stops_deferred, stops_here
from open_r1.generation.engine import SamplingParams

if TYPE_CHECKING:
    from open_r1.rewards.pool import Scores

_IN_FLIGHT = 256
"""Stored answers with the verifiers at once: enough for their processes, and a bound on memory."""


@dataclass(frozen=True)
class Question:
    """One answer to draw.

    Attributes:
        key: (problem or row, sample): which answer it is.
        prompt: what the model is asked.
        seed: of the draw.
        columns: what the verifier is given beside the answer; None where there is nothing to verify it with.
    """

    key: tuple[int, int]
    prompt: Prompt
    seed: int
    columns: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Answer:
    """A drawn and, where there is something to verify it with, verified answer.

    Attributes:
        question: what it answers.
        text: the completion without its stop token.
        tokens: its length, the stop token included.
        finish_reason: "stop", or "length" where it was cut off.
        reward: None where it could not be verified.
    """

    question: Question
    text: str
    tokens: int
    finish_reason: str
    reward: float | None = None


class Verifiers(Protocol):
    """The part of `open_r1.rewards.pool.RewardPool` that is used here."""

    def submit(self, key: int, completions: list[str], columns: dict[str, list[Any]]) -> None: ...

    def results(self, block: bool) -> Iterator[tuple[int, Scores]]: ...


def draw_answers(
    questions: Sequence[Question],
    model: ChatModel,
    params: SamplingParams,
    verifiers: Verifiers | None = None,
) -> Iterator[Answer]:
    """Yields every answer once it is drawn and verified; verification runs while other answers are still being drawn.

    When the model fails, answers that were already drawn are still verified and yielded before the exception goes on,
    so that they can be kept. When the person stops it they are yielded at once, without a reward where the verifiers
    still have them: whoever keeps them has them verified by the next start. Between two answers a stop waits until the
    next one is asked for.

    Args:
        verifiers: None leaves every reward None, as does a question without columns.
    """
    drawn: dict[int, Answer] = {}

    def verified(block: bool) -> Iterator[Answer]:
        if drawn:
            with stops_here():
                finished = list(verifiers.results(block=block))
            for place, scores in finished:
                yield replace(drawn.pop(place), reward=scores.values[0][0])

    def remaining() -> Iterator[Answer]:
        try:
            while drawn:
                yield from verified(block=True)
        except StopRequested:
            yield from drawn.values()
            raise

    draws = iter(model.draw([(question.prompt, question.seed) for question in questions], params))
    with stops_deferred():
        try:
            while True:
                with stops_here():
                    draw = next(draws, None)
                if draw is None:
                    break
                question = questions[draw.place]
                answer = Answer(question, draw.text, draw.tokens, draw.finish_reason)
                if verifiers is None or question.columns is None:
                    yield answer
                    continue
                drawn[draw.place] = answer
                verifiers.submit(draw.place, [draw.text], {name: [value] for name, value in question.columns.items()})
                yield from verified(block=False)
        except StopRequested:
            yield from drawn.values()
            raise
        except Exception:
            yield from remaining()
            raise
        yield from remaining()


def verify(
    stored: Iterable[tuple[Hashable, str, Mapping[str, Any]]], verifiers: Verifiers
) -> Iterator[tuple[Hashable, float | None]]:
    """Yields (key, reward) of answers that are there already, in the order in which they are verified.

    Args:
        stored: key, text and the verifier's columns of each; read as the verifiers take them.
    """
    waiting: dict[int, Hashable] = {}

    def verified() -> Iterator[tuple[Hashable, float | None]]:
        for place, scores in verifiers.results(block=True):
            yield waiting.pop(place), scores.values[0][0]

    for place, (key, text, columns) in enumerate(stored):
        waiting[place] = key
        verifiers.submit(place, [text], {name: [value] for name, value in columns.items()})
        while len(waiting) >= _IN_FLIGHT:
            yield from verified()
    while waiting:
        yield from verified()
