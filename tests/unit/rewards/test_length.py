from __future__ import annotations

import math

import pytest

from open_r1.rewards.length import get_cosine_scaled_reward, get_soft_overlong_punishment, len_reward

RIGHT, WRONG = r"\boxed{1}", r"\boxed{2}"  # nine characters each


def padded(text: str, length: int) -> str:
    return text + " " * (length - len(text))


def test_len_reward_by_hand() -> None:
    completions = [padded(RIGHT, 10), padded(RIGHT, 20), padded(WRONG, 10), padded(WRONG, 15), padded(WRONG, 20)]
    assert len_reward(completions, ["1"] * 5) == [0.5, -0.5, 0.0, 0.0, -0.5]


def test_len_reward_of_equal_lengths_is_zero() -> None:
    assert len_reward([RIGHT, WRONG], ["1", "1"]) == [0.0, 0.0]


def test_len_reward_is_normalised_over_one_prompt() -> None:
    """A prompt with long answers beside it must not change what the answers to the first are worth."""
    alone = len_reward([padded(RIGHT, 10), padded(RIGHT, 12)], ["1", "1"])
    completions = [padded(RIGHT, 10), padded(RIGHT, 12), padded(RIGHT, 100), padded(RIGHT, 300)]
    assert len_reward(completions, ["1"] * 4, prompts=["p", "p", "q", "q"]) == [*alone, 0.5, -0.5]
    assert len_reward(completions, ["1", "1", "1.0", "1.0"]) == [*alone, 0.5, -0.5]


def test_len_reward_needs_a_gold_answer() -> None:
    assert len_reward([RIGHT, padded(RIGHT, 20)], ["unparseable_latex"] * 2) == [None, None]
    assert len_reward([], []) == []


@pytest.mark.parametrize(
    ("text", "length", "value"),
    [
        (RIGHT, 20, 0.5 + 0.25 * (1 + math.cos(0.2 * math.pi))),
        (RIGHT, 80, 0.5 + 0.25 * (1 + math.cos(0.8 * math.pi))),
        (WRONG, 20, -0.5 - 0.25 * (1 + math.cos(0.2 * math.pi))),
        (RIGHT, 100, 0.5),
        (WRONG, 100, -0.5),
        (RIGHT, 200, 0.5),  # past the end the cosine would come back up
    ],
)
def test_cosine_by_hand(text: str, length: int, value: float) -> None:
    reward = get_cosine_scaled_reward(-1.0, -0.5, 0.5, 1.0, max_len=100)
    assert reward([[{"content": padded(text, length)}]], ["1"]) == pytest.approx([value])


def test_cosine_of_published_cases() -> None:
    reward = get_cosine_scaled_reward(-1.0, -0.5, 0.5, 1.0, max_len=100)
    right, wrong = r"\boxed{\frac{63}{400}}", r"\boxed{\frac{64}{400}}"
    completions = [padded(right, 20), padded(right, 80), padded(wrong, 20), padded(wrong, 80)]
    assert reward(completions, [r"\frac{63}{400}"] * 4) == pytest.approx([0.943, 0.547, -0.942, -0.547], abs=5e-3)


def test_cosine_counts_tokens_where_there_are_ids() -> None:
    reward = get_cosine_scaled_reward(max_len=100)
    value = reward([padded(RIGHT, 90), RIGHT], ["1", "1"], completion_ids=[[7] * 50, []])
    assert value == pytest.approx([0.75, 1.0])


def test_cosine_needs_a_gold_answer() -> None:
    assert get_cosine_scaled_reward()([RIGHT], ["no such thing"]) == [None]


def test_soft_overlong_punishment_by_hand() -> None:
    reward = get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)
    ids = [[1] * length for length in (0, 80, 81, 90, 100, 101)]
    assert reward(completion_ids=ids, completions=["a"] * 6) == pytest.approx([0.0, 0.0, -0.05, -0.5, -1.0, -1.0])
    assert reward([[1] * 110]) == [-1.0]


def test_parameters_that_mean_nothing() -> None:
    with pytest.raises(ValueError, match="soft_punish_cache 200"):
        get_soft_overlong_punishment(100, 200)
    with pytest.raises(ValueError, match="max_len 0"):
        get_cosine_scaled_reward(max_len=0)
