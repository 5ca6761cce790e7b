"""Columns found by their names, and rows read through them."""

from __future__ import annotations

import pytest

from open_r1.data.bad_rows import BadRow
from open_r1.data.columns import Columns, find_columns, gold, to_messages, to_prompt
from open_r1.errors import UserError

CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["messages", "num_tokens", "source"], Columns(messages="messages")),
        (["id", "conversations"], Columns(messages="conversations")),
        (["problem", "solution", "answer", "messages"], Columns(messages="messages")),
        (["prompt", "completion"], Columns(prompt="prompt", completion="completion")),
        (["prompt", "completion", "response"], Columns(prompt="prompt", completion="completion")),
        (["question", "answer"], Columns(prompt="question", completion="answer")),
        (["problem", "solution", "answer", "subject"], Columns(prompt="problem", completion="solution")),
        (["instruction", "response"], Columns(prompt="instruction", completion="response")),
        (["problem", "generation", "answer"], Columns(prompt="problem", completion="generation")),
    ],
)
def test_training_columns(names, found):
    assert find_columns(names) == found


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["question", "answer"], Columns(prompt="question", answer="answer")),
        (["problem", "solution", "answer"], Columns(prompt="problem", answer="answer")),
        (["problem", "solution", "messages"], Columns(prompt="problem", answer="solution")),
        (["messages", "ground_truth"], Columns(messages="messages", answer="ground_truth")),
    ],
)
def test_columns_with_a_gold_answer(names, found):
    assert find_columns(names, need="answer") == found


def test_named_columns_come_first():
    names = ["messages", "q", "a", "prompt", "completion"]
    assert find_columns(names, prompt="q", completion="a") == Columns(prompt="q", completion="a")
    assert find_columns(names, completion="a") == Columns(prompt="prompt", completion="a")
    assert find_columns(names, messages="messages", need="answer", answer="a") == Columns("messages", answer="a")
    assert find_columns(["prompt"], need="prompt") == Columns(prompt="prompt")
    alpaca = ["instruction", "input", "output"]
    assert find_columns(alpaca, prompt="instruction") == Columns(prompt="instruction", completion="output")


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (["a", "b"], {}, r"no column of conversations or prompts among 'a', 'b'.*--messages_column"),
        (["problem"], {}, r"no column of completions beside 'problem'.*--completion_column"),
        (["problem", "solution", "generation"], {}, r"'solution', 'generation' could each be.*--completion_column"),
        (["prompt", "question", "answer"], {}, r"'prompt', 'question' could each be.*--prompt_column"),
        (["messages", "conversations"], {}, r"--messages_column"),
        (["instruction", "input", "output"], {}, r"one prompt in two columns.*--prompt_column instruction"),
        (["instruction", "input", "answer"], {"need": "answer"}, r"one prompt in two columns"),
        (["problem"], {"need": "answer"}, r"no column of gold answers among 'problem'.*--answer_column"),
        (["text"], {"need": "prompt"}, r"no column of prompts among 'text'.*--prompt_column"),
        (["problem"], {"prompt": "question"}, r"--prompt_column question: no such column.*'problem'"),
    ],
)
def test_what_cannot_be_decided_is_said_in_one_line(names, settings, message):
    with pytest.raises(UserError, match=message) as error:
        find_columns(names, **settings)
    assert "\n" not in str(error.value)


def test_conversations_become_messages():
    sharegpt = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    assert to_messages({"m": sharegpt}, Columns(messages="m")) == CHAT
    assert to_messages({"m": CHAT}, Columns(messages="m")) == CHAT
    pair = Columns(prompt="p", completion="c")
    assert to_messages({"p": "a", "c": "b"}, pair) == CHAT
    assert to_messages({"p": CHAT[:1], "c": CHAT[1:]}, pair) == CHAT


def test_fields_that_templates_read_are_kept():
    messages = [CHAT[0], {"role": "assistant", "content": "b", "reasoning_content": "r", "name": None}]
    assert to_messages({"m": messages}, Columns(messages="m"))[1] == {**CHAT[1], "reasoning_content": "r"}
    no_calls = [{**message, "tool_calls": []} for message in CHAT]  # some templates would take the field for a call
    assert to_messages({"m": no_calls}, Columns(messages="m")) == CHAT


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (None, "not a list"),
        ("text", "not a list"),
        ([], "empty"),
        (["text"], "not a mapping"),
        ([{"role": "user", "content": None}, CHAT[1]], "user's content is missing"),
        ([CHAT[0], {"role": "assistant", "content": " \n"}], "assistant's content is empty"),
        ([CHAT[0], {"role": "assistant", "content": ["b"]}], "assistant's content is not text"),
        ([CHAT[0], {"role": "wizard", "content": "b"}], "unknown role 'wizard'"),
        ([{"content": "a"}, CHAT[1]], "unknown role"),
        ([CHAT[0]], "no assistant turn"),
        ([system("s"), CHAT[0]], "no assistant turn"),
        ([CHAT[1]], "assistant comes first"),
        ([CHAT[0], CHAT[0], CHAT[1]], "user follows user"),
        ([*CHAT, CHAT[1]], "assistant follows assistant"),
        ([CHAT[0], system("s"), CHAT[1]], "system follows user"),
        ([system("s"), system("s"), *CHAT], "system follows system"),
    ],
)
def test_bad_conversations(messages, reason):
    with pytest.raises(BadRow, match=reason):
        to_messages({"m": messages}, Columns(messages="m"))


def test_system_messages_and_what_tools_return_may_be_empty():
    conversation = [system(""), *CHAT, {"role": "tool", "content": ""}, CHAT[1]]
    assert to_messages({"m": conversation}, Columns(messages="m")) == conversation


@pytest.mark.parametrize(
    ("prompt", "completion", "reason"),
    [
        (None, "b", "user's content is missing"),
        ("a", None, "assistant's content is missing"),
        ("", "b", "user's content is empty"),
        ("a", "", "assistant's content is empty"),
        (3, "b", "user's content is not text"),
        ("a", 42, "assistant's content is not text"),
    ],
)
def test_bad_pairs(prompt, completion, reason):
    with pytest.raises(BadRow, match=reason):
        to_messages({"p": prompt, "c": completion}, Columns(prompt="p", completion="c"))


def test_prompts():
    assert to_prompt({"p": "a"}, Columns(prompt="p")) == CHAT[:1]
    assert to_prompt({"m": CHAT}, Columns(messages="m")) == CHAT[:1]
    assert to_prompt({"m": [*CHAT, *CHAT]}, Columns(messages="m")) == [*CHAT, CHAT[0]]
    assert to_prompt({"p": "a"}, Columns(prompt="p"), "s") == [system("s"), CHAT[0]]
    assert to_prompt({"p": [system("own"), CHAT[0]]}, Columns(prompt="p"), "s") == [system("own"), CHAT[0]]
    for bad in (None, "", [], CHAT, [CHAT[1]]):
        with pytest.raises(BadRow):
            to_prompt({"p": bad}, Columns(prompt="p"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("48/2 = <<48/2=24>>24\nIn all 72.\n#### 72", "72"),
        ("#### 1\n#### -1,000 ", "-1,000"),
        (r"so $\boxed{\frac{1}{2}}$", r"so $\boxed{\frac{1}{2}}$"),
        ("204", "204"),
        (204, "204"),
        (0, "0"),
        (0.5, "0.5"),
    ],
)
def test_gold_answers(value, text):
    assert gold({"answer": value}, Columns(answer="answer")) == text


@pytest.mark.parametrize("value", [None, "", "  ", "worked out\n#### ", ["1"], True, float("nan")])
def test_missing_gold_answers(value):
    with pytest.raises(BadRow, match="gold answer"):
        gold({"answer": value}, Columns(answer="answer"))
