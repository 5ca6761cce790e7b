"""A model that can be asked: its engine, its chat format, where it stops, how much it can hold, and which one it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from open_r1.generation.engine import Engine, SamplingParams

if TYPE_CHECKING:
    from open_r1.data.chat import ChatFormat


class Sampling(Protocol):
    """The settings of sampling that `EvaluateConfig` and `GenerateConfig` share."""

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int


@dataclass(frozen=True)
class ChatModel:
    """Everything needed to ask a model.

    Attributes:
        name: hub id or folder, for people to read.
        fingerprint: of the weights; generations of different weights never mix.
        stop_token_ids: a completion ends after any of these.
        context_length: longest prompt and completion together, in tokens; None where the model does not say.
        opening: what the generation prompt has already written of the answer (``<think>`` and a newline, or nothing).
    """

    name: str
    fingerprint: str
    engine: Engine
    chat: ChatFormat
    tokenizer: Any
    stop_token_ids: tuple[int, ...]
    context_length: int | None
    opening: str = ""

    def encode(self, messages: list[dict[str, str]]) -> tuple[int, ...]:
        """Token ids of a prompt, up to where the assistant begins."""
        return tuple(self.chat.encode_prompt(messages))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of an answer: the opening and the completion, without its stop token."""
        ids = list(token_ids)
        if ids and ids[-1] in self.stop_token_ids:
            ids.pop()
        return self.opening + self.tokenizer.decode(ids, skip_special_tokens=True)

    def prompt_text(self, prompt_ids: Sequence[int]) -> str:
        """Text of an encoded prompt as the model sees it, special tokens included."""
        return self.tokenizer.decode(list(prompt_ids), skip_special_tokens=False)

    def sampling_params(self, config: Sampling) -> SamplingParams:
        """How the model is sampled; an answer that fills the context ends there, whatever ``max_new_tokens``."""
        return SamplingParams(
            config.max_new_tokens, config.temperature, config.top_p, config.top_k, self.stop_token_ids
        )

    def leaves_room(self, prompt_ids: Sequence[int]) -> bool:
        """Whether an answer of at least one token fits after the prompt."""
        return self.context_length is None or len(prompt_ids) < self.context_length
