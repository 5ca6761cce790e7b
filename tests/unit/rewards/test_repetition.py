from __future__ import annotations

import importlib.util

import pytest

from open_r1.errors import UserError
from open_r1.rewards.repetition import get_repetition_penalty_reward


@pytest.mark.parametrize(
    ("text", "ngram_size", "max_penalty", "value"),
    [
        ("this is a test sentence", 2, -1.0, 0.0),
        ("this this this this this", 2, -1.0, -0.75),
        ("this is a this is a test", 2, -1.0, -1 / 3),
        ("this is a this is a test", 3, -2.0, -0.4),
        ("test test test test", 3, -0.5, -0.25),
        ("THIS is This IS", 2, -1.0, -1 / 3),
        ("A B C A B C", 3, -1.0, -0.25),
        ("two words", 3, -1.0, 0.0),
        ("", 2, -1.0, 0.0),
        ("   ", 1, -1.0, 0.0),
    ],
)
def test_by_hand(text: str, ngram_size: int, max_penalty: float, value: float) -> None:
    assert get_repetition_penalty_reward(ngram_size, max_penalty)([[{"content": text}]]) == pytest.approx([value])


def test_parameters_that_mean_nothing() -> None:
    with pytest.raises(ValueError, match=r"max_penalty 1\.5 should not be positive"):
        get_repetition_penalty_reward(ngram_size=2, max_penalty=1.5)
    with pytest.raises(ValueError, match="ngram_size 0"):
        get_repetition_penalty_reward(0)
    with pytest.raises(UserError, match="unknown language 'de'"):
        get_repetition_penalty_reward(language="de")


def test_chinese_needs_jieba() -> None:
    if importlib.util.find_spec("jieba"):
        reward = get_repetition_penalty_reward(1, -1.0, language="zh")
        assert reward(["我们 我们"])[0] < 0
    else:
        with pytest.raises(UserError, match="pip install jieba"):
            get_repetition_penalty_reward(language="zh")
