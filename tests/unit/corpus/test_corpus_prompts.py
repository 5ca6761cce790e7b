from __future__ import annotations

import pytest

from open_r1.config import GenerateConfig
from open_r1.corpus.prompts import Prompt, read_prompts
from open_r1.data.bad_rows import BadRows
from open_r1.errors import UserError


def read(rows: list[dict], **settings: object) -> tuple[list[Prompt], BadRows]:
    config = GenerateConfig(dataset="rows", model="fake", **settings)
    return read_prompts(rows, list(rows[0]), config)


def test_prompt_template_and_gold() -> None:
    (prompt,), bad_rows = read(
        [{"problem": "2+2?", "answer": "So 4.\n#### 4", "level": "easy"}],
        prompt_template="[{{level}}] {{ instruction }} Think.",
    )
    assert prompt.problem == "2+2?"
    assert prompt.messages == [{"role": "user", "content": "[easy] 2+2? Think."}]
    assert (prompt.gold, prompt.row, len(bad_rows)) == ("4", 0, 0)


def test_the_id_is_that_of_what_is_asked_wherever_it_stands() -> None:
    (first, second), _ = read([{"prompt": "a"}, {"prompt": "b"}])
    (moved, _), _ = read([{"prompt": "b", "extra": 1}, {"prompt": "c", "extra": 2}])
    assert first.id != second.id == moved.id
    (templated, *_), _ = read([{"prompt": "b"}], prompt_template="{{ instruction }}!")
    assert templated.id != second.id


def test_the_template_goes_around_the_last_user_turn_of_a_conversation() -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "2+2?"},
    ]
    (prompt,), _ = read([{"prompt": turns}], prompt_template="Q: {{ instruction }}")
    assert prompt.messages == [*turns[:2], {"role": "user", "content": "Q: 2+2?"}]
    assert prompt.problem == "2+2?"


def test_bad_rows_and_repetitions_are_counted() -> None:
    rows = [{"prompt": "a"}, {"prompt": ""}, {"prompt": None}, {"prompt": "a"}, {"prompt": "b"}]
    prompts, bad_rows = read(rows)
    assert [prompt.row for prompt in prompts] == [0, 4]
    assert len(bad_rows) == 3
    assert bad_rows.first["the same prompt as an earlier row"] == [3]


def test_without_gold_a_prompt_is_asked_unless_only_verified_answers_are_kept() -> None:
    rows = [{"prompt": "a", "answer": "4"}, {"prompt": "b", "answer": None}]
    assert [prompt.gold for prompt in read(rows)[0]] == ["4", None]
    prompts, bad_rows = read(rows, keep="verified")
    assert [prompt.gold for prompt in prompts] == ["4"]
    assert dict(bad_rows.counts) == {"no gold answer": 1}


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([{"text": "a"}], {}, "no column of prompts among 'text'"),
        ([{"prompt": "a"}], {"prompt_column": "problem"}, "--prompt_column problem: no such column"),
        ([{"prompt": "a"}], {"answer_column": "gold"}, "--answer_column gold: no such column"),
        ([{"prompt": "a"}], {"keep": "verified"}, "no column of gold answers"),
        ([{"prompt": "a"}], {"prompt_template": "{{ instruction }} {{ hint }}"}, "{{ hint }} is neither .* column"),
        ([{"prompt": ""}], {}, "all 1 rows are bad"),
    ],
)
def test_bad_input_is_one_clear_line(rows: list[dict], settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(rows, **settings)
    assert "\n" not in str(error.value)
