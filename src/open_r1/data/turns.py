"""Where the assistant speaks in the text of a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from open_r1.data.bad_rows import BadRow
from open_r1.data.columns import Message, with_system_prompt
from open_r1.data.encoding import Span
from open_r1.data.template import ChatTemplate

THINK_START, THINK_END = "<think>", "</think>"
REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True)
class Rendered:
    """A conversation as text; ``spans`` are the ascending character ranges that are trained."""

    text: str
    spans: list[Span]


def render_conversation(
    template: ChatTemplate, messages: Sequence[Message], system_prompt: str | None = None
) -> Rendered:
    """Writes a conversation up to its last assistant's turn, and finds the turns; see `ChatFormat.render`.

    Raises:
        BadRow: no turn of the assistant, or as `render_turns`.
    """
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise BadRow("no assistant turn")
    return render_turns(template, with_system_prompt(list(messages[: turns[-1] + 1]), system_prompt))


def render_turns(template: ChatTemplate, messages: list[Message]) -> Rendered:
    """Writes a conversation that ends with the assistant, and finds its turns.

    Raises:
        BadRow: the template refuses the conversation, or does not write out the last turn or a tool that is called.
    """
    text, blocks = template.apply_marked(messages) if template.marks_generation else (template.apply(messages), [])
    if any(reasoning not in text for reasoning in _reasoning_beside(messages[-1])):
        raise BadRow("the chat template does not write out the reasoning that a message holds beside its content")
    if blocks and _is_written(messages[-1]["content"], text[blocks[-1][0] :]):
        _check_calls(messages[-1], text[blocks[-1][0] :])
        return _marked(template, text, blocks)
    text, last = _last_turn(template, messages, text)
    _check_calls(messages[-1], text[slice(*last)])
    earlier = [index for index, message in enumerate(messages[:-1]) if message["role"] == "assistant"]
    spans = [_earlier_turn(template, messages, index, text) for index in earlier]
    return Rendered(text, [*(span for span in spans if span is not None), last])


def _last_turn(template: ChatTemplate, messages: list[Message], text: str) -> tuple[str, Span]:
    """The span of the last turn, and the text, which is another one where its end or its reasoning was missing."""
    frame, content = template.frame, messages[-1]["content"]
    content_end = len(text) - len(frame.footer)
    start = content_end - len(content)
    if frame.regular and text.endswith(content + frame.footer) and text.endswith(frame.header, 0, start):
        return _with_end(template, text, start)

    prompt = template.apply(messages[:-1], generation_prompt=True)
    opened = frame.opened_thinking
    unopened = prompt.removesuffix(opened)
    if not text.startswith(unopened):
        raise BadRow("the chat template does not begin the answer with its generation prompt")
    if _is_written(content, text[len(unopened) :]):
        return _with_end(template, text, len(prompt if text.startswith(prompt) else unopened))
    if THINK_END not in content:
        raise BadRow("the chat template does not write out what the assistant says")
    return _with_end(template, prompt + _without_opening(content, opened) + frame.footer, len(prompt))


def _with_end(template: ChatTemplate, text: str, start: int) -> tuple[str, Span]:
    """The last turn from ``start`` up to and with its end of turn, which is appended where the template writes none."""
    end_of_turn = template.end_of_turn
    if not template.writes_end:
        text = text.removesuffix(template.frame.footer) + end_of_turn
    place = text.rfind(end_of_turn, start)
    if place < 0:
        raise BadRow("the chat template does not end the assistant's turn")
    return text, (start, place + len(end_of_turn))


def _earlier_turn(template: ChatTemplate, messages: list[Message], index: int, text: str) -> Span | None:
    """The span of an assistant's turn that others follow; None where it cannot be located exactly.

    A template that rewrites earlier turns (drops their reasoning) writes what the model would not say.

    Raises:
        BadRow: it does not write out a tool that is called.
    """
    prompt = template.apply(messages[:index], generation_prompt=True)
    message, start, end_of_turn = messages[index], len(prompt), template.end_of_turn
    content, calls, beside = message["content"], _called(message), _reasoning_beside(message)
    if not text.startswith(prompt):
        return None
    if content and not calls and not beside and text.startswith(content, start):
        return start, _end_after(text, start + len(content), end_of_turn)
    through = template.apply(messages[: index + 1])
    if text.startswith(through):
        place = through.rfind(end_of_turn, start)
        end = place + len(end_of_turn) if place >= 0 else len(through.rstrip())
        _check_calls(message, text[start:end])
    else:  # a template may write calls otherwise at the end of a conversation: what follows says where they end
        with_next = template.apply(messages[: index + 2])
        following = with_next.rfind(messages[index + 1]["content"].strip())
        place = text.find(end_of_turn, start, max(following, 0))
        if not calls or place < 0 or not text.startswith(with_next[:following]):
            return None
        end = place + len(end_of_turn)
    turn = text[start:end]
    whole = _is_written(content, turn) and all(said in turn for said in [*calls, *beside])
    return (start, end) if whole else None


def _marked(template: ChatTemplate, text: str, blocks: list[Span]) -> Rendered:
    """Spans from the template's own ``{% generation %}`` blocks, each up to and with its end of turn."""
    spans = []
    for start, end in blocks:
        body = text[start:end].rstrip()
        ended = body.endswith(template.end_of_turn)
        spans.append((start, start + len(body) if ended else _end_after(text, end, template.end_of_turn)))
    if not template.writes_end:
        text, spans[-1] = _with_end(template, text, spans[-1][0])
    return Rendered(text, spans)


def _end_after(text: str, place: int, end_of_turn: str) -> int:
    """The place after the end of turn that follows ``place``, white space between allowed; else ``place``."""
    token = place
    while token < len(text) and text[token].isspace():
        token += 1
    return token + len(end_of_turn) if text.startswith(end_of_turn, token) else place


def _is_written(content: str, text: str) -> bool:
    """Whether ``text`` holds all of ``content``, give or take white space around the reasoning and the answer."""
    if content.strip() in text:
        return True
    reasoning, thought, answer = content.partition(THINK_END)
    reasoning = reasoning.replace(THINK_START, "", 1).strip() or THINK_END  # of an empty block its end is all there is
    place = text.find(reasoning)
    return bool(thought) and place >= 0 and text.find(answer.strip(), place + len(reasoning)) >= 0


def _without_opening(content: str, opened: str) -> str:
    """``content`` without the ``<think>`` that the generation prompt has written already."""
    bare = content.lstrip()
    if not opened or not bare.startswith(THINK_START):
        return content
    return bare.removeprefix(opened) if bare.startswith(opened) else bare.removeprefix(THINK_START).lstrip("\n")


def _reasoning_beside(message: Message) -> list[str]:
    """The reasoning that a message holds in a field of its own."""
    fields = [message.get(field) for field in REASONING_FIELDS]
    return [reasoning.strip() for reasoning in fields if isinstance(reasoning, str) and reasoning.strip()]


def _called(message: Message) -> list[str]:
    """The names of the functions that a message calls."""
    calls = message.get("tool_calls")
    calls = [call for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []
    functions = [call.get("function") or call for call in calls]
    names = [function.get("name") for function in functions if isinstance(function, Mapping)]
    return [name for name in names if isinstance(name, str)]


def _check_calls(message: Message, turn: str) -> None:
    """Raises BadRow where a call is missing in the turn: the model would learn to say nothing in its place."""
    if any(name not in turn for name in _called(message)):
        raise BadRow("the chat template does not write out the tools that a message calls")
