"""Conversations to tokens, with an exact mask of what the assistant has to say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from open_r1.data.bad_rows import BadRow
from open_r1.data.columns import Message, with_system_prompt
from open_r1.data.encoding import Encoder
from open_r1.data.template import ANSWERED, ASKED, NAMED, ChatTemplate, resolve_template
from open_r1.data.turns import Rendered, render_conversation
from open_r1.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoded:
    """A conversation as tokens: ``input_ids`` int32 [T] and ``loss_mask`` uint8 [T], 1 for a token of the assistant."""

    input_ids: np.ndarray
    loss_mask: np.ndarray


class ChatFormat:
    """How conversations are written for one model.

    A turn of the assistant is trained from the end of the generation prompt to its end-of-turn token, as the template
    writes them; its header, and a ``<think>`` that the generation prompt opens, are not. A turn that cannot be located
    exactly, because the template rewrites it when others follow (drops its reasoning, say), is not trained.

    Args:
        tokenizer: a fast tokenizer. It takes over ``chat_template`` and ``eos_token``, so that what is saved with the
            model is what the model was trained with.
        chat_template: text, path of a file, or the name ``chatml``; None keeps the tokenizer's.
        eos_token: the token that ends a text, where the tokenizer names another.
        system_prompt: put first in conversations that have no system message.
        stop_token_ids: further tokens that end a turn, such as those of generation_config.json.

    Attributes:
        template, encoder: what `render` and `encode` do their work with; both can be sent to other processes.
        stop_token_ids: all tokens that end a turn, the one that training teaches first.
        end_of_turn: the token that training teaches to end a turn with.
        notes: sentences to be said once about what this template makes necessary.

    Raises:
        UserError: no fast tokenizer, no template, a template that cannot be used, or a token that is not in the
            vocabulary.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        eos_token: str | None = None,
        system_prompt: str | None = None,
        stop_token_ids: Sequence[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.system_prompt = system_prompt
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(f"{tokenizer.name_or_path}: its tokenizer has no fast version (no tokenizer.json)")
        self.encoder = Encoder(tokenizer.backend_tokenizer)
        if eos_token is not None:
            if eos_token not in tokenizer.get_vocab():
                raise UserError(f"--eos_token {eos_token!r} is not a token of this tokenizer")
            tokenizer.eos_token = eos_token
        if chat_template is not None:
            tokenizer.chat_template = resolve_template(chat_template)
        self.template = ChatTemplate(tokenizer)
        self.end_of_turn = self.template.end_of_turn
        if chat_template in NAMED and not self.template.writes_end:
            raise UserError(f"--chat_template {chat_template}: its end-of-turn token is not a token of this tokenizer")
        taught = tokenizer.convert_tokens_to_ids(self.end_of_turn)
        ends = [taught, tokenizer.eos_token_id, *stop_token_ids]
        self.stop_token_ids: tuple[int, ...] = tuple(dict.fromkeys(index for index in ends if index is not None))
        self.notes = self._notes()

    def render(self, messages: Sequence[Message]) -> Rendered:
        """The text of a conversation, as ``apply_chat_template`` writes it, and the spans to be trained.

        What follows the last turn of the assistant bears no loss and is left out. Where the template would drop the
        reasoning of the last turn, it is written out after the generation prompt, as the model will have to say it.

        Raises:
            BadRow: no turn of the assistant, or the template refuses the conversation or does not write it out.
        """
        return render_conversation(self.template, messages, self.system_prompt)

    def encode(self, rendered: Sequence[Rendered]) -> list[Encoded]:
        """Tokens and masks of rendered conversations."""
        pairs = self.encoder.encode_spans([item.text for item in rendered], [item.spans for item in rendered])
        return [Encoded(ids, mask) for ids, mask in pairs]

    def encode_batch(self, conversations: Sequence[Sequence[Message]]) -> list[Encoded]:
        """Tokens and masks of conversations.

        Raises:
            BadRow: as `render`.
        """
        return self.encode([self.render(messages) for messages in conversations])

    def render_prompt(self, messages: Sequence[Message]) -> str:
        """The text up to where the assistant begins, the generation prompt included.

        Raises:
            BadRow: the template refuses the messages.
        """
        return self.template.apply(with_system_prompt(list(messages), self.system_prompt), generation_prompt=True)

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of `render_prompt`.

        Raises:
            BadRow: the template refuses the messages.
        """
        return self.encoder.encode([self.render_prompt(messages)])[0]

    def check(self) -> None:
        """Encodes a short conversation and makes sure that the end of the turn is in the loss.

        Raises:
            UserError: the template refuses the system prompt, or the model would never learn to stop.
        """
        probe = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}]
        try:
            (encoded,) = self.encode_batch([probe])
        except BadRow as error:
            hint = "leave out --system_prompt" if self.system_prompt is not None else "see --chat_template"
            raise UserError(f"{error}; {hint}") from error
        trained = encoded.input_ids[encoded.loss_mask == 1]
        if not len(trained) or trained[-1] not in self.stop_token_ids:
            raise UserError(
                f"the loss does not end with the end-of-turn token {self.end_of_turn!r}, the model would never stop: "
                "mend the chat template (--chat_template), or name its token with --eos_token"
            )

    def _notes(self) -> list[str]:
        notes = []
        if not self.template.writes_end:
            notes.append(f"The chat template does not end the assistant's turn: {self.end_of_turn!r} is appended.")
        if not self.template.frame.keeps_reasoning:
            notes.append(
                "The chat template drops <think> blocks: the last turn of a conversation is written out in full after "
                "the generation prompt, earlier turns that lost their reasoning are not trained."
            )
        return notes


def stop_ids(of_template: Iterable[int], of_model: int | list[int] | None) -> tuple[int, ...]:
    """The template's end-of-turn tokens and those of generation_config.json, each once."""
    from_model = [] if of_model is None else [of_model] if isinstance(of_model, int) else of_model
    return tuple(dict.fromkeys([*of_template, *from_model]))
