"""Prompts as tokens, what rewards are given beside the completions, and the order in which prompts are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from open_r1.data.bad_rows import BadRows
from open_r1.data.chat import ChatFormat
from open_r1.data.columns import find_columns
from open_r1.data.prompts import PromptSet, read_prompts
from open_r1.errors import UserError

ROWS = [
    {"problem": "1+1?", "answer": "2", "level": 1},
    {"problem": "", "answer": "3", "level": 2},
    {"problem": "x" * 200, "answer": "4", "level": 3},
    {"problem": "2+2?", "answer": "#### 4", "level": 4},
]


def read(
    tiny_checkpoint: Path, rows: list[dict[str, Any]] = ROWS, system_prompt: str | None = None, **settings: Any
) -> tuple[PromptSet, BadRows]:
    chat = ChatFormat(AutoTokenizer.from_pretrained(tiny_checkpoint), system_prompt=system_prompt)
    bad_rows = BadRows(settings.pop("strict", False), 5)
    data = Dataset.from_list(rows)
    columns = find_columns(data.column_names, need="answer")
    return read_prompts(data, chat, columns, bad_rows, **settings), bad_rows


def test_prompts_rows_and_what_is_left_out(tiny_checkpoint: Path) -> None:
    prompts, bad_rows = read(tiny_checkpoint, max_prompt_length=60)
    assert len(prompts) == 2
    assert [row["level"] for row in prompts.rows] == [1, 4]
    assert prompts.messages[1] == [{"role": "user", "content": "2+2?"}]
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    text = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(prompts.token_ids[1]) == text
    assert sum(bad_rows.counts.values()) == 2
    assert any("longer than max_prompt_length (60 tokens)" in reason for reason in bad_rows.counts)


def test_a_longest_prompt_by_a_token(tiny_checkpoint: Path) -> None:
    (length,) = map(len, read(tiny_checkpoint, ROWS[:1])[0].token_ids)
    assert len(read(tiny_checkpoint, ROWS[:1], max_prompt_length=length)[0]) == 1
    with pytest.raises(UserError):
        read(tiny_checkpoint, ROWS[:1], max_prompt_length=length - 1)


def test_a_bad_row_under_strict(tiny_checkpoint: Path) -> None:
    with pytest.raises(UserError, match="row 1"):
        read(tiny_checkpoint, strict=True)


def test_reward_columns(tiny_checkpoint: Path) -> None:
    prompts, _ = read(tiny_checkpoint, system_prompt="Add.", max_prompt_length=70)
    columns = prompts.reward_columns(1, 3)
    assert columns["solution"] == ["4"] * 3
    assert columns["level"] == [4] * 3
    said = [{"role": "system", "content": "Add."}, {"role": "user", "content": "2+2?"}]
    assert columns["prompts"] == [said] * 3


def test_draws_are_seeded_passes_over_the_set() -> None:
    prompts = PromptSet([[]] * 7, [(1,)] * 7, [{}] * 7)
    passes = [[prompts.draw(3, 7 * epoch + place) for place in range(7)] for epoch in range(3)]
    assert all(sorted(each) == list(range(7)) for each in passes)
    assert passes[0] != passes[1] != passes[2]
    assert [prompts.draw(4, place) for place in range(7)] != passes[0]
    assert prompts.draw(3, 16) == passes[2][2]


def test_the_fingerprint_is_of_the_tokens() -> None:
    one = PromptSet([[]] * 2, [(1, 2), (3,)], [{}] * 2)
    assert one.fingerprint() == PromptSet([[]] * 2, [(1, 2), (3,)], [{"a": 1}] * 2).fingerprint()
    assert one.fingerprint() != PromptSet([[]] * 2, [(1,), (2, 3)], [{}] * 2).fingerprint()


def test_the_content_key_is_of_what_rewards_are_given() -> None:
    one = PromptSet([[]] * 2, [(1,), (2,)], [{"answer": "1", "tests": [1, None]}, {"answer": "2"}])
    assert one.content_key() == PromptSet([], [], [{"tests": [1, None], "answer": "1"}, {"answer": "2"}]).content_key()
    assert one.content_key() != PromptSet([], [], [{"answer": "1", "tests": [1, None]}, {"answer": "3"}]).content_key()


def test_a_template_words_the_prompt_and_keeps_everything_else(tiny_checkpoint: Path) -> None:
    template = "Say \\boxed{ANSWER}.\n\n{{instruction}} {{ instruction }}"
    prompts, _ = read(tiny_checkpoint, [ROWS[0]], system_prompt="s", template=template)
    asked = {"role": "user", "content": "Say \\boxed{ANSWER}.\n\n1+1? 1+1?"}
    assert prompts.messages == [[{"role": "system", "content": "s"}, asked]]
    assert prompts.rows[0]["problem"] == "1+1?"
    text = AutoTokenizer.from_pretrained(tiny_checkpoint).decode(prompts.token_ids[0])
    assert "Say \\boxed{ANSWER}.\n\n1+1? 1+1?<|im_end|>" in text
