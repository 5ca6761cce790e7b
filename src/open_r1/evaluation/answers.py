"""Drawing answers and verifying them at the same time: both the benchmarks and the making of data are this stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from open_r1.generation.engine import Engine, Request, SamplingParams

if TYPE_CHECKING:
    from open_r1.rewards.pool import Scores


@dataclass(frozen=True)
class Question:
    """One answer to draw.

    Attributes:
        key: (problem or row, sample): which answer it is.
        prompt_ids: the prompt with its chat template.
        seed: of the draw.
        gold: what verifies the answer; None where there is nothing to verify it with.
    """

    key: tuple[int, int]
    prompt_ids: tuple[int, ...]
    seed: int
    gold: str | None = None


@dataclass(frozen=True)
class Answer:
    """A drawn and, where there is a gold answer, verified answer.

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

    def submit(self, key: int, completions: list[str], columns: dict[str, list[str]]) -> None: ...

    def results(self, block: bool) -> Iterator[tuple[int, Scores]]: ...


def draw_answers(
    questions: Sequence[Question],
    engine: Engine,
    params: SamplingParams,
    decode: Callable[[Sequence[int]], str],
    verifiers: Verifiers | None = None,
) -> Iterator[Answer]:
    """Yields every answer once it is drawn and verified; verification runs while other answers are still being drawn.

    When the engine fails, or the person stops it, answers that were already drawn are still verified and yielded before
    the exception goes on, so that they can be kept.

    Args:
        decode: token ids -> text.
        verifiers: None leaves every reward None, as does a question without gold.
    """
    requests = [Request(index, question.prompt_ids, question.seed) for index, question in enumerate(questions)]
    drawn: dict[int, Answer] = {}

    def verified(block: bool) -> Iterator[Answer]:
        if drawn:
            for index, scores in verifiers.results(block=block):
                answer = drawn.pop(index)
                yield Answer(answer.question, answer.text, answer.tokens, answer.finish_reason, scores.values[0][0])

    try:
        for completion in engine.generate(requests, params):
            question = questions[completion.request_id]
            text = decode(completion.token_ids)
            answer = Answer(question, text, len(completion.token_ids), completion.finish_reason)
            if verifiers is None or question.gold is None:
                yield answer
                continue
            drawn[completion.request_id] = answer
            verifiers.submit(completion.request_id, [text], {"solution": [question.gold]})
            yield from verified(block=False)
    except (Exception, KeyboardInterrupt):
        while drawn:
            yield from verified(block=True)
        raise
    while drawn:
        yield from verified(block=True)
