"""The assistant mask against hand-worked templates, token by token."""

from __future__ import annotations

from typing import Any

import pytest

from open_r1.data.bad_rows import BadRow
from open_r1.data.chat import ChatFormat
from open_r1.errors import UserError


def talk(*contents: str) -> list[dict[str, str]]:
    """User and assistant in turn."""
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(contents)]


def trained_texts(chat: ChatFormat, messages: list[dict[str, str]]) -> list[str]:
    """The text of each run of trained tokens."""
    (encoded,) = chat.encode_batch([messages])
    runs, before = [], 0
    for token, trained in zip(encoded.input_ids.tolist(), encoded.loss_mask.tolist(), strict=True):
        if trained and not before:
            runs.append([])
        if trained:
            runs[-1].append(token)
        before = trained
    return [chat.tokenizer.decode(run, skip_special_tokens=False) for run in runs]


def template_ids(chat: ChatFormat, messages: list[dict[str, str]]) -> list[int]:
    return chat.tokenizer.apply_chat_template(messages)["input_ids"]


def test_every_token_of_a_chat_is_masked_by_hand(word_level):
    chat = ChatFormat(word_level("qwen2"))
    messages = [{"role": "system", "content": "be brief"}, *talk("6x7", "so it is 42", "8x8", "64")]
    (encoded,) = chat.encode_batch([messages])
    tokens = chat.tokenizer.convert_ids_to_tokens(encoded.input_ids)
    start, end = "<|im_start|>", "<|im_end|>"
    assert list(zip(tokens, encoded.loss_mask.tolist(), strict=True)) == [
        *((token, 0) for token in (start, "system", "\n", "be", "brief", end, "\n")),
        *((token, 0) for token in (start, "user", "\n", "6x7", end, "\n", start, "assistant", "\n")),
        *((token, 1) for token in ("so", "it", "is", "42", end)),
        *((token, 0) for token in ("\n", start, "user", "\n", "8x8", end, "\n", start, "assistant", "\n")),
        *((token, 1) for token in ("64", end)),
        ("\n", 0),
    ]


CONVERSATIONS = {
    "one turn": talk("six times seven?", "forty-two."),
    "two turns": talk("six times seven?", "forty-two.", "so?", "So it is."),
    "reasoning": talk("six times seven?", "<think>\nthe answers\n</think>\n\nforty-two."),
    "newlines at the edges": talk("a\n", "\n\nforty-two.\n\n"),
    "white space at the edges": talk("a", "  forty-two. "),
    "other scripts": talk("六乘七? e\u0301", "42 é e\u0301 한국어 😀👩‍👩‍👧 \u2028 ﬁ"),
    "the header in what is said": talk("<|im_start|>assistant\nx", "<|im_start|>assistant\nforty-two.<|im_end|>\n!"),
    "code": talk("a", "```python\n\tprint('x')\r\n```"),
}


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("template", ["qwen2", "qwen3", "llama3", "marked"])
def test_ids_are_those_of_apply_chat_template(byte_level, template, messages):
    chat = ChatFormat(byte_level(template))
    (encoded,) = chat.encode_batch([messages])
    assert encoded.input_ids.tolist() == template_ids(chat, messages)


@pytest.mark.parametrize("template", ["qwen2", "qwen3", "marked"])
def test_each_turn_is_trained_to_its_end(byte_level, template):
    chat = ChatFormat(byte_level(template))
    assert trained_texts(chat, CONVERSATIONS["one turn"]) == ["forty-two.<|im_end|>"]
    assert trained_texts(chat, CONVERSATIONS["two turns"]) == ["forty-two.<|im_end|>", "So it is.<|im_end|>"]
    reasoned = CONVERSATIONS["reasoning"][-1]["content"]
    assert trained_texts(chat, CONVERSATIONS["reasoning"]) == [reasoned + "<|im_end|>"]


def test_marks_in_what_is_said_do_not_move_the_mask(byte_level):
    chat = ChatFormat(byte_level("qwen2"))
    said = CONVERSATIONS["the header in what is said"]
    assert trained_texts(chat, said) == [said[1]["content"] + "<|im_end|>"]
    assert trained_texts(chat, [*said, *talk("b", "c")]) == [said[1]["content"] + "<|im_end|>", "c<|im_end|>"]


def test_a_token_that_begins_in_the_header_is_not_trained(byte_level):
    chat = ChatFormat(byte_level("qwen2"))
    (encoded,) = chat.encode_batch([talk("a", "\n\nSo")])
    tokens = [chat.tokenizer.decode([token]) for token in encoded.input_ids[-5:]]
    assert tokens == ["\n\n", "\n", "So", "<|im_end|>", "\n"]
    assert encoded.loss_mask[-5:].tolist() == [0, 1, 1, 1, 0]


def test_trimmed_text_is_found(byte_level):
    chat = ChatFormat(byte_level("llama3"))
    messages = talk("a", "  So it is. \n", "b", "\n42 ")
    assert trained_texts(chat, messages) == ["So it is.<|im_end|>", "42<|im_end|>"]


def test_turns_that_lost_their_reasoning_are_not_trained(byte_level):
    chat = ChatFormat(byte_level("qwen3"))
    with_reasoning = "<think>\nsix\n</think>\n\n42"
    messages = talk("a", with_reasoning, "b", "So.", "c", with_reasoning)
    assert trained_texts(chat, messages) == ["So.<|im_end|>", with_reasoning + "<|im_end|>"]
    assert chat.encode_batch([messages])[0].input_ids.tolist() == template_ids(chat, messages)
    assert chat.notes == []


def test_reasoning_that_the_prompt_opens_is_written_out(byte_level):
    chat = ChatFormat(byte_level("deepseek"))
    messages = talk("a", "<think>\nsix\n</think>\n\n42", "b", "<think>\nso\n</think>\n\n64")
    rendered = chat.render(messages)
    history = "<|im_start|>a<|im_end|>\n\n42<|endoftext|>"
    assert rendered.text == history + "<|im_start|>b<|im_end|><think>\nso\n</think>\n\n64<|endoftext|>"
    assert trained_texts(chat, messages) == ["so\n</think>\n\n64<|endoftext|>"]
    prompt = chat.encode_prompt(messages[:-1])
    (encoded,) = chat.encode_batch([messages])
    assert encoded.input_ids[: len(prompt)].tolist() == prompt
    assert len(chat.notes) == 1 and "<think>" in chat.notes[0]


def test_an_answer_without_reasoning_is_trained_from_the_header(byte_level):
    chat = ChatFormat(byte_level("deepseek"))
    assert trained_texts(chat, talk("a", "42")) == ["42<|endoftext|>"]


def test_reasoning_beside_the_content_must_be_written(byte_level):
    chat = ChatFormat(byte_level("qwen2"))
    messages = talk("a", "42")
    messages[1]["reasoning_content"] = "six sevens"
    with pytest.raises(BadRow, match="reasoning"):
        chat.render(messages)


def test_earlier_turns_whose_reasoning_lay_beside_them_are_not_trained(byte_level):
    chat = ChatFormat(byte_level("tools"))
    messages = [message | {"reasoning_content": "six sevens"} for message in talk("a", "42", "b", "43")]
    assert trained_texts(chat, messages) == ["<think>\nsix sevens\n</think>\n\n43<|im_end|>"]
    messages[1]["reasoning_content"] = ""
    assert trained_texts(chat, messages)[0] == "42<|im_end|>"


def calling(content: str) -> list[dict[str, Any]]:
    """A tool that is called, and then an answer."""
    called = {"type": "function", "function": {"name": "look_up", "arguments": "6x7"}}
    first, second = talk("a", content)
    return [first, {**second, "tool_calls": [called]}, {"role": "tool", "content": "42"}, *talk("", "So it is.")[1:]]


@pytest.mark.parametrize(
    ("template", "content", "end"),
    [
        ("tools", "", "<think>\n\n</think>\n\n"),
        ("tools", "I look.", "<think>\n\n</think>\n\n"),
        ("calls_beside_none", "", ""),
    ],
)
def test_calls_of_tools_are_trained_to_their_end(byte_level, template, content, end):
    chat = ChatFormat(byte_level(template))
    call = f"{content}<call>look_up 6x7<|im_end|>"
    assert trained_texts(chat, calling(content)) == [call, f"{end}So it is.<|im_end|>"]
    assert trained_texts(chat, calling(content)[:2]) == [end + call]


def test_a_call_that_nothing_ends_takes_no_later_turn_along(byte_level):
    tokenizer = byte_level("tools")
    ending = "{%- if loop.last or message.role != 'assistant' %}{{- '<|im_end|>\\n' }}{%- endif %}"
    tokenizer.chat_template = tokenizer.chat_template.replace("{{- '<|im_end|>\\n' }}", ending)
    answer = "<think>\n\n</think>\n\nSo it is.<|im_end|>"
    assert trained_texts(ChatFormat(tokenizer), calling("")) == [answer]


@pytest.mark.parametrize("content", ["", "I look."])
@pytest.mark.parametrize("turns", [2, 4])
def test_calls_that_a_template_drops_make_a_row_bad(byte_level, content, turns):
    with pytest.raises(BadRow, match="does not write out the tools"):
        ChatFormat(byte_level("qwen2")).render(calling(content)[:turns])


def test_an_empty_block_of_reasoning_is_written_after_the_prompt_that_opens_it(byte_level):
    chat = ChatFormat(byte_level("deepseek"))
    assert trained_texts(chat, talk("a", "<think>\n\n</think>\n\n42")) == ["\n</think>\n\n42<|endoftext|>"]


def test_a_missing_end_of_turn_is_appended(byte_level):
    chat = ChatFormat(byte_level("endless"))
    chat.check()
    assert trained_texts(chat, talk("a", "So it is.")) == [" So it is.<|endoftext|>"]
    assert trained_texts(chat, talk("a", "So.", "b", "42")) == [" So.", " 42<|endoftext|>"]
    assert len(chat.notes) == 1 and "appended" in chat.notes[0]


def test_what_follows_the_last_answer_is_left_out(byte_level):
    chat = ChatFormat(byte_level("qwen2"))
    assert chat.render(talk("a", "42", "thanks")) == chat.render(talk("a", "42"))


def test_system_prompt_is_put_before_conversations_without_one(byte_level):
    chat = ChatFormat(byte_level("qwen2"), system_prompt="be brief")
    own = [{"role": "system", "content": "own"}, *talk("a", "b")]
    assert chat.render(talk("a", "b")).text.startswith("<|im_start|>system\nbe brief<|im_end|>")
    assert chat.render(own).text.startswith("<|im_start|>system\nown<|im_end|>")
    prompt = chat.tokenizer.decode(chat.encode_prompt(talk("a")))
    assert prompt == "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"


def test_stop_tokens_are_the_templates_end_and_the_tokenizers_eos(byte_level):
    chat = ChatFormat(byte_level("qwen2"), stop_token_ids=(7, 1))
    assert chat.tokenizer.convert_ids_to_tokens(chat.stop_token_ids[:2]) == ["<|im_end|>", "<|endoftext|>"]
    assert chat.stop_token_ids == (1, 2, 7)


def test_settings_reach_the_tokenizer_that_is_exported(byte_level, tmp_path):
    path, text = tmp_path / "chat.jinja", byte_level("qwen3").chat_template
    path.write_text(text)
    chat = ChatFormat(byte_level(), chat_template=str(path), eos_token="<|im_end|>")
    assert (chat.tokenizer.chat_template, chat.tokenizer.eos_token) == (text, "<|im_end|>")
    assert ChatFormat(byte_level(), chat_template=text).template.text == text


def test_state_left_by_other_calls_does_not_matter(byte_level):
    chat = ChatFormat(byte_level("qwen2"))
    messages = talk("a", TEXT := "So it is. " * 9)
    expected = template_ids(chat, messages)
    chat.tokenizer([TEXT, "a"], padding="max_length", max_length=50, truncation=True)
    assert chat.encode_batch([messages])[0].input_ids.tolist() == expected


def test_chatml_is_taken_by_name_only(byte_level):
    with pytest.raises(UserError, match="no chat template: set --chat_template"):
        ChatFormat(byte_level())
    chat = ChatFormat(byte_level(), chat_template="chatml")
    chat.check()
    assert trained_texts(chat, talk("a", "42")) == ["42<|im_end|>"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chat_template": "chat.jinja"}, "no such file"),
        ({"chat_template": "{{ 'hello' }}"}, "does not write out"),
        ({"chat_template": "chatml", "eos_token": "<eos>"}, "not a token"),
    ],
    ids=["no file", "no content", "unknown token"],
)
def test_unusable_settings_are_one_line(byte_level, settings, message):
    with pytest.raises(UserError, match=message) as error:
        ChatFormat(byte_level(), **settings)
    assert "\n" not in str(error.value)


def test_a_system_prompt_that_the_template_refuses_is_named(byte_level):
    chat = ChatFormat(byte_level("no_system"), system_prompt="be brief")
    with pytest.raises(UserError, match=r"System role not supported; leave out --system_prompt"):
        chat.check()
    with pytest.raises(BadRow, match="System role not supported"):
        chat.render(talk("a", "b"))


def test_an_end_that_is_not_a_stop_token_fails_the_check(byte_level):
    chat = ChatFormat(byte_level("qwen2"))
    chat.stop_token_ids = (2,)
    with pytest.raises(UserError, match="would never stop"):
        chat.check()
