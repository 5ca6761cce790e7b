from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_r1.rewards.format import format_reward, reasoning_steps_reward, tag_count_reward

GOOD = "<think>\nSome reasoning\n</think>\n<answer>\nThe answer\n</answer>"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (GOOD, 1.0),
        ("<think>\n1. A list\n\n2. Of steps\n</think>\n<answer>\n9\n</answer>", 1.0),
        (GOOD + "\n", 1.0),
        (GOOD + "\nand more", 0.0),
        ("Well: " + GOOD, 0.0),
        ("<think>\na\n</think><answer>\nb\n</answer>", 0.0),
        ("<think>Only thinking</think>", 0.0),
        ("<answer>Only answer</answer>", 0.0),
        ("No tags at all", 0.0),
        ("<think>Missing closing</think><answer>Missing closing", 0.0),
        ("<think>Wrong order</answer><answer>Wrong order</think>", 0.0),
        ("", 0.0),
    ],
)
def test_format(text: str, value: float) -> None:
    assert format_reward([[{"content": text}]]) == [value]


PIECES = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "\n",
    "a",
    "<think>\n",
    "\n</think>\n<answer>\n",
    "\n</answer>",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_format_is_the_published_pattern_on_the_whole_completion(text: str) -> None:
    pattern = re.compile(r"^<think>\n.*?\n</think>\n<answer>\n.*?\n</answer>$", re.DOTALL)
    assert format_reward([text]) == [float(bool(pattern.match(text)))]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (GOOD, 1.0),
        ("<think>\nSome reasoning\n</think>\n<answer>\nThe answer", 0.75),
        ("Some reasoning\n</think>\n<answer>\nThe answer\n</answer>", 0.75),
        ("Some reasoning\n</think>\nThe answer\n</answer>", 0.5),
        ("<think>\nno more", 0.25),
        ("<think>\n" * 2 + "a\n</think>\n", 0.25),
        ("none", 0.0),
    ],
)
def test_tag_count(text: str, value: float) -> None:
    assert tag_count_reward([[{"content": text}]]) == [value]


@pytest.mark.parametrize(
    ("text", "hits"),
    [
        ("Step 1: First step\nStep 2: Second step\nStep 3: Third step", 3),
        ("First, we do this.\nSecond, we do that.\nFinally, we conclude.", 3),
        ("Step 1: Only step", 1),
        ("1. one\n2. two", 2),
        ("Note:\n- one\n* two", 2),
        ("It is 1.5, not 2.", 0),
        ("Just plain text without any clear steps", 0),
    ],
)
def test_reasoning_steps(text: str, hits: int) -> None:
    assert reasoning_steps_reward([[{"content": text}]]) == pytest.approx([hits / 3])


def test_reasoning_steps_end_at_one() -> None:
    assert reasoning_steps_reward(["Step 1: Step 2: Step 3: Step 4:"]) == [1.0]
