from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from fake_model import FakePool, fake_model

from open_r1.errors import StopRequested
from open_r1.evaluation.answers import Answer, Question, draw_answers
from open_r1.evaluation.chat_model import Prompt
from open_r1.evaluation.stopping import resumable
from open_r1.generation.engine import SamplingParams

PARAMS = SamplingParams(max_new_tokens=10)


def questions(count: int, gold: str | None = "4") -> list[Question]:
    columns = None if gold is None else {"solution": gold}
    prompts = [Prompt([], f"q{index}", tuple(map(ord, f"q{index}"))) for index in range(count)]
    return [Question((index, 0), prompt, seed=index, columns=columns) for index, prompt in enumerate(prompts)]


def test_every_question_is_answered_once_with_its_own_reward() -> None:
    model = fake_model(lambda prompt, seed: (f"\\boxed{{{seed}}}", "stop"))
    answers = list(draw_answers(questions(7), model, PARAMS, FakePool()))
    assert sorted(answer.question.key for answer in answers) == [(index, 0) for index in range(7)]
    assert {answer.question.seed: answer.reward for answer in answers} == {seed: float(seed == 4) for seed in range(7)}


def test_without_gold_nothing_is_verified() -> None:
    model = fake_model(lambda prompt, seed: ("\\boxed{4}", "stop"))
    assert [answer.reward for answer in draw_answers(questions(3, None), model, PARAMS, FakePool())] == [None] * 3
    assert [answer.reward for answer in draw_answers(questions(3), model, PARAMS, None)] == [None] * 3


def test_what_was_drawn_before_a_failure_is_verified_and_given_first() -> None:
    model = fake_model(lambda prompt, seed: ("\\boxed{4}", "stop"), fail_at=2)
    stream = draw_answers(questions(5), model, PARAMS, FakePool())
    kept = [next(stream), next(stream)]
    assert {answer.question.key for answer in kept} == {(4, 0), (3, 0)}
    assert [answer.reward for answer in kept] == [1.0, 1.0]
    with pytest.raises(RuntimeError, match="power"):
        next(stream)


class SlowPool(FakePool):
    """Verifies nothing in time, and is stopped while it is waited for."""

    def results(self, block: bool) -> Iterator[tuple[int, object]]:
        if block:
            signal.raise_signal(signal.SIGTERM)
        return iter(())


def stopped(stream: Iterator[Answer], at: int | None = None) -> list[Answer]:
    """What is given until the stop; ``at`` stops in the hands of whoever takes that answer."""
    kept: list[Answer] = []
    with pytest.raises(StopRequested), resumable():
        for answer in stream:
            if len(kept) == at:
                signal.raise_signal(signal.SIGTERM)
            kept.append(answer)
    return kept


def test_a_stop_gives_what_is_drawn_at_once_and_unverified() -> None:
    model = fake_model(lambda prompt, seed: ("\\boxed{4}", "stop"))
    kept = stopped(draw_answers(questions(5), model, PARAMS, SlowPool()))
    assert sorted(answer.question.seed for answer in kept) == list(range(5))
    assert {answer.reward for answer in kept} == {None}


def test_a_stop_between_two_answers_waits_until_the_next_is_asked_for() -> None:
    model = fake_model(lambda prompt, seed: ("\\boxed{4}", "stop"))
    kept = stopped(draw_answers(questions(9), model, PARAMS, FakePool()), at=2)
    assert [answer.reward for answer in kept] == [1.0] * len(kept) and 3 <= len(kept) < 9
    kept = stopped(draw_answers(questions(9, None), model, PARAMS, None), at=8)
    assert len(kept) == 9  # the last one too


def test_a_stop_while_an_answer_is_handed_to_the_verifiers_loses_nothing() -> None:
    class Interrupted(FakePool):
        def submit(self, key: int, completions: list[str], columns: dict[str, list]) -> None:
            if key == 2:
                signal.raise_signal(signal.SIGTERM)
            super().submit(key, completions, columns)

    model = fake_model(lambda prompt, seed: ("\\boxed{4}", "stop"))
    pool = Interrupted()
    kept = stopped(draw_answers(questions(5), model, PARAMS, pool))
    assert 2 in [answer.question.seed for answer in kept]
