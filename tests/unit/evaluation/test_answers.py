from __future__ import annotations

import pytest
from fake_model import FakeEngine, FakePool, FakeTokenizer

from open_r1.evaluation.answers import Question, draw_answers
from open_r1.generation.engine import SamplingParams

PARAMS = SamplingParams(max_new_tokens=10)


def decode(ids: tuple[int, ...]) -> str:
    return FakeTokenizer().decode(ids, skip_special_tokens=True)


def questions(count: int, gold: str | None = "4") -> list[Question]:
    return [Question((index, 0), tuple(map(ord, f"q{index}")), seed=index, gold=gold) for index in range(count)]


def test_every_question_is_answered_once_with_its_own_reward() -> None:
    engine = FakeEngine(lambda prompt, seed: (f"\\boxed{{{seed}}}", "stop"))
    answers = list(draw_answers(questions(7), engine, PARAMS, decode, FakePool()))
    assert sorted(answer.question.key for answer in answers) == [(index, 0) for index in range(7)]
    assert {answer.question.seed: answer.reward for answer in answers} == {seed: float(seed == 4) for seed in range(7)}


def test_without_gold_nothing_is_verified() -> None:
    engine = FakeEngine(lambda prompt, seed: ("\\boxed{4}", "stop"))
    assert [answer.reward for answer in draw_answers(questions(3, None), engine, PARAMS, decode, FakePool())] == [
        None
    ] * 3
    assert [answer.reward for answer in draw_answers(questions(3), engine, PARAMS, decode, None)] == [None] * 3


def test_what_was_drawn_before_a_failure_is_verified_and_given_first() -> None:
    engine = FakeEngine(lambda prompt, seed: ("\\boxed{4}", "stop"), fail_at=2)
    stream = draw_answers(questions(5), engine, PARAMS, decode, FakePool())
    kept = [next(stream), next(stream)]
    assert {answer.question.key for answer in kept} == {(4, 0), (3, 0)}
    assert [answer.reward for answer in kept] == [1.0, 1.0]
    with pytest.raises(RuntimeError, match="power"):
        next(stream)
