"""Where the assistant speaks in the text of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
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
        BadRow: the template refuses the conversation or does not write out the last turn.
    """
    text, blocks = template.apply_marked(messages) if template.marks_generation else (template.apply(messages), [])
    beside = [messages[-1].get(field) for field in REASONING_FIELDS]
    if any(isinstance(reasoning, str) and reasoning.strip() not in text for reasoning in beside):
        raise BadRow("the chat template does not write out the reasoning that a message holds beside its content")
    if blocks and _is_written(messages[-1]["content"], text[blocks[-1][0] :]):
        return _marked(template, text, blocks)
    text, last = _last_turn(template, messages, text)
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
    """
    prompt = template.apply(messages[:index], generation_prompt=True)
    start, content = len(prompt), messages[index]["content"]
    if not text.startswith(prompt):
        return None
    if content and text.startswith(content, start):
        return start, _end_after(text, start + len(content), template.end_of_turn)
    through = template.apply(messages[: index + 1])
    if not text.startswith(through) or not _is_written(content, text[start : len(through)]):
        return None
    place = through.rfind(template.end_of_turn, start)
    return start, place + len(template.end_of_turn) if place >= 0 else len(through.rstrip())


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
    reasoning = reasoning.replace(THINK_START, "", 1).strip()
    place = text.find(reasoning)
    return bool(thought) and place >= 0 and text.find(answer.strip(), place + len(reasoning)) >= 0


def _without_opening(content: str, opened: str) -> str:
    """``content`` without the ``<think>`` that the generation prompt has written already."""
    bare = content.lstrip()
    if not opened or not bare.startswith(THINK_START):
        return content
    return bare.removeprefix(opened) if bare.startswith(opened) else bare.removeprefix(THINK_START).lstrip("\n")
