"""Chat templates: where one comes from, and what it writes around an assistant's turn."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from open_r1.data.bad_rows import BadRow
from open_r1.data.columns import Message
from open_r1.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NAMED = {"chatml": CHATML}

OPENED_THINKING = re.compile(r"<think>\s*\Z")
GENERATION_BLOCK = re.compile(r"\{%-?\s*generation\s*-?%\}")

ASKED, REASONED, ANSWERED = "Seven times six?", "Six sevens.", "Forty-two."
"""A short conversation to try a template with; each text must stand out in what is rendered."""

CALLED = {"id": "multiply1", "type": "function", "function": {"name": "multiply", "arguments": '{"by": 6}'}}


@dataclass(frozen=True)
class Frame:
    """What a template writes around the assistant's last turn.

    Attributes:
        header: what the generation prompt adds to a conversation that ends with a user turn.
        footer: what follows the content.
        regular: the turn is header, content, footer, so that it can be found from the end of the text.
        keeps_reasoning: a ``<think>`` block in the content is written out.
    """

    header: str
    footer: str
    regular: bool
    keeps_reasoning: bool

    @property
    def opened_thinking(self) -> str:
        """The end of the header that opens the reasoning, such as ``<think>`` and a newline; empty if it does not."""
        found = OPENED_THINKING.search(self.header)
        return found.group() if found else ""


class ChatTemplate:
    """The template of a tokenizer, with what was learnt from trying it.

    Attributes:
        end_of_turn: the token that ends an assistant's turn.
        writes_end: the template writes it; else it has to be appended.
        marks_generation: the template marks what is trained by ``{% generation %}`` blocks.

    Raises:
        UserError: there is no template, it does not write a question and an answer, or nothing ends a turn.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise UserError(
                f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template: set --chat_template to a "
                f"template's text, the path of a file that holds one, or {' or '.join(NAMED)}"
            )
        self._variables: dict[str, str] = dict(tokenizer.special_tokens_map)
        self.text: str = tokenizer.get_chat_template()
        self.marks_generation = GENERATION_BLOCK.search(self.text) is not None
        self._no_content: str | None = ""
        try:
            self.frame = self._learn_frame()
        except BadRow as error:
            raise UserError(f"{error} (one question and its answer): see --chat_template") from error
        self._no_content = self._learn_no_content()
        added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
        end = _first_token(self.frame.footer, [*added, tokenizer.eos_token])
        self.writes_end = end is not None
        if end is None and tokenizer.eos_token is None:
            raise UserError("neither the chat template nor the tokenizer has an end-of-turn token: set --eos_token")
        self.end_of_turn: str = end if end is not None else tokenizer.eos_token

    def apply(self, messages: list[Message], generation_prompt: bool = False) -> str:
        """The text of ``messages``.

        Raises:
            BadRow: the template refuses them.
        """
        (text,), _ = self._render(messages, add_generation_prompt=generation_prompt)
        return text

    def apply_marked(self, messages: list[Message]) -> tuple[str, list[tuple[int, int]]]:
        """The text of ``messages`` and the character ranges of its ``{% generation %}`` blocks.

        Raises:
            BadRow: the template refuses them.
        """
        (text,), (blocks,) = self._render(messages, return_assistant_tokens_mask=True)
        return text, blocks

    def _render(self, messages: list[Message], **options: bool) -> tuple[list[str], list[list[tuple[int, int]]]]:
        """What the tokenizer's ``apply_chat_template`` calls; no tokenizer is needed, so that this pickles small."""
        said = [{name: value for name, value in message.items() if value is not None} for message in messages]
        for message in said:
            if message.get("tool_calls") and not message["content"]:
                message["content"] = self._no_content
        try:
            return render_jinja_template(conversations=[said], chat_template=self.text, **options, **self._variables)
        except (TemplateError, TypeError) as error:
            raise _refusal(error) from error

    def _learn_no_content(self) -> str | None:
        """What is the content of a message that only calls tools: some templates write calls only beside None."""
        calls = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": "", "tool_calls": [CALLED]}]
        for self._no_content in ("", None):
            with suppress(BadRow):
                if CALLED["function"]["name"] in self.apply(calls):
                    return self._no_content
        return ""

    def _learn_frame(self) -> Frame:
        question = [{"role": "user", "content": ASKED}]
        before, _, footer = self.apply([*question, {"role": "assistant", "content": ANSWERED}]).rpartition(ANSWERED)
        if ASKED not in before:
            raise BadRow("the chat template does not write out what the user and then the assistant say")
        thought = f"<think>\n{REASONED}\n</think>\n\n{ANSWERED}"
        prompt, bare = self.apply(question, generation_prompt=True), self.apply(question)
        return Frame(
            header=prompt.removeprefix(bare),
            footer=footer,
            regular=before == prompt and prompt.startswith(bare) and prompt != bare,
            keeps_reasoning=REASONED in self.apply([*question, {"role": "assistant", "content": thought}]),
        )


def resolve_template(value: str) -> str:
    """The text of a template given as its text, as the path of a file, or by name (``chatml``).

    Raises:
        UserError: it is none of these.
    """
    if value in NAMED:
        return NAMED[value]
    if "{%" in value or "{{" in value:
        return value
    path = Path(value).expanduser()
    if not path.is_file():
        raise UserError(
            f"--chat_template {value!r}: no such file; give its path, the template's text, or {' or '.join(NAMED)}"
        )
    return path.read_text(encoding="utf-8")


def _first_token(text: str, tokens: list[str | None]) -> str | None:
    """Whichever of ``tokens`` comes first in ``text``, the longest at the same place."""
    found = [(text.find(token), -len(token), token) for token in tokens if token and token.strip() and token in text]
    return min(found)[2] if found else None


def _refusal(error: Exception) -> BadRow:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return BadRow(f"the chat template refuses the conversation: {reason}")
